"""Code in data or model files never runs; nothing is written outside the project."""

import ast
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cxr.common.arrays import open_rows
from cxr.errors import CxrError
from cxr.prediction.networks import load_model
from cxr.tools.project_copy import PROJECT
from cxr.training import checkpoint
from tests.support.project import Project
from tests.support.writes import elsewhere, watched

pytestmark = pytest.mark.usefixtures("trap")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of a file in the working directory that code in the files of these tests writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sprung"


class Exploit:
    """Writes `sprung` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("sprung").write_text, ("",)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Exploit()))


def npy_of_objects(path: Path) -> None:
    with path.open("wb") as file:  # np.save would add a suffix
        np.save(file, np.array([Exploit()], object))


def npz_of_objects(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.array([Exploit()], object))


@pytest.mark.parametrize("write", [bare_pickle, npy_of_objects, npz_of_objects])
def test_pickles_instead_of_arrays_are_an_error(trap: Path, write: Callable[[Path], None]) -> None:
    file = Path("features.npy")
    write(file)
    with pytest.raises(CxrError, match=r"features\.npy"):
        open_rows(file)
    assert not trap.exists()
    found = np.load(file, allow_pickle=True)  # verifies the trap
    if write is npz_of_objects:
        assert found["arr_0"] is not None
        found.close()
    assert trap.exists()


def test_pickles_in_checkpoints_are_an_error(trap: Path) -> None:
    """Even in a checkpoint with the expected hashes."""
    npz_of_objects(Path("random.npz"))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        checkpoint._load(Path("random.npz"))
    assert not trap.exists()


def small_model(layer: keras.Layer | None = None) -> keras.Model:
    image = keras.Input((4, 4, 1), dtype="uint8")
    flat = keras.layers.Flatten()((layer or keras.layers.Rescaling(1.0))(image))
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(flat))


def lambda_layer(path: Path) -> None:
    # Keras saves its code as marshaled bytes in the file.
    layer = keras.layers.Lambda(
        lambda images: (__import__("pathlib").Path("sprung").write_text(""), images)[1]
    )
    small_model(layer).save(path)
    Path("sprung").unlink()  # building the model has run the code


def with_layer(**changes: Any) -> Callable[[Path], None]:
    """Return a function that writes a model with a changed first layer in its configuration."""

    def write(path: Path) -> None:
        small_model().save(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(members["config.json"])
        config["config"]["layers"][1] |= changes
        members["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return write


FOREIGN: dict[str, Callable[[Path], None]] = {
    "lambda": lambda_layer,
    "pickle": bare_pickle,
    "class": with_layer(module="subprocess", class_name="Popen", config={"args": "touch sprung"}),
    "module": with_layer(module="test_evil", class_name="Evil", config={}),
    "function": with_layer(
        module="builtins",
        class_name="function",
        config="system",
        registered_name="os.system",
    ),
    "loader": with_layer(
        module="keras.saving", class_name="load_model", config={"filepath": "other.keras"}
    ),
    "torch": with_layer(
        module="keras.layers",
        class_name="TorchModuleWrapper",
        config={"module": {"class_name": "__bytes__", "config": {"value": "gASVAA=="}}},
    ),
    "saved_model": with_layer(
        module="keras.layers",
        class_name="TFSMLayer",
        config={"filepath": "saved", "call_endpoint": "serve"},
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_models_with_code_are_an_error(
    trap: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    Path("test_evil.py").write_text("open('sprung', 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(Path.cwd())
    file = Path("models/baseline.keras")
    file.parent.mkdir()
    FOREIGN[kind](file)
    with pytest.raises(CxrError, match=r"^models/baseline\.keras ") as caught:
        load_model(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not trap.exists()


def test_lambda_runs_without_safe_mode(trap: Path) -> None:
    """Verifies that the file of the test above has code that would run."""
    lambda_layer(Path("model.keras"))
    keras.saving.load_model("model.keras", safe_mode=False)
    assert trap.exists()


def test_models_of_built_in_layers_load() -> None:
    saved = small_model()
    saved.save("model.keras")
    for loaded, expected in zip(
        load_model(Path("model.keras")).get_weights(), saved.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(loaded, expected)


@pytest.mark.slow
def test_pipeline_writes_nothing_outside_the_project(finished: Project) -> None:
    """Checks all writes of Python code, and files that remain in the home and temporary folders.

    Writes of C libraries (HDF5, TensorFlow, git) are found only if their files remain.
    """
    assert finished.written_outside == []
    assert (finished.folder / "data/libraries/keras/keras.json").exists()
    assert (finished.folder / ".dvc/tmp/site-cache/repo").is_dir()


@pytest.mark.parametrize(
    "act",
    [
        "open('{}', 'a')",
        "os.open('{}', os.O_RDWR | os.O_CREAT)",
        "os.mkdir('{}')",
        "os.replace('ours', '{}')",
        "os.rename('{}', 'ours')",
        "os.symlink('ours', '{}')",
        "os.remove('{}')",
        "shutil.rmtree('{}')",
        "sqlite3.connect('{}')",
    ],
)
def test_writes_outside_the_project_are_recorded(tmp_path: Path, act: str) -> None:
    """Of child processes, too; reads, and writes within the project, are not."""
    there, project = tmp_path / "there", tmp_path / "project"
    project.mkdir()
    code = f"""
