"""Splits: whole patients, stratified by class, reproducible."""

import hashlib
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.common.names import LABELS
from cxr.data.splits import MAX_UNKNOWN_FRACTION, assign, leave_out, sample_groups
from cxr.errors import CxrError
from cxr.params import SplitParams

few = settings(max_examples=20)
# Numbers of images of the patients of one class.
sizes = st.lists(st.integers(1, 6), min_size=20, max_size=60)
fractions = st.floats(0.1, 0.5)


# Numbers of negative and positive images of patients who may have both.
patients = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any), min_size=1, max_size=30
)


def params(**changes: Any) -> SplitParams:
    return SplitParams(
        **{"val_fraction": 0.2, "group_by": "patient", "test": "official", "test_fraction": 0.2}
        | {"seed": 1}
        | changes
    )


def table(negative: list[int], positive: list[int], split: str = "train") -> pd.DataFrame:
    """One patient for each number, with that many images."""
    rows = [
        {"path": f"{split}/{label}/{p}-{i}", "split": split, "label": label}
        | {"patient": f"{split}-{label}-{p}"}
        for label, counts in zip(LABELS, (negative, positive), strict=True)
        for p, count in enumerate(counts)
        for i in range(count)
    ]
    return pd.DataFrame(rows)


def official(negative: list[int], positive: list[int], test: int = 5, val: int = 0) -> pd.DataFrame:
    parts = [table(negative, positive), table([2] * test, [2] * test, "test")]
    parts += [table([2] * val, [2] * val, "val")] if val else []
    return pd.concat(parts, ignore_index=True)


PLAIN = official([1, 2, 3] * 10, [2, 1, 4] * 20, val=4)


@pytest.mark.parametrize("group_by", ["patient", "image"])
@pytest.mark.parametrize("beyond", [0, 1])
def test_too_many_unknown_patients_prevent_a_split_by_patient(group_by: str, beyond: int) -> None:
    """An unknown patient is named by the path of the image."""
    manifest = PLAIN.copy()
    unknown = int(MAX_UNKNOWN_FRACTION * len(manifest)) + beyond
    assert unknown > beyond
    manifest.loc[manifest.index[-unknown:], "patient"] = manifest["path"]
    if group_by == "image" or not beyond:
        assert len(assign(manifest, params(group_by=group_by))) == len(manifest)
        return
    with pytest.raises(CxrError, match=f"{unknown} of {len(manifest)} images") as caught:
        assign(manifest, params())
    first = manifest["path"].iloc[-unknown]
    for words in (first, "(allowed: 1%)", "data.patients", "split.group_by to image"):
        assert words in str(caught.value)


def by_path(manifest: pd.DataFrame, assigned: pd.Series) -> dict[str, str]:
    return dict(zip(manifest["path"], assigned, strict=True))


def of_patients(counts: list[tuple[int, int]]) -> pd.DataFrame:
    """One patient for each pair of numbers of negative and positive images."""
    rows = [
        {"patient": f"p{number}", "label": label}
        for number, pair in enumerate(counts)
        for label, count in zip(LABELS, pair, strict=True)
        for _ in range(count)
    ]
    return pd.DataFrame(rows)


def sampled_sequentially(counts: list[tuple[int, int]], fraction: float, key: str) -> set[str]:
    """Sequential form of `sample_groups`: in hash order, while at least half of a patient fits."""
    sampled = set()
    for is_positive in (False, True):
        numbers = [
            number
            for number, (_, n_positive) in enumerate(counts)
            if bool(n_positive) == is_positive
        ]
        target = fraction * sum(sum(counts[number]) for number in numbers)
        taken = 0
        for number in sorted(
            numbers, key=lambda n: hashlib.sha256(f"{key}:p{n}".encode()).hexdigest()
        ):
            size = sum(counts[number])
            if taken + size / 2 > target:
                break
            taken += size
            sampled.add(f"p{number}")
    return sampled


@settings(max_examples=60)
@given(
    patients,
    st.floats(0, 1) | st.sampled_from([0.25, 0.5, 0.75]),  # just half of a patient fits
    st.text("ab", max_size=3),
)
def test_sample_groups_equals_the_sequential_rule(
    counts: list[tuple[int, int]], fraction: float, key: str
) -> None:
    manifest = of_patients(counts)
    sampled = sample_groups(manifest["patient"], manifest["label"], fraction, key)
    assert sampled.dtype == bool
    assert set(manifest["patient"][sampled]) == sampled_sequentially(counts, fraction, key)
    assert not set(manifest["patient"][sampled]) & set(manifest["patient"][~sampled])


