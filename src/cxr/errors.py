"""The one exception type for mistakes that the user can mend, and how a stage reports it."""

import errno
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType

INTERRUPTED = "\nerror: interrupted; nothing half-written was kept, run the same command again"

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

SHALLOW = (
    "this clone is shallow, and DVC loses the results of experiments run with --temp or the queue "
    "in it; run `git fetch --unshallow` first, or experiments without --temp and --queue"
)

_interrupted = threading.Event()  # set by Ctrl-C, also where a library raises another error then


class CxrError(Exception):
    """A mistake in data, parameters or surroundings; the message says what to do about it."""


def shortened(items: Iterable[str], most: int, rest: str = "more") -> list[str]:
    """The first items, at most `most`, then how many others there are, as `and 3 more`."""
    listed = list(items)
    others = len(listed) - most
    return [*listed[:most], *([f"and {others} {rest}"] if others > 0 else [])]


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Imports inside need the packages of an extra of this package, as pyproject.toml names it.

    Args:
        name: of the extra.
        what: needs it, for the error.

    Raises:
        CxrError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "cxr").split(".")[0] == "cxr":
            raise
        raise CxrError(
            f"{what} needs the package {error.name}: install the extra {name}, by "
            f"`pip install '.[{name}]'` in the project's folder"
        ) from error


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; what the user can mend ends it with one message instead of a traceback."""
    try:
        _refuse_to_be_lost()
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (CxrError, OSError, MemoryError) as error:
        sys.exit(INTERRUPTED if _interrupted.is_set() else f"\nerror: {_message(error)}")


def _message(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return (
            f"not enough memory. {error}\n"
            "  End other programs, or use a smaller image.input_size or batch_size."
        )
    return _of_system(error) if isinstance(error, OSError) else str(error)


def _refuse_to_be_lost() -> None:
    """DVC runs --temp and --queue below .dvc/tmp/exps, each in a repository of its own. From there
    no commit gets into a shallow clone, and DVC says nothing.
    """
    for folder in Path.cwd().parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps") and is_shallow(folder.parents[2]):
            raise CxrError(SHALLOW)


def is_shallow(folder: Path) -> bool:
    """Whether a folder is in a git repository without the whole history."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    with suppress(OSError):  # no git
        return subprocess.run(command, cwd=folder, capture_output=True).stdout.strip() == b"true"
    return False


def _of_system(error: OSError) -> str:
    """A write that finds no room names no file, and may have met the temporary folder."""
    if error.filename is not None or error.errno not in NO_ROOM:
        return str(error)
    # Asked with `gettempdir`, Python would look for one by writing; None: none was used so far.
    other = tempfile.tempdir
    also = f" and in {other}, the folder for temporary files" if other else ""
    return f"a file cannot be written: {error.strerror}. Make room in the project's folder{also}"


def catch_every_interrupt() -> None:
    """Let Ctrl-C end a stage with one message also where `run_stage` does not see it: while
    libraries are being imported, or where they drop it or turn it into an error of their own.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, _note_interrupt)
    sys.excepthook = _report
    sys.unraisablehook = partial(_send_again, otherwise=sys.unraisablehook)


def _note_interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if _interrupted.is_set():
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _send_again(
    found: "sys.UnraisableHookArgs", otherwise: Callable[["sys.UnraisableHookArgs"], object]
) -> None:
    """Python drops an interrupt that meets a destructor or a callback, as one of JAX's."""
    if issubclass(found.exc_type, KeyboardInterrupt):
        main = threading.get_ident()  # interrupts reach no other thread
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        otherwise(found)
