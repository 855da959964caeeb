"""Measure dataset shift between splits, shortcuts, and accuracy by subgroup."""

from collections.abc import Mapping

import pandas as pd

from cxr import paths
from cxr.common.arrays import open_rows, open_split
from cxr.common.files import write_csv
from cxr.common.names import SPLITS, VARIANTS
from cxr.data import shortcuts
from cxr.errors import run_stage
from cxr.evaluation import dataset_shift
from cxr.evaluation.groups import accuracy_by_group, groups_of
from cxr.evaluation.results import Evaluation, Shift


def main() -> None:
    splits = {name: open_split(paths.ARRAYS / name) for name in SPLITS}
    features = {name: open_rows(paths.features(name)) for name in SPLITS}
    aucs, unlike = dataset_shift.domain_auc(splits, features)
    predictions = pd.read_csv(paths.PREDICTIONS)
    thresholds = Evaluation.read().thresholds
    indexes = {name: split.index for name, split in splits.items()}
    groups = groups_of(indexes, features, other_acquisition(indexes))
    write_csv(paths.DOMAIN_SCORES, unlike)
    write_csv(paths.GROUPS, accuracy_by_group(predictions, groups, thresholds))
    Shift(
        domain_auc=aucs,
        most_atypical_test_images=dataset_shift.on_most_atypical(unlike, predictions, VARIANTS),
        single_feature_auc=shortcuts.single_feature_auc(splits),
    ).write()


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
