"""Names of classes, splits and variants, in the order of all tables."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxr import paths

LABELS = ("NORMAL", "PNEUMONIA")  # by class index: 0 negative, 1 positive
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CachedInput:
    """Input of the trained part of a variant, computed once per image.

    Attributes:
        stage: stage that computes it.
        layer: layer of the saved model that takes it as input.
        path: split -> .npy file (N, ...), or with `has_views` (V, N, ...).
        tolerance: maximum absolute difference from the probability of the whole model.
        has_views: whether probabilities are averaged over V views of each image.
    """

    stage: str
    layer: str
    path: Callable[[str], Path]
    tolerance: float
    has_views: bool = False


@dataclass(frozen=True)
class Variant:
    """A model to compare.

    Attributes:
        color: hex color in all charts, of the color-blind safe palette of Okabe and Ito (2008).
        cached: input of its prediction; None: the images.
        is_trained: whether a stage trains it; False: averages other variants.
    """

    color: str
    cached: CachedInput | None = None
    is_trained: bool = True


REGISTRY = {  # in the order of all tables and charts
    "baseline": Variant("#0072B2"),
    "augmented": Variant("#D55E00"),
    "transfer": Variant("#009E73", CachedInput("extract_features", "head", paths.features, 1e-3)),
    "finetuned": Variant(
        "#CC79A7",  # high tolerance: its activations are stored in half precision
        CachedInput("extract_activations", "tuned", paths.activations, 0.02, has_views=True),
    ),
    "ensemble": Variant("#E69F00", is_trained=False),
}
VARIANTS = tuple(REGISTRY)
TRAINED = tuple(name for name, variant in REGISTRY.items() if variant.is_trained)
TUNING = ("val", "stress")  # tuning set: validation and stress-test set
EVALUATED = ("val", "test")  # splits of the metrics
