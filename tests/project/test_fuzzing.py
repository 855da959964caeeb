"""Run the fuzzing corpus without the fuzzer; test the fuzzer and its report."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.data import manifest
from cxr.data.dataset_folder import select_images
from cxr.data.images import decode
from cxr.errors import CxrError
from cxr.params import read_params
from reliability import fuzzing, seeds, targets
from reliability.fuzzing import CORPUS, READERS, fuzz
from reliability.targets import TARGETS

pytestmark = pytest.mark.filterwarnings("ignore")

FAILED_INPUTS = sorted(CORPUS.glob("*/*"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds and inputs that once failed, in a folder for each target."""
    folder = tmp_path_factory.mktemp("corpus")
    for target in READERS:
        fuzzing.gather(target, folder / target)
    return folder


@pytest.mark.parametrize("target", READERS)
def test_inputs_of_the_corpus(target: str, corpus: Path, subtests: pytest.Subtests) -> None:
    for path in sorted((corpus / target).iterdir()):
        with subtests.test(path=path.name):
            TARGETS[target](path.read_bytes())


def test_corpus_is_small_and_complete(corpus: Path) -> None:
    assert set(READERS) == set(TARGETS) == {path.name for path in corpus.iterdir()}
    assert FAILED_INPUTS
    assert sum(path.stat().st_size for path in corpus.glob("*/*")) < 200_000
    generated = {f"{target}/{name}" for target, inputs in seeds.ALL.items() for name, _ in inputs()}
    stored = {f"{path.parent.name}/{path.name}" for path in FAILED_INPUTS}
    present = {f"{path.parent.name}/{path.name}" for path in corpus.glob("*/*")}
    assert present == generated | stored
    assert all("failed-" in name for name in stored)


def test_seeds_are_valid_inputs(corpus: Path) -> None:
    for _, content in seeds.images():
        assert decode(content, Path("x")).size
    for name, _ in seeds.tables():
        assert len(manifest.read(corpus / "table" / name)) == len(seeds.NAMES)
    assert read_params(corpus / "params/params.yaml")


def test_unexpected_exceptions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("x")

    for name in ("decode", "select_images", "read_params"):
        monkeypatch.setattr(targets, name, broken)
    monkeypatch.setattr(manifest, "read", broken)
    for target in TARGETS.values():
        with pytest.raises(KeyError):
            target(b"x")


def test_wrong_results_are_found(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "prepare", lambda *_: np.zeros((16, 15), np.uint8))
    with pytest.raises(AssertionError):
        targets.image((corpus / "image/L.png").read_bytes())
    table = manifest.read(corpus / "table/plain.csv")
    monkeypatch.setattr(manifest, "read", lambda _: table.assign(split="none"))
    with pytest.raises(AssertionError):
        targets.table(b"")
    nothing = select_images([])
    monkeypatch.setattr(targets, "select_images", lambda _: nothing)
    with pytest.raises(AssertionError):
        targets.names(b"train/NORMAL/x.png")


LIBFUZZER_OUTPUT = """#2\tINITED cov: 3 ft: 4 corp: 5/6Kb exec/s: 0 rss: 90Mb
#8262\tDONE   cov: 389 ft: 658 corp: 54/20Kb lim: 934 exec/s: 1377 rss: 244Mb
stat::number_of_executed_units: 8262
"""


@pytest.mark.parametrize(("status", "passed"), [(0, 8262), (77, 8261)])
def test_output_of_the_fuzzer_becomes_a_figure(status: int, passed: int) -> None:
    figure = fuzzing.figure("image", 5, LIBFUZZER_OUTPUT, status)
    assert (figure.trials, figure.passed, figure.reached) == (8262, passed, status == 0)
    assert "389 branches" in figure.note
    assert "54 distinct inputs" in figure.note
    assert ("stopped by" in figure.note) == bool(status)


def test_fuzzer_that_did_not_run_is_an_error() -> None:
    with pytest.raises(CxrError, match="Traceback"):
        fuzzing.figure("image", 5, "Traceback", 1)


def test_error_names_missing_atheris(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "find_spec", lambda _: None)
    with pytest.raises(CxrError, match="atheris"):
        fuzzing.measure()


@pytest.mark.slow
def test_fuzzing_for_three_seconds(corpus: Path) -> None:
    pytest.importorskip("atheris")
    figure = fuzz("names", 3)
    assert figure.passed == figure.trials > len(list((corpus / "names").iterdir()))
    assert re.search(r", 3 s, \d+ branches", figure.note)


def test_failing_input_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("atheris")
    monkeypatch.setattr(fuzzing, "FAILED", tmp_path / "failed")
    monkeypatch.setattr(fuzzing, "MEGABYTES", 1)  # less than any process has
    figure = fuzz("names", 20)
    assert figure.passed == figure.trials - 1
    assert "stopped by" in figure.note
    assert [path.name.split("-")[0] for path in (tmp_path / "failed").iterdir()] == ["names"]