import contextlib, os, shutil, sqlite3
open('ours', 'w').close()
open(os.__file__).close()
with contextlib.suppress(OSError):
    {act.format(there)}
"""
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    log = tmp_path / "log"
    with watched(log):
        subprocess.run([sys.executable, "-c", start], cwd=project, check=True)
    assert elsewhere(log, project) == {there}
    assert elsewhere(log, tmp_path) == set()


MODULES = sorted(
    path
    for folder in ("src", "stages", "reliability", "benchmarks")
    for path in (PROJECT / folder).rglob("*.py")
)
# Modules, functions and values of arguments that execute code from data.
RISKS = {
    *("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "read_pickle"),
    *("eval", "exec", "compile", "__import__", "enable_unsafe_deserialization"),
    *("os.system", "os.popen", "shell=True", "allow_pickle=True", "safe_mode=False"),
    *("weights_only=False", "typ='unsafe'", "unsafe_load", "full_load", "UnsafeLoader"),
    *("FullLoader", "yaml.Loader", "CLoader"),
}
EXCEPTIONS = {
    # Dask sends tasks to the workers of the user's cluster by pickle.
    "cluster.py": {"pickle"},
    # Constant commands of tests and measurements, in a copy of the project.
    "project.py": {"shell=True"},
}


def risks(code: str) -> set[str]:
    """Members of `RISKS` that a module uses; methods such as `model.compile` do not count."""
    names_used: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(module=None, names=names):
                names_used |= {alias.name.split(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                names_used |= {module.split(".")[0], *(alias.name for alias in names)}
                names_used |= {f"{module}.{alias.name}" for alias in names}
            case ast.Name(id=name):
                names_used.add(name)
            case ast.Attribute(attr=name):
                names_used |= {ast.unparse(node), name if name not in {"compile"} else ""}
            case ast.keyword(arg=name, value=value):
                names_used.add(f"{name}={ast.unparse(value)}")
    return names_used & RISKS


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_module_executes_data(module: Path) -> None:
    assert risks(module.read_text(encoding="utf-8")) == EXCEPTIONS.get(module.name, set())


def test_models_are_loaded_only_in_safe_mode() -> None:
    """Explicitly, even if it is the default."""
    calls = [
        node
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("saving.load_model")
    ]
    assert len(calls) == 2
    for call in calls:
        assert "safe_mode=True" in ast.unparse(call)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from joblib import load",
        "pd.read_pickle(file)",
        "eval(text)",
        "list(map(eval, texts))",
        "import builtins; builtins.exec(text)",
        "import os; os.system(text)",
        "from os import system",
        "subprocess.run(text, shell=True)",
        "np.load(file, allow_pickle=True)",
        "keras.saving.load_model(file, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "YAML(typ='unsafe')",
        "yaml.unsafe_load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
    ],
)
def test_risks_are_found(code: str) -> None:
    assert risks(code)
