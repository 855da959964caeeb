"""Acquisition styles, and accuracy by subgroup against hand-computed values."""

import numpy as np
import pandas as pd

from cxr.evaluation import groups
from cxr.evaluation.groups import accuracy_by_group


def blobs(count, seed=0):
    """Features (N, 5) of two separated styles, and the style of each row."""
    rng = np.random.default_rng(seed)
    style = np.arange(count) % 2
    return rng.normal(0, 0.1, (count, 5)) + 10 * style[:, None], style


def test_similar_images_have_the_same_style():
    features, style = blobs(200)
    others, other_style = blobs(50, seed=1)
    found = groups.find_styles(features)
    for rows, truth in ((features, style), (others, other_style)):
        predicted = found.predict(rows)
        assert not set(predicted[truth == 0]) & set(predicted[truth == 1])
    np.testing.assert_array_equal(
        groups.find_styles(features).predict(others), found.predict(others)
    )


def test_styles_are_found_in_a_subset_of_many_images(monkeypatch):
    features, style = blobs(200)
    monkeypatch.setattr(groups, "MAX_IMAGES", 21)
    found = groups.find_styles(features)
    assert found[0].n_samples_seen_ == 21
    predicted = found.predict(features)
    assert not set(predicted[style == 0]) & set(predicted[style == 1])


def test_few_images_have_few_styles():
    assert len(set(groups.find_styles(blobs(4)[0]).predict(blobs(4)[0]))) <= 4


def test_groups_are_styles_series_and_pathogens():
    features, _ = blobs(20)
    names = ["IM-0001", "NORMAL2-IM-0002", "person3_virus", "test/NORMAL/own.png"] * 5
    pathogens = ["none", "none", "virus", "bacteria"] * 5
    index = pd.DataFrame({"path": [f"{n}.png" for n in range(20)], "patient": names})
    index["pathogen"] = pathogens
    found = groups.groups_of(
        dict.fromkeys(("train", "val", "test"), index),
        dict.fromkeys(("train", "val", "test"), features),
        {"4.png", "99.png"},
    )
    series = found[found["kind"] == "series"]
    assert series["group"].value_counts().to_dict() == {"IM-": 10, "NORMAL2-IM-": 10}
    pathogen = found[found["kind"] == "pathogen"]
    assert pathogen["group"].value_counts().to_dict() == {"virus": 10, "bacteria": 10}
    acquisition = found[found["kind"] == "acquisition"]
    assert set(acquisition.loc[acquisition["group"] == "other", "path"]) == {"4.png"}
    assert len(found) == 2 * 20 * (1 + 1) + 2 * 20


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
