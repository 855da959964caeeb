"""Alternating measurements and their record."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("tensorflow", "keras", "openvino", "pillow", "numpy", "dvc")


@dataclass(frozen=True)
class Comparison:
    """A row of the results.

    Attributes:
        what: measured operation.
        ours: median of the pipeline, in `unit`.
        notebook: median of the notebook, in `unit`; None without a counterpart.
        unit: unit of both.
        ratio: median over the repeats of ours / notebook, or another value to compare with the
            target.
        target: bound of the ratio.
        at_least: whether the target is a lower bound; otherwise it is an upper one.
        repeats: number of alternations.
        sizes: description of the data.
    """

    what: str
    ours: float
    notebook: float | None
    unit: str
    ratio: float
    target: float
    repeats: int
    sizes: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the ratio meets the target."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


@dataclass(frozen=True)
class Times:
    """Seconds of pipeline and notebook, one entry for each repeat."""

    ours: list[float]
    notebook: list[float]

    def compare(self, what: str, target: float, sizes: str) -> Comparison:
        """Compare the medians; the ratio is the median over pairs of consecutive runs."""
        pairs = zip(self.ours, self.notebook, strict=True)
        return Comparison(
            what,
            ours=statistics.median(self.ours),
            notebook=statistics.median(self.notebook),
            unit="s",
            ratio=statistics.median(ours / notebook for ours, notebook in pairs),
            target=target,
            repeats=len(self.ours),
            sizes=sizes,
        )


def alternate(ours: Callable[[], Any], notebook: Callable[[], Any], repeats: int) -> Times:
    """Run both alternately, in alternating order, so that a drift of the machine affects both."""
    times = Times([], [])
    for turn in range(repeats):
        order = [(ours, times.ours), (notebook, times.notebook)]
        for function, seconds in order if turn % 2 == 0 else reversed(order):
            seconds.append(seconds_of(function))
    return times


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of a call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Hardware and versions that affect the measurements."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }


def sentence(facts: dict[str, Any]) -> str:
    """The result of `machine` as a sentence."""
    libraries = ", ".join(f"{name} {facts[name]}" for name in LIBRARIES)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, "
        f"{facts['system']}, Python {facts['python']}, {libraries}."
    )


def _version(library: str) -> str:
    """Version of a library; TensorFlow for CPUs has the package name tensorflow-cpu."""
    try:
        return version(library)
    except PackageNotFoundError:
        return version(f"{library}-cpu")


def _processor() -> str:
    """Name of the CPU and, on Linux, its widest vector instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "")
    return f"{facts.get('model name', platform.processor())} {widest}".strip()
