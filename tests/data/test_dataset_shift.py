"""Dataset shift on synthetic data with known shift."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cxr import paths
from cxr.common.arrays import Split
from cxr.data import dataset_shift as dataset_shift_module
from cxr.data.dataset_shift import domain_auc, domain_probabilities
from stages import dataset_shift
from tests.support.synthetic import COUNTS, split_of


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return {name: split_of(name, n, seed) for seed, (name, n) in enumerate(COUNTS.items())}


@pytest.fixture(scope="module")
def features(splits: dict[str, Split]) -> dict[str, NDArray[np.float64]]:
    """Noise; half of the NORMAL test images have another distribution."""
    rng = np.random.default_rng(7)
    rows = {name: rng.normal(size=(n, 30)) for name, n in COUNTS.items()}
    rows["test"][other_acquisition(splits)] += 3
    return rows


def other_acquisition(splits: dict[str, Split]) -> NDArray[np.bool_]:
    normal = splits["test"].index["label"] == "NORMAL"
    return (normal & (np.arange(COUNTS["test"]) < 30)).to_numpy()


def test_the_number_of_compared_images_is_limited(
    splits: dict[str, Split],
    features: dict[str, NDArray[np.float64]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_shift_module, "MAX_IMAGES", 20)
    aucs, table = domain_auc(splits, features)
    assert table["label"].value_counts().to_dict() == {"NORMAL": 20, "PNEUMONIA": 20}
    assert aucs["test"]["NORMAL"] > 0.6 > aucs["test"]["PNEUMONIA"]


def test_the_class_with_shift_is_detected(
    splits: dict[str, Split], features: dict[str, NDArray[np.float64]]
) -> None:
    aucs, table = domain_auc(splits, features)
    assert aucs["test"]["NORMAL"] > 0.7
    for split, label in (("test", "PNEUMONIA"), ("val", "NORMAL"), ("val", "PNEUMONIA")):
        assert 0.3 < aucs[split][label] < 0.7
    assert list(table.columns) == ["path", "label", "unlikeness"]
    assert sorted(table["path"]) == sorted(splits["test"].index["path"])
    is_other = set(splits["test"].index["path"][other_acquisition(splits)])
    normal = table[table["label"] == "NORMAL"].sort_values("unlikeness", ascending=False)
    assert set(normal["path"].head(len(is_other))) == is_other


def test_folds_separate_patients() -> None:
    """Features that only identify the patient do not generalize to other patients."""
    rng = np.random.default_rng(1)
    of_patient = rng.normal(size=(60, 20))
    rows = np.repeat(of_patient, 4, axis=0)
    patients = pd.Series(np.repeat(np.arange(60), 4))
    found = domain_probabilities(rows[:120], rows[120:], patients)
    assert len(found) == 240
    assert abs(found[120:].mean() - found[:120].mean()) < 0.15


def test_wide_features_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_shift_module, "WIDEST", 64)
    rng = np.random.default_rng(2)
    train, other = rng.normal(size=(80, 500)), rng.normal(size=(80, 500)) + 0.5
    found = domain_probabilities(train, other, pd.Series(range(160)))
    assert roc_auc_score(np.repeat([0, 1], 80), found) > 0.8


def test_a_class_of_few_patients_is_omitted(
    splits: dict[str, Split], features: dict[str, NDArray[np.float64]]
) -> None:
    few = splits["val"].index.copy()
    few.loc[few["label"] == "NORMAL", "patient"] = "one"
    changed = splits | {"val": Split(splits["val"].images, few)}
    aucs, _ = domain_auc(changed, features)
    assert set(aucs["val"]) == {"PNEUMONIA"}
    assert set(aucs["test"]) == {"NORMAL", "PNEUMONIA"}


@pytest.mark.parametrize(
    ("change", "matches"),
    [
        (lambda names: names, 66),
        (lambda names: names[1:], 65),
        (lambda names: [*names[1:], names[1]], 65),
        (lambda names: [*names, names[0]], 66),
        (lambda names: [name.replace(".", "_jpeg.rf.1a.") for name in names], 0),
    ],
    ids=["all", "one lacks", "another twice", "one twice", "other names"],
)
def test_listed_images_are_used_only_if_all_of_them_exist(
    change: Callable[[list[str]], list[str]], matches: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of other data sets, such as the demo's, have some of the names."""
    listed = paths.OTHER_ACQUISITION.read_text().split()
    names = change(listed)
    others = ["train/NORMAL/NORMAL2-IM-0022-0001.jpeg", "train/NORMAL/x.png"]
    paths_of = {"train": others, "test": [f"test/NORMAL/{name}" for name in names]}
    found = dataset_shift.other_acquisition(
        {split: pd.DataFrame({"path": files}) for split, files in paths_of.items()}
    )
    assert found == (set(listed) if names == listed else set())
    printed = capsys.readouterr().out
    assert (f"{matches} of its 66 images" in printed) == bool(printed)
    assert ("not used" in printed) == bool(printed) == (names != listed and matches > 0)
