"""Typed content of the JSON files in metrics/, and of those of an external evaluation."""

import json
from collections.abc import Iterable
from operator import not_
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from cxr import paths
from cxr.common.files import write_json
from cxr.common.names import VARIANTS
from cxr.errors import CxrError
from cxr.evaluation.calibration import Scale

V = TypeVar("V")


class OtherVersionError(CxrError):
    """A file of results does not have the keys that this code writes."""


def _complete(variants: dict[str, V]) -> dict[str, V]:
    if missing := [name for name in VARIANTS if name not in variants]:
        raise ValueError(f"no variant {', '.join(missing)}")
    return variants


OfEveryVariant = Annotated[dict[str, V], AfterValidator(_complete)]
OMITTED_IF_EMPTY: Any = Field(default={}, exclude_if=not_)


class Record(BaseModel):
    """Base class of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def select(self, names: Iterable[str]) -> dict[str, Any]:
        """Some of the fields by name, in this order."""
        return {name: getattr(self, name) for name in names}


class ByVariant(Record, Generic[V]):
    """Holds one record for each variant; in the file, these are keys beside the other fields."""

    variants: dict[str, V]

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "variants" in content:
            return content
        fields = {name: content[name] for name in content if name in cls.model_fields}
        variants = {name: content[name] for name in content if name not in fields}
        return {"variants": variants, **fields}

    @model_serializer(mode="wrap")
    def _flatten(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = dump(self)
        return {**content.pop("variants"), **content}


class ResultFile(Record):
    """A file that a stage writes.

    Attributes:
        path: relative to the project root.
        stage: writes it.
    """

    path: ClassVar[Path]
    stage: ClassVar[str]

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """Content of the file, by default `cls.path`.

        Raises:
            CxrError: it is missing or damaged.
            OtherVersionError: it has other keys.
        """
        path = path or cls.path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CxrError(f"{path} cannot be read ({error}); {cls._remedy()}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Record from JSON.

        Args:
            text: content of the file.
            source: names the file in errors.

        Raises:
            CxrError: it is no JSON.
            OtherVersionError: it has other keys.
        """
        try:
            return cls.model_validate(json.loads(text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise OtherVersionError(
                f"{source} was produced by a different version ({where}: {first['msg']}); "
                f"{cls._remedy()}"
            ) from error
        except ValueError as error:
            raise CxrError(f"{source} cannot be read ({error}); {cls._remedy()}") from error

    def write(self, path: Path | None = None) -> None:
        """Write the file, by default `cls.path`."""
        write_json(path or self.path, self.model_dump())

    @classmethod
    def _remedy(cls) -> str:
        return f"run `dvc repro {cls.stage}`"


class Accuracy(Record):
    """Accuracy of a trivial classifier, 0 to 1."""

    accuracy: float


class SplitMetrics(Record):
    """Counts and rates at threshold 0.5, ranking and calibration on one set of images."""

    n: int
    accuracy: float
    precision: float
    recall: float
    specificity: float
    f1: float
    tn: int
    fp: int
    fn: int
    tp: int
    roc_auc: float
    average_precision: float
    brier: float
    ece: float


class OperatingRates(Record):
    """Rates at the operating point, 0 to 1; `ppv` and `npv` at `evaluate.prevalence`."""

    accuracy: float
    precision: float
    recall: float
    specificity: float
    ppv: float
    npv: float


class OperatingPoint(Record):
    """Threshold of a variant, chosen on the tuning set, and the rates there."""

    threshold: float
    val: OperatingRates
    test: OperatingRates
    tuning: OperatingRates


class StressMetrics(Record):
    """One condition of the stress-test set; recall and specificity at the operating point."""

    roc_auc: float
    recall: float
    specificity: float


class VariantMetrics(Record):
    """Metrics of one variant.

    Attributes:
        stress: by condition.
        scales: of the ensemble only: Platt scaling of each member.
    """

    val: SplitMetrics
    test: SplitMetrics
    tuning: SplitMetrics
    operating_point: OperatingPoint
    stress: dict[str, StressMetrics]
    scales: dict[str, Scale] = OMITTED_IF_EMPTY


class RatesAtThreshold(OperatingRates):
    """Rates of one set of images at a given threshold."""

    threshold: float


class ExternalVariantMetrics(Record):
    """Metrics of one variant on the images of an external evaluation."""

    at_half: SplitMetrics
    operating_point: RatesAtThreshold


M = TypeVar("M", VariantMetrics, ExternalVariantMetrics)


class WithThresholds(ByVariant[M]):
    """Holds the metrics of each variant at its operating point."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Threshold of each variant at its operating point."""
        return {name: of.operating_point.threshold for name, of in self.variants.items()}


class MajorityMetrics(Record):
    """Of a classifier that predicts PNEUMONIA for every image."""

    val: Accuracy
    test: Accuracy


class Evaluation(WithThresholds[VariantMetrics], ResultFile):
    """metrics/evaluation.json."""

    path = paths.EVALUATION
    stage = "evaluate"

    variants: OfEveryVariant[VariantMetrics]
    majority: MajorityMetrics


class ExternalMetrics(WithThresholds[ExternalVariantMetrics]):
    """metrics.json of an external evaluation; `data` counts its images and patients."""

    majority: Accuracy
    data: dict[str, Any]


class Interval(Record):
    """A value with its 95 % interval; `low` and `high` are None where no resample has a case."""

    value: float
    low: float | None
    high: float | None

    def __neg__(self) -> "Interval":
        low, high = (None if limit is None else 0.0 - limit for limit in (self.high, self.low))
        return Interval(value=0.0 - self.value, low=low, high=high)  # without -0.0


class RateIntervals(Record):
    """Rates at one threshold."""

    accuracy: Interval
    precision: Interval
    recall: Interval
    specificity: Interval
    f1: Interval
    ppv: Interval
    npv: Interval


class VariantIntervals(Record):
    """Metrics of one variant on one set of images."""

    roc_auc: Interval
    average_precision: Interval
    brier: Interval
    at_half: RateIntervals
    operating_point: RateIntervals


class RateDifferences(Record):
    """Differences of rates at one threshold."""

    recall: Interval
    precision: Interval
    accuracy: Interval


class Difference(Record):
    """Paired differences between two variants."""

    at_half: RateDifferences
    operating_point: RateDifferences
    roc_auc: Interval

    def at(self, point: str) -> dict[str, Interval]:
        """Differences at a threshold (`at_half` or `operating_point`), and of the ROC AUC."""
        return {**dict(getattr(self, point)), "roc_auc": self.roc_auc}


class SplitIntervals(Record):
    """Intervals of one set of images.

    Attributes:
        columns: by variant.
        differences: by pair, `b - a`.
        positive_patients: number of patients with a positive image.
        selected: where the thresholds were chosen on these images: number of resamples in which
            the rule of `cxr.reporting.recommendation` selects each variant.
    """

    columns: dict[str, VariantIntervals]
    differences: dict[str, Difference]
    positive_patients: int
    selected: dict[str, int] = OMITTED_IF_EMPTY

    def precision_difference(self, first: str, second: str) -> Interval:
        """Precision of `first` minus that of `second`, each at its operating point."""
        if (stored := self.differences.get(f"{first} - {second}")) is not None:
            return stored.operating_point.precision
        return -self.differences[f"{second} - {first}"].operating_point.precision


class Intervals(ResultFile):
    """metrics/intervals.json."""

    path = paths.INTERVALS
    stage = "intervals"

    val: SplitIntervals
    test: SplitIntervals
    tuning: SplitIntervals

    @model_validator(mode="after")
    def _of_every_variant(self) -> Self:
        for split in (self.val, self.test, self.tuning):
            _complete(split.columns)
        _complete(self.tuning.selected)
        return self


class Shift(ResultFile):
    """metrics/shift.json.

    Attributes:
        domain_auc: by split and class: ROC AUC of a domain classifier against train.
        single_feature_auc: by metadata feature and split: ROC AUC for the label.
    """

    path = paths.SHIFT
    stage = "dataset_shift"

    domain_auc: dict[str, dict[str, float]]
    single_feature_auc: dict[str, dict[str, float]]


class Guards(ResultFile):
    """metrics/guards.json.

    Attributes:
        leaks: number of images by kind of leakage; None where it was not checked.
        single_feature_auc: by metadata feature: ROC AUC for the label of training images.
    """

    path = paths.GUARDS
    stage = "preprocess"

    leaks: dict[str, int | None]
    single_feature_auc: dict[str, float]
