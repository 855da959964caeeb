"""Accuracy by subgroup, such as acquisition styles: clusters of radiographs that look alike.

Averages hide subgroups on which a model fails, above all those that are rare in training and
correlated with the label (hidden stratification, Oakden-Rayner 2020; worst groups, Sagawa 2020).
"""

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
# Groups of test images in the reports: title -> kind, class and group.
REPORTED_GROUPS = {
    "NORMAL, other acquisition": ("acquisition", "NORMAL", "other"),
    "NORMAL, the others": ("acquisition", "NORMAL", "usual"),
    "PNEUMONIA, bacteria": ("pathogen", "PNEUMONIA", "bacteria"),
    "PNEUMONIA, virus": ("pathogen", "PNEUMONIA", "virus"),
}

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


def groups_of(
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


def accuracy_by_group(
    predictions: pd.DataFrame, groups: pd.DataFrame, thresholds: dict[str, float]
) -> pd.DataFrame:
    """One row for each split, kind of group, class, group and variant: columns split, kind, label,
    group, images, variant, accuracy. The latter is at the variant's threshold: specificity for
    NORMAL and recall for PNEUMONIA.

    Args:
        predictions: as in data/predictions.csv.
        groups: as `groups_of` returns them.
        thresholds: of each variant, 0 to 1.
    """
    evaluated = predictions[predictions["split"].isin(EVALUATED)]
    table = evaluated.merge(groups, on="path")
    is_positive = table["label"] == "PNEUMONIA"
    for variant, threshold in thresholds.items():
        table[variant] = (table[variant] >= threshold) == is_positive
    by_group = table.groupby(["split", "kind", "label", "group"])
    wide = by_group[list(thresholds)].mean().assign(images=by_group.size()).reset_index()
    names = ["split", "kind", "label", "group", "images"]
    return wide.melt(names, list(thresholds), var_name="variant", value_name="accuracy").round(5)


def reported_groups(groups: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on test in those of `REPORTED_GROUPS` that exist: the title as index, the column
    images, and a column for each variant.

    Args:
        groups: as `accuracy_by_group` returns them.
    """
    test = groups[groups["split"] == "test"].set_index(["kind", "label", "group"])
    rows = {
        title: test.loc[place].set_index("variant")["accuracy"].to_dict()
        | {"images": int(test.loc[place]["images"].iloc[0])}
        for title, place in REPORTED_GROUPS.items()
        if place in test.index
    }
    columns = ["images", *groups["variant"].unique()]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
