"""Paths of the pipeline, relative to the project root, where DVC runs each stage.

Relative, so that experiments in a temporary folder (`--temp`, queue) use their own files.
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
OOD = Path("models/ood")
EXPORTED = Path("models/exported")
FEATURE_NETWORK = "features.xml"  # of the frozen backbone, in the two folders above
COMPARISON = "comparison.json"  # of a network with Keras, in its folder

DATA_METRICS = Path("metrics/data.json")
GUARDS = Path("metrics/guards.json")
EVALUATION = Path("metrics/evaluation.json")
SUMMARY = Path("metrics/summary.json")
INTERVALS = Path("metrics/intervals.json")
SHIFT = Path("metrics/shift.json")
EXPORT = Path("metrics/export.json")
DOMAIN_SCORES = Path("data/domain_scores.csv")
SUBGROUPS = Path("data/subgroups.csv")
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
    """Folder of the original images of a `data.source`."""
    return RAW / source


def weights(backbone: str, weights: str) -> Path:
    """Weights file (.weights.h5) of a backbone without its top."""
    return WEIGHTS / f"{backbone}_{weights}_notop.weights.h5"


def features(split: str) -> Path:
    """Features of a split: .npy, rows in the order of its index."""
    return FEATURES / f"{split}.npy"


def activations(split: str) -> Path:
    """Activations of a split: .npy, one block per augmented version or view of the images."""
    return ACTIVATIONS / f"{split}.npy"


def model(variant: str) -> Path:
    """Keras model of a variant."""
    return MODELS / f"{variant}.keras"


def network(variant: str) -> Path:
    """OpenVINO network of a variant: .xml, with its .bin in the same folder."""
    return MODELS / "networks" / variant / f"{variant}.xml"


def predictions(variant: str) -> Path:
    """Predictions of a variant; those of all are merged in `PREDICTIONS`."""
    return Path("data/predictions") / f"{variant}.csv"


def history(variant: str) -> Path:
    """Training history of a variant, one row per epoch."""
    return PLOTS / "history" / f"{variant}.csv"


def resume(variant: str) -> Path:
    """Folder of the checkpoint from which an interrupted training resumes."""
    return Path("data/resume") / variant
