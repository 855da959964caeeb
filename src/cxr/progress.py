"""How far a long operation is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

EVERY = 60  # seconds between two lines of a log


class Meter:
    """Shows on standard error how much is done and how long the rest will take.

    Args:
        what: is done.
        total: number of units; None: unknown.
        unit: of the count; "B" for bytes.
        done: units that an earlier run has done.
        lines: whether a log gets a line every minute.
        clock: seconds.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str = "images",
        done: int = 0,
        lines: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit, self.clock = what, total, unit, clock
        self.done = self.done_before = done
        self.started = self.shown = clock()
        self.lines = lines
        self.bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            unit=unit if unit == "B" else f" {unit}",
            unit_scale=unit == "B",
            leave=False,
            disable=None,  # where standard error is no terminal
        )

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def advance(self, count: int = 1) -> None:
        """Note that `count` further units are done."""
        self.done += count
        self.bar.update(count)
        if self.lines and self.bar.disable and self.clock() - self.shown >= EVERY:
            self.shown = self.clock()
            print(self.line(), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line to standard output, above the bar where there is one."""
        tqdm.write(line)
        sys.stdout.flush()

    def line(self) -> str:
        """As `verify: 1200 of 5856 images, about 4 min left`."""
        size = tqdm.format_sizeof if self.unit == "B" else str
        if self.total is None:
            return f"{self.what}: {size(self.done)} {self.unit}"
        passed, new = self.clock() - self.started, self.done - self.done_before
        rest = "time unknown"
        if new:
            rest = f"about {duration(passed / new * (self.total - self.done))} left"
        return f"{self.what}: {size(self.done)} of {size(self.total)} {self.unit}, {rest}"


def track(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "images"
) -> Iterator[Item]:
    """Yield items and show how many of them are done; `total`: of items without a length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Meter(what, total, unit) as meter:
        for item in items:
            yield item
            meter.advance()


def epoch_line(epoch: int, epochs: int, figures: Mapping[str, float], rest: float) -> str:
    """As `epoch 3/6: loss 0.4123, val_loss 0.3988, 12 s, about 35 s left`.

    Args:
        epoch: that is finished, from 1.
        epochs: the most there can be.
        figures: what is known of it; `seconds` is shown as a duration.
        rest: seconds of the epochs to come.
    """
    shown = [f"{name} {value:.4f}" for name, value in figures.items() if name != "seconds"]
    if "seconds" in figures:
        shown.append(duration(figures["seconds"]))
    if epoch < epochs:
        shown.append(f"about {duration(rest)} left")
    return f"epoch {epoch}/{epochs}: {', '.join(shown)}"


def duration(seconds: float) -> str:
    """As `40 s`, `12 min` or `1.7 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"
