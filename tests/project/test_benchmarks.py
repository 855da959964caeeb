"""The benchmarks compare the same function, and say what they measured."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import benchmarks.__main__ as bench
from benchmarks import decoding, growth, images, notebook, parts, profiling, steps, timing
from cxr import paths
from cxr.errors import CxrError
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT
from reliability.__main__ import main as tried

PARAMS = read_params(PROJECT / "params.yaml")


def comparison(ratio: float, at_least: bool = False) -> timing.Comparison:
    return timing.Comparison("x", 1.0, 2.0, "s", ratio, 0.5, 3, "10 images", at_least)


def test_the_notebooks_small_cnn_is_the_function_of_the_baseline() -> None:
    ours, theirs = steps.learner(PARAMS), notebook.small_cnn()
    shapes = [[tuple(weight.shape) for weight in model.weights] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    theirs.set_weights(ours.get_weights())
    batch, grey, _ = steps.inputs()
    np.testing.assert_allclose(ours(batch[:2]), theirs(grey[:2]), atol=1e-5)


def test_ways_alternate_and_neighbours_are_compared() -> None:
    order: list[str] = []
    times = timing.alternate(lambda: order.append("a"), lambda: order.append("b"), 4)
    assert "".join(order) == "abbaabba"
    assert len(times.ours) == len(times.notebook) == 4
    found = timing.Times([1.0, 2.0, 9.0], [2.0, 8.0, 10.0]).compare("x", 0.6, "all")
    assert (found.ours, found.notebook, found.ratio) == (2.0, 8.0, 0.5)


@pytest.mark.parametrize(
    ("ratio", "at_least", "reached"),
    [(0.4, False, True), (0.6, False, False), (0.6, True, True), (0.4, True, False)],
)
def test_what_reaches_a_target(ratio: float, at_least: bool, reached: bool) -> None:
    assert comparison(ratio, at_least).reached == reached


def test_results_are_replaced_one_benchmark_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths.BENCHMARKS.parent.mkdir()
    bench.save("steps", [comparison(0.4)])
    bench.save("decoding", [comparison(0.6)])
    bench.save("steps", [comparison(0.45)])
    found = json.loads(paths.BENCHMARKS.read_text())
    assert list(found) == ["decoding", "steps"]
    assert [of["rows"][0]["ratio"] for of in found.values()] == [0.6, 0.45]
    assert found["steps"]["machine"]["cores"] == timing.cores()
    table = bench.TABLE.read_text().splitlines()
    assert "at most 0.5, missed" in table[2]
    assert f"{timing.cores()} cores" in table[-1]


@pytest.mark.parametrize(("package", "main"), [("benchmarks", bench.main), ("reliability", tried)])
def test_an_unknown_part_is_named(
    package: str, main: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [package, "speed"])
    with pytest.raises(CxrError, match=f"{package} has no speed; there are: .*, .*"):
        main()


def test_one_part_is_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "steps"])
    monkeypatch.setattr(steps, "measure", lambda: [comparison(0.4)])
    saved: list[object] = []
    parts.measure("benchmarks", None, ("decoding", "steps"), lambda *found: saved.append(found))
    assert saved == [("steps", [comparison(0.4)])]


@pytest.mark.parametrize("named", [[], ["decoding", "steps"]])
def test_several_parts_have_a_process_each(
    named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *named])
    started: list[list[str]] = []

    def start(command: list[str]) -> subprocess.CompletedProcess[str]:
        started.append(command[1:])
        return subprocess.CompletedProcess(command, len(started) - 1)

    monkeypatch.setattr("subprocess.run", start)
    with pytest.raises(CxrError, match="`python -m benchmarks steps` failed"):
        parts.measure("benchmarks", None, ("decoding", "steps"), lambda *_: pytest.fail("here"))
    assert started == [["-m", "benchmarks", "decoding"], ["-m", "benchmarks", "steps"]]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Some drawn images of full size."""
    folder = tmp_path_factory.mktemp("full")
    for number in range(4):
        images._draw(folder, number)
    return images.files(folder)


def test_less_decoding_gives_nearly_the_same_images(full_size: list[Path]) -> None:
    difference = decoding.mean_difference(full_size, images.IMAGE)
    assert 0 < difference < 1.1  # phantoms are noisier than radiographs, whose bound is 1


def test_links_repeat_the_files(full_size: list[Path], tmp_path: Path) -> None:
    folder = images.repeated(full_size[0].parents[1], 3, tmp_path / "many")
    assert len(images.files(folder)) == 3 * len(full_size)


def test_operations_of_a_step_are_told_apart() -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(1))
    model.compile("adam", "mse")
    found = profiling._operations(model, np.zeros((4, 8, 8, 1), np.float32), np.zeros((4, 1)))
    assert {"Conv2D", "Conv2DBackpropFilter", "MatMul"} <= set(found)
    assert min(found.values()) > 0


def grown() -> pd.DataFrame:
    """Linear in the number of images, beside what is always there."""
    rows = [
        (stage, size, 100 * size, 256, 5 + 2.0 * size, 2**29 + 2**20 * size, 2**30 + 2**20 * size)
        for size in growth.SIZES
        for stage in growth.SHOWN
    ]
    return pd.DataFrame(rows, columns=growth.COLUMNS)


def test_the_forecast_follows_the_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "MIMIC", 360_000)
    monkeypatch.setattr(growth, "read_params", lambda: PARAMS)
    lines = growth.forecast(grown()).splitlines()[2:]
    cells = {line.split("|")[1].strip(): [*map(str.strip, line.split("|")[2:6])] for line in lines}
    assert cells["preprocess"] == ["2.00", "4.02", "0.00", "4.52"]
    assert cells["train_baseline"][0] == f"{2 * PARAMS.model.epochs:.2f}"
    assert float(cells["all"][1]) == 4.02  # no two stages run at the same time
    assert float(cells["all"][3]) == pytest.approx(4.52 * len(growth.SHOWN), abs=0.05)


def test_what_does_not_grow_is_not_forecast_to(monkeypatch: pytest.MonkeyPatch) -> None:
    table = grown().assign(seconds=3600.0, memory=2**30, disk=2**30)
    assert growth._at_mimic("preprocess", table[table["stage"] == "preprocess"]) == pytest.approx(
        ("preprocess", 1.0, 1.0, 0.0, 1.0)
    )


def test_memory_is_held_against_that_of_the_smallest() -> None:
    table = grown()
    found = growth._memory("preprocess", table[table["stage"] == "preprocess"])
    assert found.ratio == pytest.approx((2**29 + 8 * 2**20) / (2**29 + 2**20))
    assert found.reached
    assert "(+10 KiB each)" in found.what


def test_every_output_of_a_stage_counts() -> None:
    found = growth._stages(PROJECT)
    assert "data/raw/directory" in found["fetch"]
    assert "data/arrays/train" in found["preprocess"]
    assert found["train_baseline"][0] == "models/baseline.keras"


def test_growth_is_drawn() -> None:
    assert growth.picture(grown()).startswith("<svg")
