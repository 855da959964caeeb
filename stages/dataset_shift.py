"""Measure dataset shift between splits and shortcuts; find subgroups of images."""

from collections.abc import Mapping

import pandas as pd

from cxr import paths
from cxr.common.arrays import open_rows, open_split
from cxr.common.files import write_csv, write_json
from cxr.common.names import SPLITS
from cxr.data import dataset_shift, shortcuts, subgroups
from cxr.errors import run_stage


def main() -> None:
    splits = {name: open_split(paths.ARRAYS / name) for name in SPLITS}
    features = {name: open_rows(paths.features(name)) for name in SPLITS}
    indexes = {name: split.index for name, split in splits.items()}
    aucs, unlikeness = dataset_shift.domain_auc(splits, features)
    groups = subgroups.subgroups_of(indexes, features, other_acquisition(indexes))
    write_csv(paths.DOMAIN_SCORES, unlikeness)
    write_csv(paths.SUBGROUPS, pd.concat([groups, subgroups.typicality(unlikeness)]))
    single = shortcuts.single_feature_auc(splits)
    write_json(paths.SHIFT, {"domain_auc": aucs, "single_feature_auc": single})


def other_acquisition(splits: Mapping[str, pd.DataFrame]) -> set[str]:
    """File names of the images of another acquisition, as found by visual inspection.

    Empty unless each of them exists exactly once: other data sets use some of the names.

    Args:
        splits: index of each split, with the column path.
    """
    listed = paths.OTHER_ACQUISITION.read_text().split()
    names = pd.concat(list(splits.values()))["path"].str.rsplit("/", n=1).str[-1]
    matches = names[names.isin(listed)]
    if sorted(matches) == sorted(listed):
        return set(listed)
    if len(matches):
        print(
            f"{paths.OTHER_ACQUISITION} not used: {matches.nunique()} of its {len(listed)} images "
            "are present, and each is needed exactly once"
        )
    return set()


if __name__ == "__main__":
    run_stage(main)
