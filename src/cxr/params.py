"""Schema and validation of params.yaml; one error lists all invalid values.

Each stage validates the whole file, so that the first stage that runs finds any mistake, but uses
only the keys that it declares in dvc.yaml.
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

SHORT = Repr()  # of values in errors, which may be long or deeply nested
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 60, 60

# NumPy and Keras take 32-bit seeds; the augmentation layers use seed + 1 and seed + 2 as well.
Seed = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Patience = Annotated[int, Field(ge=0, le=100_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=10)]


def _is_not_empty(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:  # `min_length` counts valid items only and would report a second error
        raise ValueError("List should not be empty")
    return items


# Strict(False) accepts a list, as YAML gives.
Filters = Annotated[tuple[Count, ...], Strict(False), AfterValidator(_is_not_empty)]
Scales = Annotated[
    tuple[Annotated[float, Field(ge=0.25, le=4)], ...], Strict(False), AfterValidator(_is_not_empty)
]
Address = Annotated[str, Field(pattern=r"^$|^[a-z]+://.+:\d+$")]  # such as tcp://10.0.0.1:8786


def _are_different_variants(members: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := set(members) - set(TRAINED):
        raise ValueError(f"Unknown: {', '.join(sorted(unknown))}; allowed: {', '.join(TRAINED)}")
    if len(set(members)) < len(members):
        raise ValueError("Variants should be different")
    return _is_not_empty(members)


Members = Annotated[tuple[str, ...], Strict(False), AfterValidator(_are_different_variants)]


class Section(BaseModel):
    """Immutable section; unknown keys, wrong types and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none_is_empty(cls, section: Any) -> Any:
        """A section without keys is None in YAML: report each of its keys as missing."""
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
        """Minimum shorter side, in pixels, at which a JPEG has to be decoded before resizing."""
        return self.input_size


class FitSection(Section):
    """Optimizer, schedule and regularization of a training."""

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
    def _early_stopping_excludes_ema(self) -> "FitSection":
        if self.early_stopping and self.ema_decay:
            raise ValueError(
                f"early_stopping {self.early_stopping} restores the weights of one epoch, "
                f"ema_decay {self.ema_decay} averages over epochs: set one of them to 0"
            )
        return self


# Keys that do not affect the result: no stage of dvc.yaml depends on them.
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
        available = "phantom" if self.backbone == "tiny" else "imagenet"
        if self.weights not in (available, "none"):
            raise ValueError(
                f"backbone {self.backbone} has no weights {self.weights}: set transfer.weights to "
                f"{available} or none"
            )
        return self


class FinetuneParams(FitSection):
    input_size: Annotated[int, Field(ge=16, le=2048)]
    trainable_from: Annotated[str, Field(min_length=1)]
    n_augmentations: Annotated[int, Field(ge=0, le=100)]
    tta_scales: Scales
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
        size = self.image.input_size
        for _ in self.model.filters:
            size = (size - self.model.kernel_size + 1) // self.model.pool_size
        if size < 1:
            raise ValueError(
                f"image.input_size {self.image.input_size} is too small for "
                f"{len(self.model.filters)} blocks of model.kernel_size "
                f"{self.model.kernel_size} and model.pool_size {self.model.pool_size}"
            )
        return self


def flat(**sections: Section) -> dict[str, Any]:
    """Values of sections by their full keys, such as `{"model.epochs": 6}`."""
    return leaves({name: section.model_dump() for name, section in sections.items()})


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries: values by their full keys, joined by dots."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        key = prefix + name
        values |= leaves(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return values


def read_params(path: Path = paths.PARAMS) -> Params:
    """Read and validate params.yaml.

    Raises:
        CxrError: the file cannot be read, or keys are missing, unknown or invalid; the message has
            a line for each of them.
    """
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [_line(problem) for problem in error.errors(include_url=False)]
        listed = "".join(f"  {line}\n" for line in lines)
        raise CxrError(
            f"{path} has {len(lines)} invalid value(s):\n{listed}"
            f"Its comments explain each key; `git checkout {path}` restores the committed values."
        ) from error


def _line(problem: Mapping[str, Any]) -> str:
    """Error of pydantic as a line with the full key and the value."""
    key = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        close = get_close_matches(key, _keys(Params), n=1)
        message = f"Unknown key, did you mean {close[0]}?" if close else "Unknown key"
    if not isinstance(problem["input"], dict):  # a section has no value to show
        message += f" (got {SHORT.repr(problem['input'])})"
    return f"{key}: {message}" if key else message


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    """Full names of all keys and sections in a section."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            keys += _keys(kind, f"{prefix}{name}.")
    return keys
