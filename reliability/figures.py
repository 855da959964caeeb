"""One figure of docs/reliability.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was tried how often, and how often it went right.

    Attributes:
        what: was tried, as "kill -9 of train_baseline".
        right: means, as "same bytes after the next dvc repro".
        tried: times.
        held: times that it went right.
        least: share of `tried` that has to go right, 1 for all.
        note: settings, sizes, seconds.
    """

    what: str
    right: str
    tried: int
    held: int
    least: float = 1.0
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether enough of them went right."""
        return self.held >= self.least * self.tried
