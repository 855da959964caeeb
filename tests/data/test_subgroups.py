"""Acquisition styles and other subgroups of images."""

import numpy as np
import pandas as pd

from cxr.data import subgroups


def blobs(count, seed=0):
    """Features (N, 5) of two separated styles, and the style of each row."""
    rng = np.random.default_rng(seed)
    style = np.arange(count) % 2
    return rng.normal(0, 0.1, (count, 5)) + 10 * style[:, None], style


def test_similar_images_have_the_same_style():
    features, style = blobs(200)
    others, other_style = blobs(50, seed=1)
    found = subgroups.find_styles(features)
    for rows, truth in ((features, style), (others, other_style)):
        predicted = found.predict(rows)
        assert not set(predicted[truth == 0]) & set(predicted[truth == 1])
    np.testing.assert_array_equal(
        subgroups.find_styles(features).predict(others), found.predict(others)
    )


def test_styles_are_found_in_a_subset_of_many_images(monkeypatch):
    features, style = blobs(200)
    monkeypatch.setattr(subgroups, "MAX_IMAGES", 21)
    found = subgroups.find_styles(features)
    assert found[0].n_samples_seen_ == 21
    predicted = found.predict(features)
    assert not set(predicted[style == 0]) & set(predicted[style == 1])


def test_few_images_have_few_styles():
    assert len(set(subgroups.find_styles(blobs(4)[0]).predict(blobs(4)[0]))) <= 4


def test_groups_are_styles_series_and_pathogens():
    features, _ = blobs(20)
    names = ["IM-0001", "NORMAL2-IM-0002", "person3_virus", "test/NORMAL/own.png"] * 5
    pathogens = ["none", "none", "virus", "bacteria"] * 5
    index = pd.DataFrame({"path": [f"{n}.png" for n in range(20)], "patient": names})
    index["pathogen"] = pathogens
    found = subgroups.subgroups_of(
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


def test_a_quarter_of_each_class_is_most_atypical():
    unlikeness = pd.DataFrame(
        {
            "path": [f"{n}.png" for n in range(16)],
            "label": ["NORMAL"] * 8 + ["PNEUMONIA"] * 8,
            "unlikeness": [0.9, 0.8, *[0.1] * 6, *[0.2] * 6, 0.6, 0.7],
        }
    )
    found = subgroups.typicality(unlikeness.sample(frac=1, random_state=1))
    assert set(found["kind"]) == {"typicality"}
    atypical = found[found["group"] == "most atypical"]
    assert sorted(atypical["path"]) == ["0.png", "1.png", "14.png", "15.png"]
    assert found["group"].value_counts().to_dict() == {"most atypical": 4, "other": 12}


def test_no_image_is_atypical_without_domain_scores():
    empty = pd.DataFrame(columns=["path", "label", "unlikeness"])
    assert subgroups.typicality(empty).empty
