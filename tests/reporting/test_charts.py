"""Each chart's SVG holds the labels and series that it was given.

Matplotlib writes text as paths, with the text itself in a comment before them; a series is a path
in its color, with one point for each row.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cxr.common.names import EVALUATED, LABELS, SPLITS, VARIANTS
from cxr.evaluation import metrics
from cxr.evaluation.metrics import confusions
from cxr.evaluation.results import Interval
from cxr.reporting import charts
from tests.support import results
from tests.support.results import interval

STEPPED = pd.DataFrame({"epoch": [1, 2, 3], "kept": [0, 0, 1]})


def labels(svg: str) -> list[str]:
    return re.findall("<!-- (.*?) -->", svg)


def series(svg: str) -> set[str]:
    """Names of the curves in the legend, without their areas."""
    return {label.split(" (")[0] for label in labels(svg)}


def lines(svg: str, color: str, dashed: bool | None = None) -> list[NDArray[np.float64]]:
    """Points (N, 2) of each curve of a color, with y upwards."""
    found = []
    for points, style in re.findall(r'<path d="([^"z]*)"[^>]*style="([^"]*)"', svg):
        is_dashed = "stroke-dasharray" in style
        if f"stroke: {color.lower()}" in style and dashed in (None, is_dashed):
            numbers = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", points)
            found.append(np.array(numbers, float) * [1, -1])
    return [points for points in found if len(points)]


def is_drawn(line: NDArray[np.float64], x: Any, y: Any) -> bool:
    """Whether the points are those of the data, on axes of any scale."""
    return all(
        len(place) == len(values) and np.allclose(scaled(place), scaled(values), atol=1e-3)
        for place, values in zip(line.T, (x, y), strict=True)
    )


def scaled(values: Any) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    return (numbers - numbers.min()) / max(np.ptp(numbers), 1e-9)


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    """24 images of each split, with different probabilities for each variant."""
    rng = np.random.default_rng(4)
    label = np.tile(LABELS, 24)
    shift = np.where(label == "PNEUMONIA", 0.6, 0.4)
    return pd.DataFrame(
        {"split": np.repeat(EVALUATED, 24), "label": label}
        | {variant: np.clip(shift + rng.normal(0, 0.2, 48), 0, 1) for variant in VARIANTS}
    )


@pytest.fixture(scope="module")
def images() -> pd.DataFrame:
    """11 images in each split except test, which has 7, all PNEUMONIA."""
    split = np.repeat(["train", "val", "test"], [11, 11, 7])
    label = np.where((np.arange(29) % 3 == 0) & (split != "test"), "NORMAL", "PNEUMONIA")
    size = np.random.default_rng(5).normal(300, 40, 29)
    return pd.DataFrame({"split": split, "label": label, "size": size})


@pytest.mark.parametrize(
    ("chart", "curve", "axes"),
    [
        (charts.roc, metrics.roc_curve, ("fpr", "tpr")),
        (charts.precision_recall, metrics.precision_recall_curve, ("recall", "precision")),
    ],
)
def test_curves_of_every_variant_and_split(
    predictions: pd.DataFrame,
    chart: Callable[[pd.DataFrame], str],
    curve: Callable[..., pd.DataFrame],
    axes: tuple[str, str],
) -> None:
    svg = chart(predictions)
    assert {f"{variant}, {split}" for variant in VARIANTS for split in EVALUATED} <= series(svg)
    for variant in VARIANTS:
        for split in EVALUATED:
            table = curve(*metrics.columns(predictions, split, variant))
            x, y = (table[axis].to_numpy() for axis in axes)
            if chart == charts.precision_recall:  # in steps, from the highest recall
                x, y = np.repeat(x[::-1], 2)[1:], np.repeat(y[::-1], 2)[:-1]
            drawn = lines(svg, charts.COLORS[variant], dashed=split == "val")
            assert any(is_drawn(line, x, y) for line in drawn)


@pytest.mark.parametrize("chart", [charts.roc, charts.precision_recall])
def test_curves_of_one_split_alone(predictions: pd.DataFrame, chart: Callable[..., str]) -> None:
    svg = chart(predictions[predictions["split"] == "test"], ("test",))
    assert set(VARIANTS) <= series(svg)
    assert not any("test" in label or "val" in label for label in labels(svg))
    for variant in VARIANTS:
        assert not lines(svg, charts.COLORS[variant], dashed=True)
        assert lines(svg, charts.COLORS[variant], dashed=False)


def test_calibration_of_every_variant_on_test(predictions: pd.DataFrame) -> None:
    svg = charts.calibration(predictions)
    assert {"Perfectly calibrated", *VARIANTS, "fraction of positives"} <= {*labels(svg)}
    for variant in VARIANTS:
        table = metrics.calibration_curve(*metrics.columns(predictions, "test", variant))
        drawn = lines(svg, charts.COLORS[variant])
        assert any(
            is_drawn(line, table["mean_probability"], table["fraction_positive"]) for line in drawn
        )


def test_recall_and_precision_at_every_threshold(predictions: pd.DataFrame) -> None:
    svg = charts.thresholds(predictions, dict.fromkeys(VARIANTS, 0.3))
    texts = labels(svg)
    assert {f"{variant} (dotted: operating point)" for variant in VARIANTS} <= {*texts}
    assert {"recall, val", "precision, val", "recall, test", "precision, test"} <= {*texts}
    for name, color in (("recall", "#0072B2"), ("precision", "#D55E00")):
        for split in EVALUATED:
            drawn = lines(svg, color, dashed=split == "val")
            for variant in VARIANTS:
                table = metrics.threshold_curve(*metrics.columns(predictions, split, variant))
                assert any(is_drawn(line, table["threshold"], table[name]) for line in drawn)


def test_histories_of_every_variant() -> None:
    histories = {
        variant: STEPPED.assign(loss=[3, 2, number], val_loss=[4, number, 3.5])
        for number, variant in enumerate(VARIANTS)
    }
    svg = charts.training(histories, "loss", "cross-entropy")
    wanted = {*VARIANTS, "train", "validation", "epoch", "cross-entropy"}
    assert wanted <= {*labels(svg)}
    for variant, table in histories.items():
        for name in ("loss", "val_loss"):
            drawn = lines(svg, charts.COLORS[variant], dashed=name == "val_loss")
            assert any(is_drawn(line, table["epoch"], table[name]) for line in drawn)


def test_intervals_of_every_metric_and_variant() -> None:
    metrics: dict[str, dict[str, Interval]] = {
        name: {
            variant: interval(0.5, 0.1 + 0.1 * number, top + 0.1 * number)
            for number, variant in enumerate(VARIANTS)
        }
        for name, top in (("recall", 0.7), ("ROC AUC", 0.8))
    }
    metrics["recall"]["baseline"] = interval(0, None, None)
    svg = charts.metric_intervals(metrics)
    assert {"recall", "ROC AUC", *VARIANTS} <= {*labels(svg)}
    ends, wanted = [], []
    for variant in VARIANTS:
        bars = [line[:, 0] for line in lines(svg, charts.COLORS[variant])]
        ends += sorted(bar.tolist() for bar in bars if np.ptp(bar) > 20)  # not the legend's
        wanted += [[of[variant].low, of[variant].high] for of in metrics.values()]
    wanted.remove([None, None])
    assert scaled(np.array(ends)) == pytest.approx(scaled(np.array(wanted)), abs=1e-3)


def test_a_value_outside_its_interval_is_drawn() -> None:
    found = dict.fromkeys(VARIANTS, interval(0.9, 0.91, 0.95))
    assert charts.metric_intervals({"recall": found}).startswith("<svg")


def test_counts_of_every_split_and_class(images: pd.DataFrame) -> None:
    texts = labels(charts.counts(images))
    table = pd.crosstab(images["split"], images["label"])
    wanted = [str(table.loc[split, label]) for label in LABELS for split in SPLITS]
    start = texts.index(wanted[0], texts.index("images"))
    assert texts[start : start + 6] == wanted
    assert {*SPLITS, *LABELS} <= {*texts}


def test_cells_of_every_confusion_matrix(predictions: pd.DataFrame) -> None:
    table = confusions(predictions, {v: 0.3 + 0.1 * n for n, v in enumerate(VARIANTS)})
    found = labels(charts.confusions(table))
    for (variant, name), cells in table.groupby(["variant", "threshold"], sort=False):
        panel = [*map(str, cells["images"]), str(variant), str(name)]
        assert any(found[at : at + 6] == panel for at in range(len(found)))


def test_histograms_of_every_split_and_class(images: pd.DataFrame) -> None:
    svg = charts.distributions(images, "size", "pixels")
    assert {*SPLITS, *LABELS, "pixels", "fraction of the class"} <= {*labels(svg)}
    edges = charts.bin_edges(images["size"], 40)
    for (split, label), rows in images.groupby(["split", "label"]):
        heights = charts.binned(rows["size"], edges)
        outline = pd.Series(np.append(0, np.append(np.repeat(heights, 2), 0)))
        drawn = lines(svg, charts.CLASS_COLORS[str(label)])
        assert any(is_drawn(line, np.repeat(edges, 2), outline) for line in drawn), (split, label)


def test_every_image_counts_in_a_histogram() -> None:
    sizes = pd.Series([1.0, 200, 201, 202, 203, 9999])
    assert charts.binned(sizes, np.array([200.0, 202, 204])).tolist() == [0.5, 0.5]
    weights = np.array([3.0, 0, 0, 0, 0, 1])
    assert charts.binned(sizes, np.array([200.0, 202, 204]), weights).tolist() == [0.75, 0.25]
    few = pd.Series([3.0, 1, 2])
    assert charts.binned(few, charts.bin_edges(few, 40)).sum() == pytest.approx(1)
    assert charts.binned(few[:0], charts.bin_edges(few, 40)).sum() == 0


def test_equal_values_give_one_bar(images: pd.DataFrame) -> None:
    svg = charts.distributions(images.assign(size=256.0), "size", "pixels")
    for label in LABELS:
        drawn = [line for line in lines(svg, charts.CLASS_COLORS[label]) if len(line) > 10]
        assert drawn
        assert all(len(np.unique(line[:, 1].round(3))) in (1, 2) for line in drawn)
        assert all(np.ptp(line[:, 0]) > 100 for line in drawn)


def dots(svg: str, color: str) -> NDArray[np.float64]:
    """Positions (N, 2) of the dots of a color, without the legend's."""
    pattern = rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="[^"]*fill: {color.lower()}'
    return np.array(re.findall(pattern, svg), float)[:-1]


