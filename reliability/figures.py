"""Result of one experiment, a row of the table in docs/reliability.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Number of trials of an experiment, and of those that met its criterion.

    Attributes:
        what: experiment, such as "kill -9 of train_baseline".
        criterion: such as "same bytes after the next dvc repro".
        trials: number of trials.
        passed: number of trials that met the criterion.
        min_fraction: fraction of the trials that must pass; 1 for all.
        note: settings, sizes, seconds.
    """

    what: str
    criterion: str
    trials: int
    passed: int
    min_fraction: float = 1.0
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether enough trials passed."""
        return self.passed >= self.min_fraction * self.trials
