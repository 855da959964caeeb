"""Output of a whole run: lines of the project and of DVC, and one error if a stage fails."""

import re
from pathlib import Path

import pytest

from tests.support.project import FIRST_OUTPUT, Project

pytestmark = pytest.mark.slow

DVC = [
    r"Running stage '[\w@]+':",
    r"> python -m stages\.\w+( \w+)?",
    r"(Generating|Updating) lock file 'dvc\.lock'",
    r"To track the changes with git, run:",
    r"\tgit add .*",
    r"To enable auto staging, run:",
    r"\tdvc config core\.autostage true",
    r"Use `dvc push` to send your updates to remote storage\.",
]
PROJECT = [
    r"phantom: \d+ images",
    r"(train|val|test): \d+ images \(\d+ NORMAL, \d+ PNEUMONIA\), \d+ patients",
    r"patients in several splits \d+, duplicates \d+, .*",
    r"epoch \d+/\d+: loss [\d.]+, accuracy [\d.]+, val_loss [\d.]+, val_accuracy [\d.]+, \d+ s.*",
    r"[\w ]+: \d+ of \d+ \w+, (time unknown|about [\d.]+ (s|min|h) left)",
]


def test_libraries_print_nothing(finished: Project) -> None:
    lines = (finished.folder / FIRST_OUTPUT).read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("epoch 1/") for line in lines) == 4
    assert not [line for line in lines if line and not known(line)]


def known(line: str) -> bool:
    return any(re.fullmatch(pattern, line) for pattern in DVC + PROJECT)


@pytest.fixture(scope="module")
def without_images(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose images are to be downloaded from Kaggle."""
    return Project(tmp_path_factory.mktemp("offline"), {"data.source": "kaggle"})


@pytest.mark.parametrize("command", ["dvc repro", "dvc exp run -S model.epochs=20"])
def test_without_network_a_run_ends_with_one_error(
    without_images: Project, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    *lines, status = without_images.run(f"{command}; echo $?", check=False).splitlines()
    assert int(status) != 0
    (error,) = [number for number, line in enumerate(lines) if line.startswith("error:")]
    assert "chest-xray-pneumonia" in lines[error]  # of Kaggle
    remedies = "\n".join(lines[error + 1 :])
    assert str(Path("data/raw/kaggle")) in remedies
    assert "make demo" in remedies
    assert not [line for line in lines if "Traceback" in line]
    (of_dvc,) = [line for line in lines if line.startswith("ERROR:")]
    assert of_dvc.startswith("ERROR: failed to reproduce 'fetch'")
