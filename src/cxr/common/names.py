"""Names of classes, splits and variants, in the order in which tables show them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxr import paths

LABELS = ("NORMAL", "PNEUMONIA")  # the position is the class number; 1 is the positive class
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CachedInput:
    """What is computed once per image, before the trained part of a variant.

    Attributes:
        stage: the stage that computes it.
        layer: name of the trained part in the saved model.
        path: file of a split: rows (N, ...), or with `has_views` (V, N, ...).
        tolerance: largest difference of a probability from that of the whole model.
        has_views: whether probabilities are averaged over several views of each image.
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
        color: in all charts, of the palette of Okabe and Ito (2008) for color-blind readers.
        cached: what its prediction starts from, if not from the images.
        is_trained: whether a stage trains it; the ensemble only averages others.
    """

    color: str
    cached: CachedInput | None = None
    is_trained: bool = True


REGISTRY = {  # in the order of all tables and charts
    "baseline": Variant("#0072B2"),
    "augmented": Variant("#D55E00"),
    "transfer": Variant("#009E73", CachedInput("extract_features", "head", paths.features, 1e-3)),
    "finetuned": Variant(
        "#CC79A7",  # its activations are kept in half precision
        CachedInput("extract_activations", "tuned", paths.activations, 0.02, has_views=True),
    ),
    "ensemble": Variant("#E69F00", is_trained=False),
}
VARIANTS = tuple(REGISTRY)
TRAINED = tuple(name for name, variant in REGISTRY.items() if variant.is_trained)
TUNING = ("val", "stress")  # what every choice is made on: validation, plain and stressed
EVALUATED = ("val", "test")  # the splits that they are scored on; train is what they know
