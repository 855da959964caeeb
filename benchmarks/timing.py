"""Alternating measurements, and the record that they make."""

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
    """One row of the results.

    Attributes:
        what: was measured.
        ours: median, in `unit`.
        notebook: median of the notebook's way, in `unit`; None where there is none to compare with.
        unit: of both.
        ratio: median over the repeats of ours / notebook, or what else is held against the target.
        target: bound of the ratio.
        at_least: whether the ratio is to be above the target, else below.
        repeats: alternations.
        sizes: of the data.
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
        """Whether the target is met."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


@dataclass(frozen=True)
class Times:
    """Seconds of both ways, one entry for each repeat."""

    ours: list[float]
    notebook: list[float]

    def compare(self, what: str, target: float, sizes: str) -> Comparison:
        """Their medians, and the median of the ratios of neighbours."""
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
    """Run both in turn, the first one changing, so that a drift of the machine meets both."""
    times = Times([], [])
    for turn in range(repeats):
        order = [(ours, times.ours), (notebook, times.notebook)]
        for way, seconds in order if turn % 2 == 0 else reversed(order):
            seconds.append(seconds_of(way))
    return times


def seconds_of(way: Callable[[], Any]) -> float:
    """Wall-clock seconds of a call."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the measurements depend on."""
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
    """What `machine` gives, for people to read."""
    libraries = ", ".join(f"{name} {facts[name]}" for name in LIBRARIES)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, "
        f"{facts['system']}, Python {facts['python']}, {libraries}."
    )


def _version(library: str) -> str:
    """TensorFlow is installed under another name where it is for processors alone."""
    try:
        return version(library)
    except PackageNotFoundError:
        return version(f"{library}-cpu")


def _processor() -> str:
    """Name and widest vector instructions, on Linux; elsewhere the name alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", "").split()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "")
    return f"{facts.get('model name', platform.processor())} {widest}".strip()
