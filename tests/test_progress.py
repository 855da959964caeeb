"""Progress lines in a log, with a simulated clock."""

import pytest

from cxr import progress
from cxr.progress import Meter, duration, epoch_line, track


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_log_has_a_line_per_minute(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("verify", 600, clock=clock) as meter:
        for _ in range(130):  # one per second
            clock.seconds += 1
            meter.advance()
    assert capsys.readouterr().err.splitlines() == [
        "verify: 60 of 600 images, about 9 min left",
        "verify: 120 of 600 images, about 8 min left",
    ]


def test_short_operation_writes_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("verify", 600, clock=clock) as meter:
        for _ in range(600):
            clock.seconds += 0.09
            meter.advance()
    assert capsys.readouterr() == ("", "")


def test_before_the_first_unit_there_is_no_estimate(clock: Clock) -> None:
    assert Meter("fetch", 5, clock=clock).line() == "fetch: 0 of 5 images, time unknown"


def test_lines_can_be_disabled(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter("baseline", 10, "batches", lines=False, clock=clock)
    clock.seconds += 100
    meter.advance()
    meter.say("epoch 1/2")
    assert capsys.readouterr() == ("epoch 1/2\n", "")


def test_track_yields_and_counts_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0)
    assert list(track("abc", "read")) == ["a", "b", "c"]
    assert list(track(iter("de"), "write", total=2, unit="files")) == ["d", "e"]
    lines = [line.split(", ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        *(f"read: {count} of 3 images" for count in (1, 2, 3)),
        *(f"write: {count} of 2 files" for count in (1, 2)),
    ]


def test_terminal_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Meter("verify", 600, clock=clock) as meter:
        clock.seconds += 100
        meter.advance(60)
        meter.bar.refresh()
    output = capsys.readouterr().err
    assert "60/600" in output
    assert "about" not in output


def test_line_of_an_epoch() -> None:
    metrics = {"loss": 0.41234, "val_loss": 0.39876, "seconds": 12.4}
    assert epoch_line(3, 6, metrics, 35.2) == (
        "epoch 3/6: loss 0.4123, val_loss 0.3988, 12 s, about 35 s left"
    )
    assert epoch_line(6, 6, metrics, 0.0) == "epoch 6/6: loss 0.4123, val_loss 0.3988, 12 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (1500, "25 min"),
        (5970, "1.7 h"),
        (9e4, "25.0 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
