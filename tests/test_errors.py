"""Errors and Ctrl-C end a stage with one message."""

import signal
import subprocess
import sys

import pytest

from cxr import errors
from cxr.errors import CxrError, run_stage
from cxr.tools.project_copy import PROJECT


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CxrError("data/x is missing"), "error: data/x is missing"),
        (OSError(28, "No space left on device"), "No space left on device. Free disk space"),
        (OSError(27, "File too large", "data/x"), r"error: \[Errno 27\] File too large: 'data/x'"),
        (ConnectionError(111, "Connection refused"), r"error: \[Errno 111\] Connection refused"),
        (MemoryError("Unable to allocate 3 GiB"), "not enough memory. Unable to allocate 3 GiB"),
        (KeyboardInterrupt(), "error: interrupted"),
    ],
)
def test_error_that_the_user_can_fix_is_one_message(error: BaseException, message: str) -> None:
    def stage() -> None:
        raise error

    with pytest.raises(SystemExit, match=message):
        run_stage(stage)


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage(lambda: print(1 / 0))


# Code of a library at the time of Ctrl-C. Each prints when it begins.
IMPORTING = "ready(); time.sleep(20)"
IN_A_DESTRUCTOR = """
class Wait:
    def __del__(self):
        ready()
        time.sleep(20)
Wait()
time.sleep(20)
"""
RAISES_ANOTHER_ERROR = """
try:
    ready()
    time.sleep(20)
except KeyboardInterrupt:
    raise ImportError("generic_type is already registered")
"""


@pytest.mark.parametrize("code", [IMPORTING, IN_A_DESTRUCTOR, RAISES_ANOTHER_ERROR])
def test_ctrl_c_is_one_message(code: str) -> None:
    program = (
        f"import stages, time\ndef ready(): print('ready', flush=True)\n{code}\nprint('continued')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=15)[0]
    assert process.returncode != 0
    assert output.strip() == errors.INTERRUPTED.strip()


@pytest.mark.parametrize("error", [CxrError("OpenVINO cannot run xception"), OSError("x")])
def test_error_caused_by_ctrl_c_is_reported_as_interrupt(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Libraries may raise another error instead, which is then wrapped in a CxrError."""

    def stage() -> None:
        with pytest.raises(KeyboardInterrupt):
            errors._note_interrupt()
        raise error

    monkeypatch.setattr(errors, "_interrupted", errors.threading.Event())
    with pytest.raises(SystemExit, match="error: interrupted"):
        run_stage(stage)
