"""params.yaml as frozen typed records: what is wrong in the file is told in one error.

A stage reads the whole file, so that a typing error anywhere is found by the first stage that
runs, and passes on only the keys that it declares in dvc.yaml.
"""

from pathlib import Path
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
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cxr import paths
from cxr.errors import CxrError

# NumPy and Keras take seeds of 32 bits; the augmentation layers use the next numbers as well.
Seed = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Patience = Annotated[int, Field(ge=0, le=100_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
ClassWeights = Literal["balanced", "none"]


def _has_a_block(filters: tuple[int, ...]) -> tuple[int, ...]:
    if not filters:
        raise ValueError("model.filters: [] has no convolution block; give at least one number")
    return filters


# Strict(False): YAML gives a list.
Filters = Annotated[tuple[Count, ...], Strict(False), AfterValidator(_has_a_block)]


def _has_a_view(zooms: tuple[float, ...]) -> tuple[float, ...]:
    if not zooms:
        raise ValueError("finetune.zooms: [] gives no view of an image; give at least [1]")
    return zooms


Zooms = Annotated[
    tuple[Annotated[float, Field(ge=0.25, le=4)], ...], Strict(False), AfterValidator(_has_a_view)
]


def _are_different(members: tuple[str, ...]) -> tuple[str, ...]:
    if not members or len(set(members)) < len(members):
        raise ValueError(f"evaluate.ensemble: {list(members)} should be one or more, each once")
    return members


Members = Annotated[
    tuple[Literal["baseline", "augmented", "transfer", "finetuned"], ...],
    Strict(False),
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


class DataParams(Section):
    source: Literal["kaggle", "mendeley", "directory", "phantom"]
    directory: str
    on_bad_image: Literal["error", "skip"]
    phantom: PhantomParams


class SplitParams(Section):
    val_fraction: Annotated[float, Field(gt=0, le=0.5)]
    group_by: Literal["patient", "image"]
    test: Literal["official", "redrawn"]
    test_fraction: Annotated[float, Field(gt=0, le=0.5)]
    seed: Seed
    val_series: str


class ImageParams(Section):
    size: Annotated[int, Field(ge=16, le=2048)]
    trim: bool
    region: Literal["whole", "lungs"]
    resize: Literal["squash", "crop", "pad"]
    intensity: Literal["as_is", "equalise", "clahe"]


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

    @model_validator(mode="after")
    def _one_set_of_weights_is_kept(self) -> "FitSection":
        if self.early_stopping and self.weight_average:
            raise ValueError(
                "early_stopping keeps the weights of one epoch, weight_average their average: "
                "set one of them to 0"
            )
        return self


# Where and how work is done, not what comes out of it: no stage of dvc.yaml depends on them.
WITHOUT_RESULT = frozenset({"preprocess.scheduler", "train.resume"})


class PreprocessParams(Section):
    scheduler: Annotated[str, Field(pattern=r"^$|^[a-z]+://.+:\d+$")]


class TrainParams(Section):
    distribution: Literal["none", "mirrored", "multihost"]
    resume: bool


class ModelParams(FitSection):
    filters: Filters
    kernel_size: Annotated[int, Field(ge=1, le=15)]
    pool_size: Annotated[int, Field(ge=1, le=8)]
    batch_norm: bool
    residual: bool
    pooling: Literal["flatten", "avg"]
    conv_dropout: Rate
    dense_units: Count
    dense_dropout: Rate
    class_weights: ClassWeights


class AugmentParams(Section):
    flip: Literal["horizontal", "vertical", "horizontal_and_vertical", "none"]
    rotation: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Annotated[float, Field(ge=0, lt=1)]


class TransferParams(FitSection):
    backbone: Literal[
        "xception",
        "resnet50",
        "resnet50v2",
        "inceptionv3",
        "densenet121",
        "mobilenetv2",
        "efficientnetb0",
        "efficientnetv2b0",
        "convnexttiny",
        "vgg16",
    ]
    weights: Literal["imagenet", "none"]
    scaling: Literal["backbone", "none"]
    pooling: Literal["avg", "flatten"]
    engine: Literal["openvino", "tensorflow"]
    dense_units: Count
    dropout: Rate
    class_weights: ClassWeights


class FinetuneParams(FitSection):
    side: Annotated[int, Field(ge=16, le=2048)]
    from_layer: Annotated[str, Field(min_length=1)]
    copies: Annotated[int, Field(ge=0, le=100)]
    zooms: Zooms
    targets: Literal["pathogen", "label"]
    dropout: Rate
    class_weights: Literal["balanced", "styles", "none"]
    early_stopping_by: Literal["val_loss", "worst_group"]


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
    mirrored: bool
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
        lost = 0 if self.model.residual else self.model.kernel_size - 1  # by a convolution
        for _ in self.model.filters:
            side = (side - lost) // self.model.pool_size
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
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        raise CxrError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CxrError(f"{path} holds no keys; `git checkout {path}` brings the file back")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise CxrError(_explain(path, error)) from error


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        match problem["type"]:
            case "missing":
                lines.append(f"  {key}: this key is missing")
            case "extra_forbidden":
                lines.append(f"  {key}: unknown key; remove it or correct its spelling")
            case "value_error":
                lines.append(f"  {problem['ctx']['error']}")
            case _:
                wanted = problem["msg"].replace("Input should be", "should be")
                lines.append(f"  {key}: {problem['input']!r} {wanted}")
    return "\n".join([f"{path} has {len(lines)} wrong value(s):", *lines])
