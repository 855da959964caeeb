"""params.yaml as frozen typed records: what is wrong in the file is told in one error.

A stage reads the whole file, so that a typing error anywhere is found by the first stage that
runs, and passes on only the keys that it declares in dvc.yaml.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from cxr import paths
from cxr.errors import CxrError

# NumPy and Keras take seeds of 32 bits; the augmentation layers use the next numbers as well.
Seed = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Patience = Annotated[int, Field(ge=0, le=100_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=10)]


def _is_not_empty(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("it is empty")
    return items


# Strict(False): YAML gives a list.
Filters = Annotated[tuple[Count, ...], Strict(False), AfterValidator(_is_not_empty)]
Zooms = Annotated[
    tuple[Annotated[float, Field(ge=0.25, le=4)], ...], Strict(False), AfterValidator(_is_not_empty)
]
Address = Annotated[
    str,
    Field(pattern=r"^$|^[a-z]+://.+:\d+$", description='"" or an address, as tcp://10.0.0.1:8786'),
]


def _are_different(members: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(members)) < len(members):
        raise ValueError("one is named twice")
    return members


Members = Annotated[
    tuple[Literal["baseline", "augmented", "transfer", "finetuned"], ...],
    Strict(False),
    AfterValidator(_is_not_empty),
    AfterValidator(_are_different),
]


class Section(BaseModel):
    """Immutable; unknown keys, wrong types and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_no_key(cls, section: Any) -> Any:
        """A section without any key is None in YAML: each of its keys is missing."""
        return {} if section is None else section


class PhantomParams(Section):
    patients: Annotated[int, Field(ge=8, le=100_000)]
    seed: Seed
    short_side: Annotated[int, Field(ge=32, le=4096)]
    shortcut: Literal["none", "device"]


class DataParams(Section):
    source: Literal["kaggle", "mendeley", "directory", "phantom"]
    directory: str
    patients: Annotated[str, Field(min_length=1, description="path of a CSV, not empty")]
    on_bad_image: Literal["error", "skip"]
    on_unplaced: Literal["error", "skip"]
    on_leak: Literal["error", "warn", "drop"]
    on_shortcut: Literal["error", "warn"]
    phantom: PhantomParams


class SplitParams(Section):
    val_fraction: Annotated[float, Field(gt=0, le=0.5)]
    group_by: Literal["patient", "image"]
    test: Literal["official", "redrawn"]
    test_fraction: Annotated[float, Field(gt=0, le=0.5)]
    seed: Seed


class ImageParams(Section):
    size: Annotated[int, Field(ge=16, le=2048)]
    resize: Literal["squash", "crop", "pad"]

    @property
    def decode_size(self) -> int:
        """Shorter side, in pixels, of which no more of a JPEG needs to be decoded: the square takes
        nothing from beyond its own resolution.
        """
        return self.size


class FitSection(Section):
    """How a network is trained."""

    learning_rate: LearningRate
    schedule: Literal["constant", "cosine"]
    weight_decay: Rate
    weight_average: Rate
    label_smoothing: Rate
    batch_size: Count
    epochs: Count
    early_stopping: Patience
    class_weights: Literal["balanced", "none"]

    @model_validator(mode="after")
    def _one_set_of_weights_is_kept(self) -> "FitSection":
        if self.early_stopping and self.weight_average:
            raise ValueError(
                f"early_stopping {self.early_stopping} keeps the weights of one epoch, "
                f"weight_average {self.weight_average} their average: set one of them to 0"
            )
        return self


# Where and how work is done, not what comes out of it: no stage of dvc.yaml depends on them.
WITHOUT_RESULT = frozenset({"preprocess.scheduler", "train.resume"})


class PreprocessParams(Section):
    scheduler: Address


class TrainParams(Section):
    distribution: Literal["none", "mirrored", "multihost"]
    resume: bool


class ModelParams(FitSection):
    filters: Filters
    kernel_size: Annotated[int, Field(ge=1, le=15)]
    pool_size: Annotated[int, Field(ge=1, le=8)]
    batch_norm: bool
    pooling: Literal["flatten", "avg"]
    conv_dropout: Rate
    dense_units: Count
    dense_dropout: Rate


class AugmentParams(Section):
    flip: Literal["horizontal", "vertical", "horizontal_and_vertical", "none"]
    rotation: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Annotated[float, Field(ge=0, lt=1)]


class TransferParams(FitSection):
    backbone: Literal[
        "xception",
        "resnet50v2",
        "densenet121",
        "mobilenetv2",
        "efficientnetv2b0",
        "convnexttiny",
        "tiny",
    ]
    weights: Literal["imagenet", "phantom", "none"]
    scaling: Literal["backbone", "none"]
    pooling: Literal["avg", "flatten"]
    engine: Literal["openvino", "tensorflow"]
    dense_units: Count
    dropout: Rate

    @model_validator(mode="after")
    def _weights_exist(self) -> "TransferParams":
        missing, there = (
            ("imagenet", "phantom")
            if self.backbone == "tiny"
            else (
                "phantom",
                "imagenet",
            )
        )
        if self.weights == missing:
            raise ValueError(
                f"backbone {self.backbone} has no weights {missing}: set transfer.weights to "
                f"{there} or none"
            )
        return self


