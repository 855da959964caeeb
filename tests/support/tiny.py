"""Exported networks with known outputs, and images for them."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops
from PIL import Image

from cxr.export.settings import FILE, OodSettings, Settings, TrainingRange, VariantSettings
from cxr.params import read_params
from cxr.prediction import ood
from cxr.tools.project_copy import PROJECT

SIDE = 32
THRESHOLD = 0.4
SCALE = {"slope": 2.0, "intercept": -1.0}
COLUMNS = {"bright": (0, SIDE), "left": (0, SIDE // 2)}
VARIANTS = {
    **dict.fromkeys(COLUMNS, VariantSettings(threshold=THRESHOLD, scale=SCALE)),
    "both": VariantSettings(
        threshold=THRESHOLD,
        scale=SCALE,
        members={"bright": SCALE, "left": {"slope": 1.0, "intercept": 0.0}},
    ),
}
CARD = "# Model card: bright\n\n| metric | test |\n|:--|--:|\n| recall | <b>0.9</b> |\n"


def export(
    folder: Path,
    columns: Mapping[str, tuple[int, int]] = COLUMNS,
    variants: Mapping[str, VariantSettings] = VARIANTS,
    recommended: str = "bright",
    **evaluate: object,
) -> None:
    """Write the outputs of the stage `export` that prediction and the web page need: networks that
    return the mean gray value / 255 of some columns; features: means of rows.
    """
    for name, (first, last) in {**columns, "features": (0, SIDE)}.items():
        image = ops.parameter([-1, SIDE, SIDE, 1], np.uint8)
        part = ops.slice(ops.convert(image, np.float32), [first], [last], [1], [2])
        axes = [2, 3] if name == "features" else [1, 2]
        mean = ops.divide(ops.reduce_mean(part, axes, keep_dims=False), np.float32(255))
        model = openvino.Model([mean], [image], name)
        openvino.save_model(model, folder / f"{name}.xml", compress_to_fp16=False)
    known = np.random.default_rng(1).normal(0.5, 0.04, (100, SIDE)).astype(np.float32)
    reference = ood.fit(known)
    ood.save(reference, folder / "ood_reference.npz")
    params = read_params(PROJECT / "params.yaml")
    Settings(
        image=params.image.model_copy(update={"input_size": SIDE}),
        evaluate=params.evaluate.model_copy(update=evaluate),
        recommended=recommended,
        variants=dict(variants),
        ood=OodSettings(
            threshold=ood.distances(reference, known).max() * 2,
            false_positive_rate={"val": 0.01, "test": 0.02},
            detection_rate={},
        ),
        trained_on=TrainingRange(shorter_side=(SIDE, 400), aspect_ratio=(0.8, 2.0)),
    ).write(folder / FILE)
    (folder / "model_card.md").write_text(CARD)


def grey(level: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("L", size, level)


def content_as(image: Image.Image, kind: str = "PNG") -> bytes:
    """Content of an image file of a format."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
