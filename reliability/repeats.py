"""Run everything twice from clean clones, and once more on one core: are results byte-equal?"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.timing import cores
from cxr import paths
from cxr.tools import project_copy
from reliability.figures import Figure
from tests.support.project import QUICK, Project

# Large enough for the work of a layer to be split over the cores.
SETTINGS: dict[str, object] = QUICK | {
    "data.phantom.short_side": 128,
    "image.input_size": 96,
    "model.filters": [16, 16],
    "model.epochs": 2,
    "transfer.epochs": 2,
    "finetune.input_size": 96,
    "finetune.epochs": 2,
}
TOLERANCE = 1e-3  # of a probability, between one core and all


def measure() -> list[Figure]:
    """Two runs alike, and one with a single core; some minutes."""
    with tempfile.TemporaryDirectory() as folder:
        one, two, single = (clone(Path(folder) / name) for name in ("one", "two", "single"))
        for project in (one, two):
            project.repro()
        single.run("taskset --cpu-list 0 dvc repro")
        return [repeated(one, two), on_one_core(one, single)]


def clone(folder: Path) -> Project:
    """A clean clone of the last commit, with generated images and a cache of its own."""
    subprocess.run(["git", "clone", "--quiet", project_copy.PROJECT, folder], check=True)
    project_copy.set_params(folder / "params.yaml", SETTINGS)
    return Project.at(folder)


def repeated(one: Project, two: Project) -> Figure:
    """How many files of all stages' results are byte-equal."""
    first, second = (contents(project) for project in (one, two))
    equal = sum(first[name] == second.get(name) for name in first)
    return Figure(
        "all stages in two clean clones",
        "files of arrays, features, models, predictions and metrics with the same bytes (of the "
        "histories all but their seconds)",
        len(first),
        equal,
        note=f"generated images of 96 pixels, small settings, both on {cores()} cores",
    )


def on_one_core(one: Project, single: Project) -> Figure:
    """How far predictions are from those that all cores together make."""
    first, second = (contents(project) for project in (one, single))
    other = [name for name in first if first[name] != second.get(name)]
    gaps = np.concatenate([gap.ravel() for gap in differences(one, single)])
    note = f"{cores()} cores and one (taskset): largest difference {gaps.max():.1g}; "
    note += f"{len(first) - len(other)} of {len(first)} files have the same bytes"
    what = "predictions with another number of cores"
    right = f"within {TOLERANCE:g} of each other"
    return Figure(what, right, gaps.size, int((gaps <= TOLERANCE).sum()), note=note)


def differences(one: Project, other: Project) -> list[np.ndarray]:
    """Absolute differences of the predicted probabilities, for each variant."""
    tables = [pd.read_csv(project.folder / paths.PREDICTIONS) for project in (one, other)]
    numbers = [table.select_dtypes("float") for table in tables]
    return [np.abs(numbers[0][name] - numbers[1][name]).to_numpy() for name in numbers[0]]


def contents(project: Project) -> dict[str, str]:
    """Hash of every file of every stage's results."""
    return project.contents([path for paths in project.outputs().values() for path in paths])