class FinetuneParams(FitSection):
    side: Annotated[int, Field(ge=16, le=2048)]
    from_layer: Annotated[str, Field(min_length=1, description="text, not empty")]
    copies: Annotated[int, Field(ge=0, le=100)]
    zooms: Zooms
    targets: Literal["pathogen", "label"]
    dropout: Rate


class PerturbParams(Section):
    flip: bool
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Annotated[float, Field(ge=0, le=1)]
    aspect: Annotated[float, Field(ge=0, le=1)]
    gamma: Annotated[float, Field(ge=0, le=4)]
    contrast: Annotated[float, Field(ge=0, le=4)]
    brightness: Annotated[float, Field(ge=0, le=0.5)]
    probability: Annotated[float, Field(ge=0, le=1)]
    equalise: bool
    coarsen: Annotated[float, Field(ge=0, le=0.9)]
    noise: Annotated[float, Field(ge=0, le=100)]
    frame: Annotated[float, Field(ge=0, le=0.4)]
    markers: Annotated[int, Field(ge=0, le=50)]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    cut_out: Annotated[float, Field(ge=0, le=1)]


class EvaluateParams(Section):
    ensemble: Members
    min_recall: Annotated[float, Field(gt=0, le=1)]
    prevalence: Annotated[float, Field(gt=0, lt=1)]
    resamples: Annotated[int, Field(ge=100, le=20_000)]


class Params(Section):
    seed: Seed
    data: DataParams
    split: SplitParams
    image: ImageParams
    preprocess: PreprocessParams
    train: TrainParams
    model: ModelParams
    augment: AugmentParams
    transfer: TransferParams
    finetune: FinetuneParams
    perturb: PerturbParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _image_survives_pooling(self) -> "Params":
        side = self.image.size
        for _ in self.model.filters:
            side = (side - self.model.kernel_size + 1) // self.model.pool_size
        if side < 1:
            raise ValueError(
                f"image.size {self.image.size} is too small for {len(self.model.filters)} blocks "
                f"of model.kernel_size {self.model.kernel_size} and "
                f"model.pool_size {self.model.pool_size}"
            )
        return self


def flat(**sections: Section) -> dict[str, Any]:
    """All keys of the sections by their full names: `{"model.epochs": 6}`."""
    return leaves({name: section.model_dump() for name, section in sections.items()})


def leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested sections by their full names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = above + name
        found |= leaves(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def read_params(path: Path = paths.PARAMS) -> Params:
    """Read and check params.yaml.

    Read as YAML 1.2, where `1e-05` is a number: `dvc exp run -S` writes small numbers so.

    Raises:
        CxrError: one message with every missing, unknown or wrong key, its value and what is
            allowed.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except Exception as error:  # ruamel's parser raises nearly anything on damaged files
        raise CxrError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CxrError(f"{path} holds no keys; `git checkout {path}` brings the file back")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise CxrError(_explain(path, error)) from error


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"  {_what_is_wrong(problem)}" for problem in error.errors(include_url=False)]
    return "\n".join([f"{path} has {len(lines)} wrong value(s):", *lines])


def _what_is_wrong(problem: Mapping[str, Any]) -> str:
    """One line: the key, its value and what is allowed."""
    place, kind, value = problem["loc"], problem["type"], _as_typed(problem["input"])
    key, field = ".".join(map(str, place)), _field(place)
    if field is None:
        given = f" with the value {value}" if kind == "extra_forbidden" else ""
        return f"{key}: unknown key{given}; there are {_keys(_field(place[:-1]))}"
    if kind == "missing":
        return f"{key}: this key is missing; it should be {_allowed(field)}"
    reason = str(problem["ctx"]["error"]) if kind == "value_error" else ""
    if reason and _section(field):  # about several of its keys
        return ": ".join(filter(None, [key, reason]))
    return f"{key}: {value} should be {_allowed(field)}" + f" ({reason})" * bool(reason)


def _as_typed(value: Any) -> str:
    """A value as it stands in YAML, where no value is `null` and `none` is a word."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _field(place: tuple[int | str, ...]) -> FieldInfo | None:
    """The field at a place, such as `("model", "filters", 0)`; None where there is none."""
    field = FieldInfo.from_annotation(Params)
    for part in place:
        if (section := _section(field)) is None:
            field = _item(field)
        elif part in section.model_fields:
            field = section.model_fields[str(part)]
        else:
            return None
    return field


def _section(field: FieldInfo | None) -> type[Section] | None:
    kind = field and field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _keys(field: FieldInfo | None) -> str:
    section = _section(field)
    return ", ".join(section.model_fields) if section else "none"


def _item(field: FieldInfo) -> FieldInfo:
    """What each item of a list is."""
    return FieldInfo.from_annotation(get_args(field.annotation)[0])


def _allowed(field: FieldInfo) -> str:
    """What a key may hold, in words."""
    if field.description:
        return field.description
    if _section(field):
        return f"a section with the keys {_keys(field)}"
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list of one or more, each {_allowed(_item(field))}"
    words = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}
    ends = {"ge": "from", "gt": "from above", "le": "to", "lt": "to below"}
    said = [
        f" {word} {getattr(bound, end)}"
        for bound in field.metadata
        for end, word in ends.items()
        if hasattr(bound, end)
    ]
    return words[kind] + "".join(said)
