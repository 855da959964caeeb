"""Subgroups of the evaluated images, such as acquisition styles: clusters that look alike."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr.common.arrays import evenly_spaced
from cxr.common.names import EVALUATED

SEED = 1
STYLES = 6
COMPONENTS = 32  # of the features, before they are clustered
MAX_IMAGES = 20_000  # images to find styles in: of 2048 features, 160 MB
MOST_ATYPICAL = 0.25  # fraction of a class's test images that counts as most atypical

Rows = NDArray[np.floating[Any]]


def find_styles(train: Rows) -> Pipeline:
    """Clusters of the training images by the frozen backbone's features (N, D).

    k-means on the principal components of standardized features; `.predict` returns the style (0 to
    `STYLES` - 1) of other images. At most `MAX_IMAGES` images are used, evenly spaced.
    """
    train = train[evenly_spaced(len(train), MAX_IMAGES)]
    components = min(COMPONENTS, *train.shape)
    clusters = KMeans(min(STYLES, len(train)), n_init=4, random_state=SEED)
    pca = PCA(components, svd_solver="randomized", random_state=SEED)
    return make_pipeline(StandardScaler(), pca, clusters).fit(train)


def subgroups_of(
    splits: dict[str, pd.DataFrame], features: dict[str, Rows], named: set[str]
) -> pd.DataFrame:
    """The groups that each image of the evaluated splits belongs to.

    Args:
        splits: index of train and of the evaluated splits, with the columns path, patient and
            pathogen (bacteria, virus, none).
        features: of the same splits, (N, D).
        named: file names of the images of another acquisition, as found by visual inspection.

    Returns:
        One row for each image and kind of group, with the columns path, kind, group. Kinds:
        `style`, a cluster of `find_styles`; `pathogen`, bacteria or virus where known; `series`,
        the data set's two series of NORMAL images, `IM-` and `NORMAL2-IM-`, by the patient's name;
        `acquisition`, `other` for the named images and `usual` for the rest.
    """
    found = find_styles(features["train"])
    tables = []
    for name in EVALUATED:
        path, patient, pathogen = (splits[name][c] for c in ("path", "patient", "pathogen"))
        style = pd.Series(found.predict(features[name]), index=path.index).astype(str)
        series = patient.str.extract(r"^((?:NORMAL2-)?IM-)\d+$", expand=False)
        is_named = path.str.rsplit("/", n=1).str[-1].isin(named)
        kinds = {"style": style, "series": series, "pathogen": pathogen.where(pathogen != "none")}
        if is_named.any():
            kinds["acquisition"] = is_named.map({True: "other", False: "usual"})
        tables += [
            pd.DataFrame({"path": path, "kind": kind, "group": group}).dropna()
            for kind, group in kinds.items()
        ]
    return pd.concat(tables, ignore_index=True)


def typicality(unlikeness: pd.DataFrame) -> pd.DataFrame:
    """Subgroups of kind `typicality`: the `most atypical` quarter of each class's test images, and
    the `other` images; columns path, kind, group.

    Args:
        unlikeness: of test images, as `dataset_shift.domain_auc` returns it.
    """
    ordered = unlikeness.sort_values(["unlikeness", "path"], ascending=False)
    by_class = ordered.groupby("label")["path"]
    is_atypical = by_class.cumcount() < (by_class.transform("size") * MOST_ATYPICAL).round()
    group = is_atypical.map({True: "most atypical", False: "other"})
    return pd.DataFrame({"path": ordered["path"], "kind": "typicality", "group": group})
