"""Import Keras and TensorFlow without their startup messages and unused libraries.

TensorFlow's first messages come from C++ before its logger is configured. No variable silences
them, so they are filtered from standard error. Run as a script, this file is the filter: as a
process of its own it loses nothing if the filtered process aborts.
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
# Expected without a GPU; with one, they report why it is not used.
NO_GPU = [
    rb"Could not find cuda drivers on your machine",
    rb"failed call to cuInit",
    rb"Cannot dlopen some GPU libraries",
    rb"Unable to register cu(DNN|FFT|BLAS) factory",
]
RETRACING = "triggered tf.function retracing"
# Optional imports of Keras and TensorFlow, for features not used here: more than a third of their
# import time.
UNUSED = ("cv2", "jax", "matplotlib", "scipy", "sklearn")


def install() -> None:
    """Make the first import of Keras or TensorFlow quiet, and silence TensorFlow's info messages.

    Without KERAS_BACKEND in the environment the backend is TensorFlow, also if a settings file in
    the user's home names another.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not sys.stderr.isatty():  # progress bars of libraries in a log: once a minute
        os.environ.setdefault("TQDM_MININTERVAL", "60")
    # False alarm: TensorFlow counts traces by line of code, so several models of one process look
    # like one that is retraced.
    logging.getLogger("tensorflow").addFilter(lambda record: RETRACING not in record.getMessage())
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Give the first of Keras and TensorFlow that is imported a quiet loader."""

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
                    if on_tensorflow:  # else done, with messages, at its first operation
                        sys.modules["tensorflow"].config.list_physical_devices()

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """Make imports of these libraries fail, unless they are already imported."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def filtered() -> Iterator[None]:
    """Filter harmless lines from the standard error of this process, including that of C++."""
    sys.stderr.flush()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=2,
        start_new_session=True,  # so that Ctrl-C does not stop the filter
    ) as process:
        assert process.stdin is not None
        original = os.dup(2)
        os.dup2(process.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU or its driver."""
    return any(Path("/dev").glob("nvidia*")) or shutil.which("nvidia-smi") is not None


def pass_on() -> None:
    """Copy standard input to standard output line by line, without harmless lines."""
    patterns = HARMLESS if has_gpu() else HARMLESS + NO_GPU
    for line in sys.stdin.buffer:
        if not any(re.search(pattern, line) for pattern in patterns):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    pass_on()
