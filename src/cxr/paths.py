"""Every path of the pipeline, relative to the project root, where DVC runs each stage.

Relative on purpose: an experiment in the queue or in a temporary folder reads and writes its own
copy of the project.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")

RAW = Path("data/raw")
MANIFEST = Path("data/manifest.csv")
REJECTS = Path("data/rejects.csv")
LEAKS = Path("data/leaks.csv")
ARRAYS = Path("data/arrays")
FEATURES = Path("data/features")
ACTIVATIONS = Path("data/activations")
WEIGHTS = Path("data/weights")
PREDICTIONS = Path("data/predictions.csv")
MODELS = Path("models")
EXPORTED = Path("models/exported")

DATA_METRICS = Path("metrics/data.json")
GUARDS = Path("metrics/guards.json")
EVALUATION = Path("metrics/evaluation.json")
SUMMARY = Path("metrics/summary.json")
INTERVALS = Path("metrics/intervals.json")
SHIFT = Path("metrics/shift.json")
EXPORT = Path("metrics/export.json")
UNLIKENESS = Path("data/unlikeness.csv")
REPORT = Path("reports/report.md")
FIGURES = Path("reports/figures")
CARD = Path("reports/model_card.md")
REPORT_PAGE = Path("reports/index.html")
EXPERIMENTS = Path("docs/experiments.csv")
BENCHMARKS = Path("benchmarks/results.json")
OTHER_ACQUISITION = Path("docs/other_acquisition.txt")
PLOTS = Path("plots")
GROUPS = Path("plots/groups.csv")


def raw(source: str) -> Path:
    """Folder of the images as they came, one for each `data.source`."""
    return RAW / source


def weights(backbone: str, weights: str) -> Path:
    """Weights file of a backbone without its top, in Keras's `.weights.h5` format."""
    return WEIGHTS / f"{backbone}_{weights}_notop.weights.h5"


def features(split: str) -> Path:
    """Features of the frozen backbone, .npy, rows as in the split's index."""
    return FEATURES / f"{split}.npy"


def activations(split: str) -> Path:
    """Activations of the backbone's frozen layers, .npy, one block for each copy of the images."""
    return ACTIVATIONS / f"{split}.npy"


def model(variant: str) -> Path:
    """Saved model of a variant."""
    return MODELS / f"{variant}.keras"


def history(variant: str) -> Path:
    """Training history of a variant, one row per epoch."""
    return PLOTS / "history" / f"{variant}.csv"


def resume(variant: str) -> Path:
    """State of a training that is not complete, from which it can go on."""
    return Path("data/resume") / variant
