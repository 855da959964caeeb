"""Keras starts quickly and says nothing; what a user has to know stays visible."""

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
    """What the filter leaves of a text, on a machine with the programs of a PATH."""
    return subprocess.run(
        [sys.executable, "-I", "-S", quiet.__file__],
        input=text,
        env={"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(quiet.has_gpu(), reason="this machine has a graphics card")
def test_without_a_graphics_card_it_is_not_told_that_there_is_none() -> None:
    assert pass_on(START + NO_GPU + OTHERS, "") == OTHERS


def test_with_a_graphics_card_it_is_told_why_it_is_not_used(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    assert pass_on(START + NO_GPU + OTHERS, str(tmp_path)) == NO_GPU + OTHERS


@pytest.mark.parametrize(
    ("dies", "told"),
    [
        ("os.abort()", "compiled to use AVX"),
        ("1 / 0", "ZeroDivisionError"),
        ("os.kill(os.getpid(), 9)", "compiled to use AVX"),
    ],
)
def test_nothing_is_lost_of_a_process_that_ends_meanwhile(dies: str, told: str) -> None:
    program = f"""
import os
from cxr import quiet
with quiet.filtered():
    os.write(2, b"oneDNN custom operations are on\\nF0000 compiled to use AVX\\n")
    {dies}
"""
    ended = run(program, PYTHONPATH="src")
    assert ended.returncode != 0
    assert told in ended.stderr
    assert "compiled to use AVX" in ended.stderr
    assert "oneDNN" not in ended.stderr


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
logging.getLogger("tensorflow").warning("of use")
import cv2, matplotlib, sklearn, scipy
"""


@pytest.mark.slow
@pytest.mark.skipif(quiet.has_gpu(), reason="TensorFlow tells of the graphics card")
@pytest.mark.parametrize("entry", [STAGE, COMMAND_LINE])
def test_several_models_start_and_predict_without_a_message(entry: str) -> None:
    done = run(entry + MODELS, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line.split("] ")[-1] for line in done.stderr.splitlines()] == [
        "WARNING:tensorflow:of use"
    ]


@pytest.mark.slow
def test_another_backend_has_its_libraries() -> None:
    program = "import stages, keras, sys; print(keras.backend.backend(), 'scipy' in sys.modules)"
    assert run(program, KERAS_BACKEND="jax").stdout == "jax True\n"


def test_stages_that_train_nothing_start_without_keras(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from stages import dataset_shift, fetch, intervals, preprocess, report, stress
raw = Path({str(tmp_path / "raw")!r})
data = fetch.read_params().data
drawn = data.phantom.model_copy(update={{"patients": 8, "short_side": 32}})
fetch.download.ensure_raw(raw, data.model_copy(update={{"source": "phantom", "phantom": drawn}}))
print(*sorted({{"keras", "kagglehub", "tensorflow"}} & set(sys.modules)))
"""
    done = run(program)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == [""]
