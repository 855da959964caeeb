"""`pip install .`: the package without extras, and the errors that name them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.errors import CxrError, extra
from cxr.inference import predict
from cxr.inference.predict import Prediction, Predictor
from cxr.tools.project_copy import PROJECT
from tests.support.tiny import export, grey

HEAVY = {"tensorflow", "keras", "dvc", "tf2onnx", "onnx", "kagglehub", "jax", "fastapi", "uvicorn"}


def test_prediction_imports_no_heavy_package(tmp_path: Path) -> None:
    """Not even if they are installed: importing them takes seconds."""
    export(tmp_path)
    grey(150).save(tmp_path / "one.png")
    code = (
        "import sys; from cxr import cli; from cxr.inference import drift_report, "
        "external_report, external_validation, labeled_folder; "
        "cli.main(); print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    arguments = ["predict", tmp_path / "one.png", "--models", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PNEUMONIA" in done.stdout
    imported = set(done.stderr.splitlines()[-1].split())
    assert {"openvino", "pydicom"} < imported
    assert not HEAVY & imported


def test_error_for_a_missing_package_names_the_extra() -> None:
    with (
        pytest.raises(CxrError, match=r"no_such_package.*\[train\]"),
        extra("train", "x"),
    ):
        import no_such_package  # noqa: F401
    with pytest.raises(ModuleNotFoundError), extra("train", "x"):
        import cxr.no_such_module  # noqa: F401


class Installed:
    """A separate environment with only the package, in a folder outside the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("uv", "venv", "--quiet", "--python", sys.executable, "env")
        source = folder / "source"  # a build writes into its source
        source.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(PROJECT / name, source)
        shutil.copytree(
            PROJECT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__py*")
        )
        locked = PROJECT / "requirements/runtime.lock"
        options = ("--quiet", "--python", "env/bin/python", "--constraint", str(locked))
        done = self.run("uv", "pip", "install", *options, "./source", check=False)
        if done.returncode and "error sending request" in done.stderr:
            pytest.skip("no network, and not all packages are in uv's cache")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(source)

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=self.folder, env=own, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def cxr(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.run("env/bin/cxr", *arguments, check=check)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed(tmp_path_factory.mktemp("installed"))
    (installed.folder / "exported").mkdir()
    export(installed.folder / "exported")
    grey(150).save(installed.folder / "one.png")
    return installed


@pytest.mark.slow
def test_installed_package_predicts(installed: Installed) -> None:
    folder = installed.folder
    command = ("predict", "one.png", "--models", "exported", "--format", "json")
    [found] = json.loads(installed.cxr(*command).stdout)["images"]
    [(_, answer)] = predict.predict(Predictor(folder / "exported"), [folder / "one.png"])
    assert isinstance(answer, Prediction)
    assert found["decision"] == answer.decision
    assert found["probability"] == answer.probability


@pytest.mark.slow
def test_installed_package_is_complete_and_light(installed: Installed) -> None:
    code = """\
import importlib.util, json, sys
from pathlib import Path
import cxr
from cxr import cli
from cxr.inference import drift_report, external_report, external_validation, labeled_folder
heavy = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
files = [str(file.relative_to(cxr.__path__[0])) for file in Path(cxr.__path__[0]).rglob("*.*")]
print(json.dumps([cxr.__path__[0], heavy, files]))
"""
    done = installed.run("env/bin/python", "-c", code, *HEAVY)
    location, heavy, files = json.loads(done.stdout)
    assert Path(location).is_relative_to(installed.folder)
    assert heavy == []
    source = PROJECT / "src/cxr"
    own = {str(file.relative_to(source)) for file in source.rglob("*.*") if file.suffix != ".pyc"}
    assert own == {file for file in files if not file.endswith(".pyc")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("predict one.png --explain --models exported", "keras"),
        ("serve --models exported", "the package"),
    ],
)
def test_installed_package_names_the_missing_extra(
    installed: Installed, command: str, missing: str
) -> None:
    done = installed.cxr(*command.split(), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("\nerror: ")
    assert missing in done.stderr
    extra = command.split()[0].replace("predict", "train")
    assert f"pip install '.[{extra}]'" in done.stderr
