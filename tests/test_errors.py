"""A stage ends with one error, also where Ctrl-C comes at an awkward moment."""

import signal
import subprocess
import sys

import pytest

from cxr import errors
from cxr.errors import CxrError, run_stage
from cxr.tools.project_copy import PROJECT


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CxrError("data/x is missing"), "error: data/x is missing"),
        (OSError(28, "No space left on device"), "No space left on device. Make room in .*tmp"),
        (OSError(27, "File too large", "data/x"), r"error: \[Errno 27\] File too large: 'data/x'"),
        (ConnectionError(111, "Connection refused"), r"error: \[Errno 111\] Connection refused"),
        (MemoryError("Unable to allocate 3 GiB"), "not enough memory. Unable to allocate 3 GiB"),
        (KeyboardInterrupt(), "error: interrupted"),
    ],
)
def test_what_the_user_can_mend_is_one_message(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    monkeypatch.setattr(errors.tempfile, "tempdir", "/some/tmp")

    def stage() -> None:
        raise error

    with pytest.raises(SystemExit, match=told):
        run_stage(stage)


def test_where_no_folder_has_room_the_error_is_still_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stage() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(errors.tempfile, "tempdir", None)
    monkeypatch.setattr(errors.tempfile, "_candidate_tempdir_list", lambda: [])
    with pytest.raises(SystemExit, match=r"Make room in the project's folder$"):
        run_stage(stage)


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(lambda: print(1 / 0))


# What a library may be doing when Ctrl-C comes. Each says when it begins.
IMPORTING = "say(); time.sleep(20)"
IN_A_DESTRUCTOR = """
class Wait:
    def __del__(self):
        say()
        time.sleep(20)
Wait()
time.sleep(20)
"""
MADE_ANOTHER_ERROR = """
try:
    say()
    time.sleep(20)
except KeyboardInterrupt:
    raise ImportError("generic_type is already registered")
"""


@pytest.mark.parametrize("doing", [IMPORTING, IN_A_DESTRUCTOR, MADE_ANOTHER_ERROR])
def test_ctrl_c_is_one_message(doing: str) -> None:
    program = f"import stages, time\ndef say(): print('now', flush=True)\n{doing}\nprint('went on')"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=15)[0]
    assert process.returncode != 0
    assert said.strip() == errors.INTERRUPTED.strip()


@pytest.mark.parametrize("error", [CxrError("OpenVINO cannot run xception"), OSError("x")])
def test_an_error_that_ctrl_c_caused_is_reported_as_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Libraries turn it into an error of their own, which is then wrapped in one of ours."""

    def stage() -> None:
        with pytest.raises(KeyboardInterrupt):
            errors._note_interrupt()
        raise error

    monkeypatch.setattr(errors, "_interrupted", errors.threading.Event())
    with pytest.raises(SystemExit, match="error: interrupted"):
        run_stage(stage)
