"""Progress of long operations: a bar on a terminal, a line per minute in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import length_hint
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

INTERVAL = 60  # seconds between two lines of a log


class Meter:
    """Progress bar or log lines on standard error, with the estimated remaining time.

    Args:
        what: name of the operation.
        total: number of units.
        unit: name of the units.
        lines: whether to write lines to a log.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "images",
        lines: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.lines, self.clock = lines, clock
        self.done = 0
        self.started = self.last_line = clock()
        # disable=None: no bar without a terminal.
        self.bar = tqdm(desc=what, total=total, unit=f" {unit}", leave=False, disable=None)

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

    def advance(self, count: int = 1) -> None:
        """Count further units as done."""
        self.done += count
        self.bar.update(count)
        if self.lines and self.bar.disable and self.clock() - self.last_line >= INTERVAL:
            self.last_line = self.clock()
            print(self.line(), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line to standard output, above the bar if there is one."""
        tqdm.write(line)
        sys.stdout.flush()

    def line(self) -> str:
        """Line such as `verify: 1200 of 5856 images, about 4 min left`."""
        rest = "time unknown"
        if self.done:
            seconds = (self.clock() - self.started) / self.done * (self.total - self.done)
            rest = f"about {duration(seconds)} left"
        return f"{self.what}: {self.done} of {self.total} {self.unit}, {rest}"


def track(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "images"
) -> Iterator[Item]:
    """Yield items and show the progress; `total`: number of items, if they have no length."""
    with Meter(what, total or length_hint(items), unit) as meter:
        for item in items:
            yield item
            meter.advance()


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float], rest: float) -> str:
    """Line such as `epoch 3/6: loss 0.4123, val_loss 0.3988, 12 s, about 35 s left`.

    Args:
        epoch: completed epoch, from 1.
        epochs: maximum number of epochs.
        metrics: of the epoch; `seconds` is shown as a duration.
        rest: estimated seconds of the remaining epochs.
    """
    parts = [f"{name} {value:.4f}" for name, value in metrics.items() if name != "seconds"]
    if "seconds" in metrics:
        parts.append(duration(metrics["seconds"]))
    if epoch < epochs:
        parts.append(f"about {duration(rest)} left")
    return f"epoch {epoch}/{epochs}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Duration such as `40 s`, `12 min` or `1.7 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 99.5 else f"{minutes / 60:.1f} h"
