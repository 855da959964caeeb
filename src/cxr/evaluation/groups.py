"""Accuracy by subgroup.

Averages hide subgroups on which a model fails, above all those that are rare in training and
correlated with the label (hidden stratification, Oakden-Rayner 2020; worst groups, Sagawa 2020).
"""

import pandas as pd

from cxr.common.names import EVALUATED

# Groups of test images in the reports: title -> kind, class and group.
REPORTED_GROUPS = {
    "NORMAL, other acquisition": ("acquisition", "NORMAL", "other"),
    "NORMAL, the others": ("acquisition", "NORMAL", "usual"),
    "PNEUMONIA, bacteria": ("pathogen", "PNEUMONIA", "bacteria"),
    "PNEUMONIA, virus": ("pathogen", "PNEUMONIA", "virus"),
}


def accuracy_by_group(
    predictions: pd.DataFrame, groups: pd.DataFrame, thresholds: dict[str, float]
) -> pd.DataFrame:
    """One row for each split, kind of group, class, group and variant: columns split, kind, label,
    group, images, variant, accuracy. The latter is at the variant's threshold: specificity for
    NORMAL and recall for PNEUMONIA.

    Args:
        predictions: as in data/predictions.csv.
        groups: as `subgroups.subgroups_of` and `subgroups.typicality` return them.
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
