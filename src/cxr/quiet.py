"""Start Keras and TensorFlow without their messages and without libraries that they do not need.

TensorFlow's first messages come from C++ before its logger is set up. No variable silences them, so
they are taken out of what the process writes to standard error. Run as a script, this file is the
filter: a process of its own loses nothing of what a process says that aborts.
"""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

HARMLESS = [
    rb"All log messages before absl::InitializeLog\(\) is called",
    rb"oneDNN custom operations are on",
]
# Normal where there is no graphics card; where there is one, these say why it is not used.
NO_GPU = [
    rb"Could not find cuda drivers on your machine",
    rb"failed call to cuInit",
    rb"Cannot dlopen some GPU libraries",
    rb"Unable to register cu(DNN|FFT|BLAS) factory",
]
RETRACING = "triggered tf.function retracing"
# Keras and TensorFlow import these where they are installed, for parts of theirs that are not used
# here: more than a third of the time of their start.
UNUSED = ("cv2", "jax", "matplotlib", "scipy", "sklearn")


def install() -> None:
    """Let the first import of Keras or TensorFlow be a quiet one, and its logger tell no notes.

    Without KERAS_BACKEND in the environment the backend is TensorFlow, whatever a settings file in
    the user's home says.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not sys.stderr.isatty():  # libraries draw their bars in a log as well: once a minute, then
        os.environ.setdefault("TQDM_MININTERVAL", "60")
    # TensorFlow counts traces by the line of Keras that is traced: several models of one process
    # look to it like one that is traced again and again.
    logging.getLogger("tensorflow").addFilter(lambda record: RETRACING not in record.getMessage())
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Gives the first one of Keras and TensorFlow a loader that is quiet."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in ("keras", "tensorflow"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                on_tensorflow = os.environ["KERAS_BACKEND"] == "tensorflow"
                with filtered(), hidden(UNUSED if on_tensorflow else ()):
                    execute(module)
                    if on_tensorflow:  # which would look for cards at its first operation
                        sys.modules["tensorflow"].config.list_physical_devices()

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """Let imports of these libraries fail, but of those that are imported already."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def filtered() -> Iterator[None]:
    """Take harmless lines out of what this process writes to standard error, C++ included."""
    sys.stderr.flush()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=2,
        start_new_session=True,  # Ctrl-C is for this process alone
    ) as process:
        assert process.stdin is not None
        kept = os.dup(2)
        os.dup2(process.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def has_gpu() -> bool:
    """Whether this machine has a graphics card of NVIDIA, or at least its driver."""
    return any(Path("/dev").glob("nvidia*")) or shutil.which("nvidia-smi") is not None


def pass_on() -> None:
    """Copy standard input to standard output as it comes, without harmless lines."""
    known = HARMLESS if has_gpu() else HARMLESS + NO_GPU
    for line in sys.stdin.buffer:
        if not any(re.search(pattern, line) for pattern in known):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    pass_on()