def assert_dots(svg: str, table: pd.DataFrame, colors: dict[str, str]) -> None:
    """Each value is drawn to scale, the first row on top."""
    drawn = {name: dots(svg, colors[str(name)]) for name in table}
    x = np.column_stack([drawn[name][:, 0] for name in table])
    np.testing.assert_allclose(scaled(x), scaled(table), atol=1e-3)
    for places in drawn.values():
        assert (np.diff(places[:, 1]) > 0).all()


def test_dots_of_every_condition_and_variant() -> None:
    rng = np.random.default_rng(1)
    conditions = ("stress.dark", "stress.low_quality")
    names = [f"{of}.roc_auc" for of in ("val", *conditions, "test")]
    values = {v: rng.random(4).tolist() for v in VARIANTS}
    evaluation = results.evaluation(
        {
            f"{v}.{name}": value
            for v in VARIANTS
            for name, value in zip(names, values[v], strict=True)
        }
    )
    svg = charts.stress(evaluation)
    assert {"validation", "dark", "low quality", "test", *VARIANTS} <= set(labels(svg))
    assert_dots(svg, pd.DataFrame(values), charts.COLORS)


def test_dots_of_every_group_and_variant() -> None:
    rng = np.random.default_rng(2)
    table = pd.DataFrame({v: rng.random(3) for v in VARIANTS}, index=["a", "b", "c"])
    svg = charts.groups(table.assign(images=[66, 168, 390]))
    assert {"(66 images)", "(168 images)", "(390 images)"} <= set(labels(svg))
    assert_dots(svg, table, charts.COLORS)


def test_dots_of_every_feature_and_split() -> None:
    aucs = {
        "aspect ratio": {"train": 0.9, "val": 0.8, "test": 0.7},
        "height": {"train": 0.5, "val": 0.55, "test": 0.6},
    }
    table = pd.DataFrame(aucs).T
    svg = charts.single_feature_auc(table)
    assert {"aspect ratio", "height", *SPLITS} <= set(labels(svg))
    assert_dots(svg, table, {"train": "#333333", "val": "#56B4E9", "test": "#D55E00"})
