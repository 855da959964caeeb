"""Accuracy by subgroup against hand-computed values."""

import pandas as pd

from cxr.evaluation import groups
from cxr.evaluation.groups import accuracy_by_group


def test_accuracy_by_group():
    predictions = pd.DataFrame(
        {
            "path": [*"abcdef", "a"],
            "split": ["val"] * 4 + ["test"] * 2 + ["stress"],
            "label": [
                "NORMAL",
                "NORMAL",
                "PNEUMONIA",
                "PNEUMONIA",
                "NORMAL",
                "PNEUMONIA",
                "NORMAL",
            ],
            "v": [0.1, 0.9, 0.9, 0.2, 0.9, 0.9, 0.9],
        }
    )
    groups = pd.DataFrame({"path": list("abcdef"), "kind": "style", "group": list("001100")})
    found = accuracy_by_group(predictions, groups, {"v": 0.5})
    assert list(found.columns) == [
        *("split", "kind", "label", "group", "images", "variant", "accuracy"),
    ]
    assert set(found["variant"]) == {"v"}
    rows = {(r.split, r.label, r.group): (r.images, r.accuracy) for r in found.itertuples()}
    assert rows == {
        ("val", "NORMAL", "0"): (2, 0.5),
        ("val", "PNEUMONIA", "1"): (2, 0.5),
        ("test", "NORMAL", "0"): (1, 0.0),
        ("test", "PNEUMONIA", "0"): (1, 1.0),
    }


def table_of(*rows):
    names = ["split", "kind", "label", "group", "images", "variant", "accuracy"]
    return pd.DataFrame(rows, columns=names)


def test_reported_groups_are_those_of_test_in_their_order():
    found = groups.reported_groups(
        table_of(
            ("test", "pathogen", "PNEUMONIA", "virus", 148, "a", 0.9),
            ("test", "acquisition", "NORMAL", "other", 66, "a", 0.3),
            ("test", "acquisition", "NORMAL", "other", 66, "b", 0.4),
            ("val", "acquisition", "NORMAL", "usual", 9, "a", 0.5),
            ("test", "style", "NORMAL", "other", 9, "a", 0.6),
            ("test", "pathogen", "PNEUMONIA", "virus", 148, "b", 1.0),
        )
    )
    assert found.index.tolist() == ["NORMAL, other acquisition", "PNEUMONIA, virus"]
    assert found.to_dict("list") == {"images": [66, 148], "a": [0.3, 0.9], "b": [0.4, 1.0]}


def test_another_data_set_has_no_reported_groups():
    found = groups.reported_groups(table_of(("test", "series", "NORMAL", "x", 5, "a", 1.0)))
    assert found.empty
    assert list(found) == ["images", "a"]
