"""Seconds, memory and disk space of each stage by size of the data set, and their extrapolation:
`python -m benchmarks growth`.

Memory is the private memory of the process (RssAnon): pages of memory-mapped arrays do not count,
because the system can reclaim them.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.timing import Comparison, cores
from benchmarks.transfer import backbone_weights
from cxr import paths
from cxr.common.files import replacing, write_csv
from cxr.data import phantom
from cxr.errors import CxrError
from cxr.params import read_params
from cxr.reporting import charts
from cxr.reporting.document import markdown_table
from cxr.tools import project_copy

FOLDER = Path(__file__).parent
MIMIC = 377_110  # images of MIMIC-CXR-JPG (Johnson 2019, 10.1038/s41597-019-0322-0)
PATIENTS = 80  # at size 1
SHORT_SIDE = 256  # pixels
COLUMNS = ["stage", "size", "images", "short_side", "seconds", "memory", "disk"]
SIZES = (1, 2, 4, 8)
PLOTTED = (
    *("preprocess", "extract_features", "extract_activations"),
    *("train_baseline", "train_transfer", "train_finetuned", "predict@finetuned"),
)
MAX_MEMORY_RATIO = 1.1  # peak at the largest size / peak at the smallest
INTERVAL = 0.02  # seconds between two samples
# One epoch each: the time of all epochs is a multiple of it.
SETTINGS: dict[str, object] = {
    "data.source": "directory",
    "data.on_leak": "warn",  # among so many phantoms some are similar by chance
    "model.epochs": 1,
    "transfer.epochs": 1,
    "finetune.epochs": 1,
}


def measure() -> list[Comparison]:
    if not Path("/proc/self/status").exists():
        raise CxrError("benchmarks.growth measures memory by /proc, which only Linux has")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        weights = backbone_weights(scratch)
        table = pd.concat([_at(size, scratch, weights) for size in SIZES])
    write_csv(FOLDER / "growth.csv", table)
    for name, text in (("growth.svg", plot(table)), ("growth.md", forecast(table))):
        with replacing(FOLDER / name) as temp_path:
            temp_path.write_text(text + "\n", encoding="utf-8")
    return [
        _memory(stage, stage_table) for stage, stage_table in table.groupby("stage", sort=False)
    ]


def _at(size: int, scratch: Path, weights: Path) -> pd.DataFrame:
    """Measure each stage: stage, size, images, short_side (pixels), seconds, memory and disk
    (bytes).
    """
    images, project = scratch / f"images{size}", scratch / f"project{size}"
    count = phantom.generate(images, patients=size * PATIENTS, seed=1, short_side=SHORT_SIDE)
    project.mkdir()
    project_copy.copy_project(project)
    settings = SETTINGS | {"data.directory": str(images)}
    project_copy.set_params(project / "params.yaml", settings)
    target = project / paths.weights("xception", "imagenet")
    target.parent.mkdir(parents=True)
    target.symlink_to(weights)
    rows = []
    for stage, outs in _stages(project).items():
        seconds, memory = run_alone(stage, project)
        disk = sum(_bytes(project / out) for out in outs)
        rows.append((stage, size, count, SHORT_SIDE, round(seconds, 2), memory, disk))
    return pd.DataFrame(rows, columns=COLUMNS)


def _stages(project: Path) -> dict[str, list[str]]:
    """Outputs of each stage, in the order of dvc.yaml, in which the stages can run."""
    return {
        name: [*map(_name, stage.get("outs", []))]
        for name, stage in project_copy.stages(project).items()
    }


def _name(out: Any) -> str:
    """Path of an output, with or without options."""
    path = str(out if isinstance(out, str) else next(iter(out)))
    return path.replace("${data.source}", str(SETTINGS["data.source"]))


def run_alone(stage: str, project: Path) -> tuple[float, int]:
    """Run a stage without DVC; return its seconds and its peak of private memory in bytes.

    Raises:
        CxrError: the stage failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *project_copy.script(stage)],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peaks: list[int] = []
    watcher = threading.Thread(target=_watch, args=(process, peaks))
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise CxrError(f"stage {stage} failed:\n{output}")
    return time.perf_counter() - started, max(peaks)


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended
            return
        peaks += [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
        time.sleep(INTERVAL)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _memory(stage: str, table: pd.DataFrame) -> Comparison:
    smallest, largest = table.iloc[0], table.iloc[-1]
    factor = largest["size"] // smallest["size"]
    per_image = (largest["memory"] - smallest["memory"]) / (largest["images"] - smallest["images"])
    return Comparison(
        what=f"peak memory of {stage}, {factor}x the images ({per_image / 2**10:+.0f} KiB each)",
        ours=float(largest["memory"] / 2**20),
        notebook=None,
        unit="MiB",
        ratio=float(largest["memory"] / smallest["memory"]),
        target=MAX_MEMORY_RATIO,
        repeats=1,
        sizes=f"{smallest['images']} and {largest['images']} synthetic images, {cores()} cores",
    )


def forecast(table: pd.DataFrame) -> str:
    """Markdown table: each stage at the size of MIMIC-CXR, with the epochs of the parameters.

    Extrapolates linearly, although limits in the code end the growth of some stages earlier.

    Args:
        table: as `_at` returns it.
    """
    rows = [
        _at_mimic(str(stage), stage_table)
        for stage, stage_table in table.groupby("stage", sort=False)
    ]
    names = ["stage", "hours", "memory, GiB", "standard error", "disk, GiB"]
    costs = pd.DataFrame(rows, columns=names)
    total = {"stage": "all", "hours": costs["hours"].sum(), "disk, GiB": costs["disk, GiB"].sum()}
    peak = costs.loc[costs["memory, GiB"].idxmax(), ["memory, GiB", "standard error"]]
    costs = pd.concat([costs, pd.DataFrame([total | peak.to_dict()])])
    text = costs.map(lambda cell: cell if isinstance(cell, str) else f"{cell:.2f}")
    return (
        f"At {MIMIC:,} images of {table['short_side'].iloc[0]} pixels (shorter side), on "
        f"{cores()} cores:\n\n{markdown_table(text)}"
    )


def _at_mimic(stage: str, table: pd.DataFrame) -> tuple[str, float, float, float, float]:
    """Stage, hours, memory and its standard error, disk (GiB); constant costs stay constant."""
    images = table["images"].to_numpy()
    slope, fixed = np.polyfit(images, table["seconds"], 1)
    hours = (max(slope, 0) * _epochs(stage) * MIMIC + max(fixed, 0)) / 3600
    (slope, fixed), covariance = np.polyfit(images, table["memory"] / 2**30, 1, cov=True)
    memory, error = max(slope, 0) * MIMIC + fixed, np.sqrt(covariance[0, 0]) * MIMIC
    slope, fixed = np.polyfit(images, table["disk"] / 2**30, 1)
    return stage, hours, memory, error, slope * MIMIC + fixed


def _epochs(stage: str) -> int:
    """Epochs of a training by the committed parameters; 1 for other stages."""
    params = read_params()
    epochs = {"baseline": params.model, "augmented": params.model, "transfer": params.transfer}
    section = (epochs | {"finetuned": params.finetune}).get(stage.removeprefix("train_"))
    return section.epochs if section else 1


@charts.chart(height=4.2, width=7.0)
def plot(figure: Figure, table: pd.DataFrame) -> None:
    """Time and memory of the slow stages, by number of images."""
    time_axes, memory_axes = figure.subplots(1, 2)
    for stage in PLOTTED:
        stage_table = table[table["stage"] == stage]
        time_axes.plot(stage_table["images"], stage_table["seconds"], marker=".", label=stage)
        memory_axes.plot(stage_table["images"], stage_table["memory"] / 2**20, marker=".")
    for axes, label in ((time_axes, "seconds"), (memory_axes, "private memory, MiB")):
        axes.set_xlabel("images")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3)
