"""Records of results: what is written is read, and anything else is one error."""

import json
from pathlib import Path
from typing import Any

import pytest

from cxr.common.names import VARIANTS
from cxr.errors import CxrError
from cxr.evaluation.results import (
    Evaluation,
    Guards,
    Intervals,
    OtherVersionError,
    ResultFile,
    Shift,
)
from tests.support import results
from tests.support.results import changed, interval

FILES: list[ResultFile] = [
    results.evaluation(),
    results.intervals(),
    Shift(
        domain_auc={"val": {"NORMAL": 0.5}, "test": {}},
        single_feature_auc={"width": {"train": 0.9, "val": 0.8, "test": 0.7}},
    ),
    Guards(leaks={"patient": None, "dropped": 0}, single_feature_auc={"width": 0.9}),
]


@pytest.mark.parametrize("record", FILES, ids=lambda record: type(record).__name__)
def test_what_is_written_is_read(record: ResultFile, tmp_path: Path) -> None:
    path = tmp_path / record.path.name
    record.write(path)
    assert type(record).read(path) == record


def test_variants_are_keys_of_the_file_beside_the_others() -> None:
    assert list(results.evaluation().model_dump()) == [*VARIANTS, "majority"]


def test_only_the_ensemble_has_scales_and_only_the_tuning_set_selections() -> None:
    scales = {"transfer": {"slope": 1.0, "intercept": 0.0}}
    content = results.evaluation({"ensemble.scales": scales}).model_dump()
    assert [name for name in VARIANTS if "scales" in content[name]] == ["ensemble"]
    splits = results.intervals().model_dump()
    assert [name for name, of in splits.items() if "selected" in of] == ["tuning"]


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        (Evaluation, without(results.evaluation().model_dump(), "transfer"), "no variant transfer"),
        (Evaluation, results.evaluation().model_dump() | {"other": {}}, "variants.other"),
        (Evaluation, without(results.evaluation().model_dump(), "majority"), "majority"),
        (Evaluation, {"baseline": {}}, "variants.baseline"),
        (Evaluation, [], "a valid dictionary"),
        (Intervals, without(results.intervals().model_dump(), "tuning"), "tuning"),
        (Guards, {"leaks": {}, "label_alone": {}}, "single_feature_auc"),
    ],
)
def test_file_of_another_version_is_named_with_its_stage(
    kind: type[ResultFile], content: Any, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    with pytest.raises(OtherVersionError) as caught:
        kind.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} was produced by a different version")
    assert named in message and message.endswith(f"run `dvc repro {kind.stage}`")


def test_intervals_of_every_variant_are_needed() -> None:
    content = results.intervals().model_dump()
    del content["val"]["columns"]["ensemble"]
    with pytest.raises(OtherVersionError, match="ensemble"):
        Intervals.parse(json.dumps(content), "intervals.json")


@pytest.mark.parametrize("content", [None, b"<<<<<<< HEAD", b"", b"\xff"])
def test_damaged_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CxrError, match=r"evaluation\.json cannot be read .* `dvc repro evaluate`"):
        Evaluation.read(path)


def test_difference_of_precision_in_either_order() -> None:
    key = "tuning.differences.augmented - baseline.operating_point.precision"
    found = results.intervals({key: interval(0.1, -0.05, 0.2)}).tuning
    assert found.precision_difference("augmented", "baseline") == interval(0.1, -0.05, 0.2)
    assert found.precision_difference("baseline", "augmented") == interval(-0.1, -0.2, 0.05)


def test_negated_interval() -> None:
    assert -interval(0.1, None, None) == interval(-0.1, None, None)
    assert str((-interval(0.0, 0.0, 0.0)).value) == "0.0"


def test_records_cannot_be_changed_in_place() -> None:
    record = results.evaluation()
    with pytest.raises(ValueError, match="frozen"):
        record.variants["transfer"].operating_point.threshold = 0.1  # type: ignore[misc]
    assert changed(record, {"transfer.test.recall": 0.1}) != record
