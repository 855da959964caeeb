"""Compare the results of two clean clones byte by byte, and of all cores with one core."""

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

# Large enough that a layer is computed on several cores.
SETTINGS: dict[str, object] = QUICK | {
    "data.phantom.short_side": 128,
    "image.input_size": 96,
    "model.filters": [16, 16],
    "model.epochs": 2,
    "transfer.epochs": 2,
    "finetune.input_size": 96,
    "finetune.epochs": 2,
}
TOLERANCE = 1e-3  # of probabilities, between one core and all


def measure() -> list[Figure]:
    """Run the pipeline twice, and once on a single core; takes some minutes."""
    with tempfile.TemporaryDirectory() as folder:
        one, two, single = (clone(Path(folder) / name) for name in ("one", "two", "single"))
        for project in (one, two):
            project.repro()
        single.run("taskset --cpu-list 0 dvc repro")
        return [repeatability(one, two), on_one_core(one, single)]


def clone(folder: Path) -> Project:
    """A clean clone of the last commit, with phantoms and its own cache."""
    subprocess.run(["git", "clone", "--quiet", project_copy.PROJECT, folder], check=True)
    project_copy.set_params(folder / "params.yaml", SETTINGS)
    return Project.at(folder)


def repeatability(one: Project, two: Project) -> Figure:
    """Count byte-equal files among the outputs of all stages."""
    first, second = (contents(project) for project in (one, two))
    equal = sum(first[name] == second.get(name) for name in first)
    return Figure(
        "all stages in two clean clones",
        "output files with the same bytes (training histories without their seconds)",
        len(first),
        equal,
        note=f"phantoms of 96 pixels, small settings, both on {cores()} cores",
    )


def on_one_core(one: Project, single: Project) -> Figure:
    """Compare the predictions of one core with those of all cores."""
    first, second = (contents(project) for project in (one, single))
    differing = [name for name in first if first[name] != second.get(name)]
    gaps = np.concatenate([gap.ravel() for gap in differences(one, single)])
    note = f"{cores()} cores and one (taskset): largest difference {gaps.max():.1g}; "
    note += f"{len(first) - len(differing)} of {len(first)} files have the same bytes"
    what = "predictions with a different number of cores"
    criterion = f"within {TOLERANCE:g} of each other"
    return Figure(what, criterion, gaps.size, int((gaps <= TOLERANCE).sum()), note=note)


def differences(one: Project, single: Project) -> list[np.ndarray]:
    """Absolute differences of the predicted probabilities, for each variant."""
    tables = [pd.read_csv(project.folder / paths.PREDICTIONS) for project in (one, single)]
    numbers = [table.select_dtypes("float") for table in tables]
    return [np.abs(numbers[0][name] - numbers[1][name]).to_numpy() for name in numbers[0]]


def contents(project: Project) -> dict[str, str]:
    """SHA-256 of every output file of all stages."""
    return project.contents([path for paths in project.outputs().values() for path in paths])