@few
@given(
    *(sizes, sizes, st.sampled_from(["official", "redrawn"]), fractions, fractions),
    st.integers(0, 9),
)
def test_whole_patients_in_each_split_with_a_fraction_of_each_class(
    negative: list[int],
    positive: list[int],
    test: str,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> None:
    manifest = official(negative, positive)
    chosen = params(test=test, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assigned = assign(manifest, chosen)
    assert set(assigned) == {"train", "val", "test"}
    assert assigned.groupby(manifest["patient"]).nunique().max() == 1
    for label in LABELS:
        of_label = assigned[manifest["label"] == label]
        half_a_patient = manifest[manifest["label"] == label].value_counts("patient").max() / 2
        pool = of_label[of_label != "test"]
        assert abs((pool == "val").sum() - val_fraction * len(pool)) <= half_a_patient + 1e-9
        if test == "redrawn":
            found = (of_label == "test").sum()
            assert abs(found - test_fraction * len(of_label)) <= half_a_patient + 1e-9


def test_validation_is_a_fraction_of_the_pool_and_test_of_all() -> None:
    manifest = official([1] * 200, [1] * 400, test=100)
    counts = pd.crosstab(assign(manifest, params(val_fraction=0.25)), manifest["label"])
    assert counts.loc["val"].to_dict() == {"NORMAL": 50, "PNEUMONIA": 100}
    assert counts.loc["test"].to_dict() == {"NORMAL": 200, "PNEUMONIA": 200}
    redrawn = assign(manifest, params(test="redrawn", test_fraction=0.1, val_fraction=0.25))
    counts = pd.crosstab(redrawn, manifest["label"])
    assert counts.loc["test"].sum() == pytest.approx(100, abs=2)
    assert counts.loc["val"].sum() == pytest.approx(0.25 * 900, abs=3)


@pytest.mark.parametrize("test", ["official", "redrawn"])
@pytest.mark.parametrize("group_by", ["patient", "image"])
def test_same_seed_same_split(test: str, group_by: str) -> None:
    first, again, other = (
        assign(PLAIN, params(test=test, group_by=group_by, seed=seed)) for seed in (1, 1, 2)
    )
    assert first.equals(again)
    assert (first == "val").sum() > 0
    assert set(PLAIN["path"][first == "val"]) != set(PLAIN["path"][other == "val"])
    same_test = set(PLAIN["path"][first == "test"]) == set(PLAIN["path"][other == "test"])
    assert same_test == (test == "official")


def test_the_sample_is_stable_across_platforms_and_versions() -> None:
    """Another order of patients would silently change every published number."""
    names = pd.Series([f"p{number}" for number in range(12)], name="patient")
    labels = pd.Series(["NORMAL", "PNEUMONIA"] * 6)
    assert set(names[sample_groups(names, labels, 0.34, "val-1")]) == {"p4", "p6", "p9", "p11"}


@few
@given(st.randoms(use_true_random=False), st.sampled_from(["official", "redrawn"]))
def test_order_of_rows_does_not_matter(random: Any, test: str) -> None:
    order = list(range(len(PLAIN)))
    random.shuffle(order)
    shuffled = PLAIN.iloc[order]
    found = assign(shuffled, params(test=test))
    assert found.name == "split"
    assert found.index.equals(shuffled.index)
    assert by_path(shuffled, found) == by_path(PLAIN, assign(PLAIN, params(test=test)))


@few
@given(sizes, st.lists(st.integers(0, 3), min_size=60, max_size=60), st.data())
def test_new_images_move_few_old_patients_in_one_direction(
    old: list[int], more: list[int], data: st.DataObject
) -> None:
    """Images added to old and new patients: only the last of the sampled groups change."""
    fraction, seed = data.draw(fractions), data.draw(st.integers(0, 9))
    grown = [count + extra for count, extra in zip([*old, *[0] * 60], more, strict=False)]
    before, after = (
        dict(
            zip(
                t["patient"],
                sample_groups(t["patient"], t["label"], fraction, str(seed)),
                strict=True,
            )
        )
        for t in (table(counts, []) for counts in (old, grown))
    )
    moved = {name: after[name] for name in before if before[name] != after[name]}
    assert len(set(moved.values())) <= 1
    images = sum(old[int(name.rsplit("-")[-1])] for name in moved)
    assert images <= sum(grown) - sum(old) + (max(old) + max(grown)) / 2


@few
@given(st.sets(st.sampled_from(PLAIN["path"].tolist()), max_size=20))
def test_leaving_images_out_moves_no_other(paths: set[str]) -> None:
    assigned = assign(PLAIN, params())
    images, left = leave_out(pd.Series(sorted(paths), dtype=str), PLAIN, assigned, params())
    assert set(images["path"]) == set(PLAIN["path"]) - paths
    pd.testing.assert_frame_equal(images, PLAIN.loc[images.index])
    pd.testing.assert_series_equal(left, assigned[images.index])


def test_every_class_must_remain() -> None:
    assigned = assign(PLAIN, params())
    images = PLAIN["path"][(assigned == "val") & (PLAIN["label"] == "NORMAL")]
    with pytest.raises(CxrError, match="no image for val/NORMAL"):
        leave_out(images, PLAIN, assigned, params())


def test_larger_test_split_leaves_most_of_validation_in_place() -> None:
    """With the same order for both, validation would be the groups that follow test."""
    manifest = table([1] * 100, [1] * 100)
    settings_of = [params(test="redrawn", test_fraction=fraction) for fraction in (0.1, 0.2)]
    first, second = (set(manifest.index[assign(manifest, p) == "val"]) for p in settings_of)
    assert len(first & second) > len(second) / 2


def test_images_may_be_sampled_individually() -> None:
    manifest = official([30, 30], [30, 30])
    assigned = assign(manifest, params(group_by="image"))
    pool = assigned[manifest["split"] == "train"]
    assert (pool == "val").sum() == pytest.approx(0.2 * len(pool), abs=1)
    assert (pool.groupby(manifest["patient"]).nunique() == 2).any()


def test_official_test_is_kept_exactly() -> None:
    for seed in range(5):
        assigned = assign(PLAIN, params(seed=seed))
        assert ((assigned == "test") == (PLAIN["split"] == "test")).all()


def test_validation_images_of_the_data_set_go_into_the_pool() -> None:
    published = PLAIN["split"] == "val"
    found = [assign(PLAIN, params(seed=seed))[published] for seed in range(5)]
    assert all((part == "train").any() for part in found)
    assert any((part == "val").any() for part in found)
    as_train = PLAIN.assign(split=PLAIN["split"].replace("val", "train"))
    assert assign(PLAIN, params()).equals(assign(as_train, params()))


def test_redrawn_test_takes_from_all_images_whatever_their_split() -> None:
    assigned = assign(PLAIN, params(test="redrawn"))
    assert set(PLAIN["split"][assigned == "test"]) == {"train", "val", "test"}
    assert set(assigned[PLAIN["split"] == "test"]) == {"train", "val", "test"}
    assert (assigned == "test").mean() == pytest.approx(0.2, abs=0.03)
    nowhere = PLAIN.assign(split="train")
    assert assign(nowhere, params(test="redrawn")).equals(assigned)


@pytest.mark.parametrize(
    ("manifest", "changes", "lacking"),
    [
        (official([1], [1] * 30), {}, "val/NORMAL"),
        (official([1] * 30, []), {}, "train/PNEUMONIA, val/PNEUMONIA"),
        (table([1] * 30, [1] * 30), {}, "test/NORMAL, test/PNEUMONIA"),
        (
            table([40], [40]),
            {"test": "redrawn"},
            "val/NORMAL, test/NORMAL, val/PNEUMONIA, test/PNEUMONIA",
        ),
    ],
)
def test_split_without_a_class(
    manifest: pd.DataFrame, changes: dict[str, Any], lacking: str
) -> None:
    with pytest.raises(CxrError, match=f"no image for {lacking}\\. "):
        assign(manifest, params(**changes))


def test_the_error_shows_the_counts() -> None:
    """NORMAL and PNEUMONIA of train, val and test, those without any included."""
    with pytest.raises(CxrError) as caught:
        assign(official([1] * 30, []), params(val_fraction=0.1))
    train, val, test = str(caught.value).splitlines()[-3:]
    assert train.split() == ["train", "27", "0"]
    assert val.split() == ["val", "3", "0"]
    assert test.split() == ["test", "10", "10"]
