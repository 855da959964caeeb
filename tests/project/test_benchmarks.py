"""The benchmarks compare equal functions and record what they measured."""

import json
import subprocess
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

PARAMS = read_params(PROJECT / "params.yaml")


def comparison(ratio: float, at_least: bool = False) -> timing.Comparison:
    return timing.Comparison("x", 1.0, 2.0, "s", ratio, 0.5, 3, "10 images", at_least)


def test_small_cnn_of_the_notebook_equals_the_baseline() -> None:
    ours, theirs = steps.training_model(PARAMS), notebook.small_cnn()
    shapes = [[tuple(weight.shape) for weight in model.weights] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    theirs.set_weights(ours.get_weights())
    batch, gray, _ = steps.inputs()
    np.testing.assert_allclose(ours(batch[:2]), theirs(gray[:2]), atol=1e-5)


def test_alternating_runs_are_compared_in_pairs() -> None:
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
def test_targets_are_upper_or_lower_bounds(ratio: float, at_least: bool, reached: bool) -> None:
    assert comparison(ratio, at_least).reached == reached


def test_only_results_of_the_same_benchmark_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths.BENCHMARKS.parent.mkdir()
    bench.save("steps", [comparison(0.4)])
    bench.save("decoding", [comparison(0.6)])
    bench.save("steps", [comparison(0.45)])
    results = json.loads(paths.BENCHMARKS.read_text())
    assert list(results) == ["decoding", "steps"]
    assert [entry["rows"][0]["ratio"] for entry in results.values()] == [0.6, 0.45]
    assert results["steps"]["machine"]["cores"] == timing.cores()
    table = bench.TABLE.read_text().splitlines()
    assert "at most 0.5, missed" in table[2]
    assert f"{timing.cores()} cores" in table[-1]


def test_unknown_part_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed"])
    with pytest.raises(CxrError, match="speed"):
        bench.main()


def test_one_part_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "steps"])
    monkeypatch.setattr(steps, "measure", lambda: [comparison(0.4)])
    saved: list[object] = []
    parts.measure("benchmarks", None, ("decoding", "steps"), lambda *result: saved.append(result))
    assert saved == [("steps", [comparison(0.4)])]


@pytest.mark.parametrize("named", [[], ["decoding", "steps"]])
def test_several_parts_run_in_separate_processes(
    named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *named])
    started: list[list[str]] = []

    def start(command: list[str]) -> subprocess.CompletedProcess[str]:
        started.append(command[1:])
        return subprocess.CompletedProcess(command, len(started) - 1)

    monkeypatch.setattr("subprocess.run", start)
    with pytest.raises(CxrError, match="python -m benchmarks steps"):
        parts.measure(
            "benchmarks", None, ("decoding", "steps"), lambda *_: pytest.fail("not in this process")
        )
    assert started == [["-m", "benchmarks", "decoding"], ["-m", "benchmarks", "steps"]]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Synthetic images of full size."""
    folder = tmp_path_factory.mktemp("full")
    for number in range(4):
        images._draw(folder, number)
    return images.files(folder)


def test_reduced_decoding_gives_nearly_the_same_images(full_size: list[Path]) -> None:
    difference = decoding.mean_difference(full_size, images.IMAGE)
    assert 0 < difference < 1.1  # phantoms are noisier than radiographs, with a bound of 1


def test_links_repeat_the_files(full_size: list[Path], tmp_path: Path) -> None:
    folder = images.link_repeatedly(full_size[0].parents[1], 3, tmp_path / "many")
    assert len(images.files(folder)) == 3 * len(full_size)


def test_profile_separates_kinds_of_operations() -> None:
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(1))
    model.compile("adam", "mse")
    found = profiling._operations(model, np.zeros((4, 8, 8, 1), np.float32), np.zeros((4, 1)))
    assert {"Conv2D", "Conv2DBackpropFilter", "MatMul"} <= set(found)
    assert min(found.values()) > 0


def growth_table() -> pd.DataFrame:
    """Linear in the number of images, plus a constant."""
    rows = [
        (stage, size, 100 * size, 256, 5 + 2.0 * size, 2**29 + 2**20 * size, 2**30 + 2**20 * size)
        for size in growth.SIZES
        for stage in growth.PLOTTED
    ]
    return pd.DataFrame(rows, columns=growth.COLUMNS)


def test_forecast_extrapolates_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "MIMIC", 360_000)
    monkeypatch.setattr(growth, "read_params", lambda: PARAMS)
    lines = growth.forecast(growth_table()).splitlines()[2:]
    cells = {line.split("|")[1].strip(): [*map(str.strip, line.split("|")[2:6])] for line in lines}
    assert cells["preprocess"] == ["2.00", "4.02", "0.00", "4.52"]
    assert cells["train_baseline"][0] == f"{2 * PARAMS.model.epochs:.2f}"
    assert float(cells["all"][1]) == 4.02  # no two stages run at the same time
    assert float(cells["all"][3]) == pytest.approx(4.52 * len(growth.PLOTTED), abs=0.05)


def test_constant_costs_are_not_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    table = growth_table().assign(seconds=3600.0, memory=2**30, disk=2**30)
    assert growth._at_mimic("preprocess", table[table["stage"] == "preprocess"]) == pytest.approx(
        ("preprocess", 1.0, 1.0, 0.0, 1.0)
    )


def test_memory_is_compared_with_the_smallest_size() -> None:
    table = growth_table()
    found = growth._memory("preprocess", table[table["stage"] == "preprocess"])
    assert found.ratio == pytest.approx((2**29 + 8 * 2**20) / (2**29 + 2**20))
    assert found.reached
    assert "(+10 KiB each)" in found.what


def test_all_outputs_of_a_stage_are_measured() -> None:
    found = growth._stages(PROJECT)
    assert "data/raw/directory" in found["fetch"]
    assert "data/arrays/train" in found["preprocess"]
    assert found["train_baseline"][0] == "models/baseline.keras"


def test_growth_is_plotted() -> None:
    assert growth.plot(growth_table()).startswith("<svg")
