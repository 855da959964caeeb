"""Keras is imported quickly and quietly; important messages stay visible."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr import quiet
from cxr.tools.project_copy import PROJECT

START = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795864761.292324    9855 port.cc:153] oneDNN custom operations are on. You may see
"""
NO_GPU = """\
I0000 00:00:1795864761.296828    9855 cudart_stub.cc:31] Could not find cuda drivers on your machine
E0000 00:00:1795864788.662355    9855 cuda_platform.cc:5] failed call to cuInit: UNKNOWN ERROR (303)
"""
OTHERS = """\
F0000 00:00:1795864788.662355    9855 cpu_feature_guard.cc:1] compiled to use AVX, which is missing
E0000 00:00:1795864788.662355    9855 cuda_dnn.cc:1] Loaded cuDNN library is too old
Traceback (most recent call last):
half a line"""


def run(program: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def pass_on(text: str, path: str) -> str:
    """Output of the filter for a text, with the given PATH."""
    return subprocess.run(
        [sys.executable, "-I", "-S", quiet.__file__],
        input=text,
        env={"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(quiet.has_gpu(), reason="this machine has a GPU")
def test_gpu_messages_are_filtered_without_a_gpu() -> None:
    assert pass_on(START + NO_GPU + OTHERS, "") == OTHERS


def test_gpu_messages_are_kept_with_a_gpu(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    assert pass_on(START + NO_GPU + OTHERS, str(tmp_path)) == NO_GPU + OTHERS


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.abort()", "compiled to use AVX"),
        ("1 / 0", "ZeroDivisionError"),
        ("os.kill(os.getpid(), 9)", "compiled to use AVX"),
    ],
)
def test_output_of_a_process_that_aborts_is_kept(code: str, message: str) -> None:
    program = f"""
import os
from cxr import quiet
with quiet.filtered():
    os.write(2, b"oneDNN custom operations are on\\nF0000 compiled to use AVX\\n")
    {code}
"""
    process = run(program, PYTHONPATH="src")
    assert process.returncode != 0
    assert message in process.stderr
    assert "compiled to use AVX" in process.stderr
    assert "oneDNN" not in process.stderr


STAGE = "import stages"
COMMAND_LINE = """
import contextlib, io, sys
from cxr import cli
sys.argv = ["cxr", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    cli.main()
"""
MODELS = """
import keras, logging
import numpy as np
for _ in range(6):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.predict(np.zeros((3, 2)), verbose=0)
logging.getLogger("tensorflow").warning("important")
import cv2, matplotlib, sklearn, scipy
"""


@pytest.mark.slow
@pytest.mark.skipif(quiet.has_gpu(), reason="TensorFlow reports the GPU")
@pytest.mark.parametrize("entry", [STAGE, COMMAND_LINE])
def test_several_models_predict_without_messages(entry: str) -> None:
    done = run(entry + MODELS, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line.split("] ")[-1] for line in done.stderr.splitlines()] == [
        "WARNING:tensorflow:important"
    ]


@pytest.mark.slow
def test_other_backend_imports_its_libraries() -> None:
    program = "import stages, keras, sys; print(keras.backend.backend(), 'scipy' in sys.modules)"
    assert run(program, KERAS_BACKEND="jax").stdout == "jax True\n"


def test_stages_without_networks_do_not_import_keras(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from stages import dataset_shift, evaluate, export, fetch, intervals, preprocess, report, stress
raw = Path({str(tmp_path / "raw")!r})
data = fetch.read_params().data
small = data.phantom.model_copy(update={{"patients": 8, "short_side": 32}})
fetch.download.ensure_raw(raw, data.model_copy(update={{"source": "phantom", "phantom": small}}))
print(*sorted({{"keras", "kagglehub", "tensorflow"}} & set(sys.modules)))
"""
    done = run(program)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == [""]
