"""Exception type for errors that the user can fix, and how a stage reports them."""

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType

INTERRUPTED = "\nerror: interrupted; no incomplete files were kept, run the same command again"

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

SHALLOW = (
    "this clone is shallow, where DVC loses the results of experiments run with --temp or in the "
    "queue; run `git fetch --unshallow` first, or run them without --temp and --queue"
)

_interrupted = threading.Event()  # set by Ctrl-C, also if a library raises another error


class CxrError(Exception):
    """Invalid data, parameters or environment; the message names the cause and the remedy."""


def shortened(items: Iterable[str], max_items: int, rest: str = "more") -> list[str]:
    """The first `max_items` items, and the number of the others, such as `and 3 more`."""
    listed = list(items)
    others = len(listed) - max_items
    return [*listed[:max_items], *([f"and {others} {rest}"] if others > 0 else [])]


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Report failed imports in its body as a missing extra `name` that the feature `what` needs.

    Raises:
        CxrError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "cxr").split(".")[0] == "cxr":
            raise
        raise CxrError(
            f"{what} needs the package {error.name}: install the extra {name} with "
            f"`pip install '.[{name}]'` in the project folder"
        ) from error


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; errors that the user can fix end it with one message, without traceback."""
    try:
        _refuse_shallow_clone()
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (CxrError, OSError, MemoryError) as error:
        sys.exit(INTERRUPTED if _interrupted.is_set() else f"\nerror: {_message(error)}")


def _message(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return (
            f"not enough memory. {error}\n"
            "  Close other programs, or use a smaller image.input_size or batch_size."
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in DISK_FULL:
        return (
            f"cannot write: {error.strerror}. Free disk space in the project folder and in that of "
            "temporary files (TMPDIR)"
        )
    return str(error)


def _refuse_shallow_clone() -> None:
    """DVC runs --temp and --queue in repositories of their own below .dvc/tmp/exps. It cannot
    fetch their commits into a shallow clone, and does not report it.
    """
    for folder in Path.cwd().parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps") and is_shallow(folder.parents[2]):
            raise CxrError(SHALLOW)


def is_shallow(folder: Path) -> bool:
    """Whether a folder is in a shallow git repository."""
    command = ["git", "rev-parse", "--is-shallow-repository"]
    with suppress(OSError):  # git is not installed
        return subprocess.run(command, cwd=folder, capture_output=True).stdout.strip() == b"true"
    return False


def catch_every_interrupt() -> None:
    """Let Ctrl-C end a stage with one message also outside `run_stage`: while libraries are
    imported, or if they drop it or raise another error instead.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored
        signal.signal(signal.SIGINT, _note_interrupt)
    sys.excepthook = _report_interrupt
    sys.unraisablehook = partial(_resend_interrupt, default=sys.unraisablehook)


def _note_interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _report_interrupt(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if _interrupted.is_set():
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _resend_interrupt(
    unraisable: "sys.UnraisableHookArgs", default: Callable[["sys.UnraisableHookArgs"], object]
) -> None:
    """Python drops an interrupt in a destructor or a callback, such as those of JAX."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        main = threading.get_ident()  # only the main thread receives interrupts
        threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        default(unraisable)
