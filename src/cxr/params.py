"""params.yaml as frozen typed records; one error lists everything that is wrong in the file.

A stage reads the whole file, so that a typing error anywhere is found by the first stage that
runs, and passes on only the keys that it declares in dvc.yaml.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from cxr import paths
from cxr.common.files import read_yaml
from cxr.common.names import TRAINED
from cxr.errors import CxrError

SHORT = Repr()  # of a value in an error, however long or deeply nested it is
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 60, 60

# NumPy and Keras take seeds of 32 bits; the augmentation layers use the next numbers as well.
Seed = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Patience = Annotated[int, Field(ge=0, le=100_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=10)]


def _is_not_empty(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:  # `min_length` counts the valid items only, and reports a second problem
        raise ValueError("List should not be empty")
    return items


# Strict(False): YAML gives a list.
Filters = Annotated[tuple[Count, ...], Strict(False), AfterValidator(_is_not_empty)]
Zooms = Annotated[
    tuple[Annotated[float, Field(ge=0.25, le=4)], ...], Strict(False), AfterValidator(_is_not_empty)
]
Address = Annotated[str, Field(pattern=r"^$|^[a-z]+://.+:\d+$")]  # as tcp://10.0.0.1:8786


def _are_trained(members: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := set(members) - set(TRAINED):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(TRAINED)}")
    return members


def _are_different(members: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(members)) < len(members):
        raise ValueError("Variants should be different")
    return members


Members = Annotated[
    tuple[str, ...],
    Strict(False),
    AfterValidator(_is_not_empty),
    AfterValidator(_are_trained),
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
    patients: Annotated[str, Field(min_length=1)]
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
    input_size: Annotated[int, Field(ge=16, le=2048)]
    resize: Literal["stretch", "crop", "letterbox"]

    @property
    def decode_size(self) -> int:
        """Shorter side, in pixels, of which no more of a JPEG needs to be decoded: the square takes
        nothing from beyond its own resolution.
        """
        return self.input_size


class FitSection(Section):
    """How a network is trained."""

    learning_rate: LearningRate
    schedule: Literal["constant", "cosine"]
    weight_decay: Rate
    ema_decay: Rate
    label_smoothing: Rate
    batch_size: Count
    epochs: Count
    early_stopping: Patience
    class_weights: Literal["balanced", "none"]

    @model_validator(mode="after")
    def _one_set_of_weights_is_kept(self) -> "FitSection":
        if self.early_stopping and self.ema_decay:
            raise ValueError(
                f"early_stopping {self.early_stopping} keeps the weights of one epoch, "
                f"ema_decay {self.ema_decay} their average: set one of them to 0"
            )
        return self


# Where and how work is done, not what comes out of it: no stage of dvc.yaml depends on them.
WITHOUT_RESULT = frozenset({"preprocess.dask_scheduler", "train.resume"})


class PreprocessParams(Section):
    dask_scheduler: Address


class TrainParams(Section):
    strategy: Literal["none", "mirrored", "multihost"]
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
    preprocessing: Literal["imagenet", "none"]
    pooling: Literal["avg", "flatten"]
    inference_backend: Literal["openvino", "tensorflow"]
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
    input_size: Annotated[int, Field(ge=16, le=2048)]
    trainable_from: Annotated[str, Field(min_length=1)]
    n_augmentations: Annotated[int, Field(ge=0, le=100)]
    tta_scales: Zooms
    classes: Literal["pathogen", "label"]
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
    p: Annotated[float, Field(ge=0, le=1)]
    equalize: bool
    downscale: Annotated[float, Field(ge=0, le=0.9)]
    noise: Annotated[float, Field(ge=0, le=100)]
    border: Annotated[float, Field(ge=0, le=0.4)]
    text_overlay: Annotated[int, Field(ge=0, le=50)]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    random_erasing: Annotated[float, Field(ge=0, le=1)]


class EvaluateParams(Section):
    ensemble: Members
    min_recall: Annotated[float, Field(gt=0, le=1)]
    prevalence: Annotated[float, Field(gt=0, lt=1)]
    n_bootstrap: Annotated[int, Field(ge=100, le=20_000)]


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
        side = self.image.input_size
        for _ in self.model.filters:
            side = (side - self.model.kernel_size + 1) // self.model.pool_size
        if side < 1:
            raise ValueError(
                f"image.input_size {self.image.input_size} is too small for "
                f"{len(self.model.filters)} blocks of model.kernel_size "
                f"{self.model.kernel_size} and model.pool_size {self.model.pool_size}"
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

    Raises:
        CxrError: the file cannot be read, or keys are missing, unknown or wrong: one message with a
            line for each of them.
    """
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors(include_url=False)]
        listed = "".join(f"  {line}\n" for line in lines)
        raise CxrError(
            f"{path} has {len(lines)} wrong value(s):\n{listed}"
            f"Its comments explain each key; `git checkout {path}` restores the committed values."
        ) from error


def _line(problem: Mapping[str, Any]) -> str:
    """A problem that pydantic found, with the full name of its key and the value."""
    key = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        close = get_close_matches(key, _keys(Params), n=1)
        message = f"Unknown key, did you mean {close[0]}?" if close else "Unknown key"
    if not isinstance(problem["input"], dict):  # else the problem is not one value
        message += f" (got {SHORT.repr(problem['input'])})"
    return f"{key}: {message}" if key else message


def _keys(section: type[Section], above: str = "") -> list[str]:
    """The full names of a section's keys and of the sections in it."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        found.append(above + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += _keys(kind, f"{above}{name}.")
    return found
