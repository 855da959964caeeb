"""Exported networks with known outputs, and images for them."""

import io
import json
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops
from PIL import Image

from cxr.params import read_params
from cxr.prediction import ood
from cxr.tools.project_copy import PROJECT

SIDE = 32
THRESHOLD = 0.4
SCALE = {"slope": 2.0, "intercept": -1.0}
CARD = "# Model card: bright\n\n| metric | test |\n|:--|--:|\n| recall | <b>0.9</b> |\n"


def save(path: Path, output: object, image: object) -> None:
    openvino.save_model(openvino.Model([output], [image], path.stem), path, compress_to_fp16=False)


def build(folder: Path) -> None:
    """Write `bright` (mean gray value / 255), `left` (that of the left half) and features (means of
    rows). The ensemble `both` is the mean of the first two.
    """
    for name, columns in {"bright": SIDE, "left": SIDE // 2}.items():
        image = ops.parameter([-1, SIDE, SIDE, 1], np.uint8)
        gray = ops.convert(image, np.float32)
        part = ops.slice(gray, [0], [columns], [1], [2])
        mean = ops.reduce_mean(part, [1, 2], keep_dims=False)
        save(folder / f"{name}.xml", ops.divide(mean, np.float32(255)), image)
    image = ops.parameter([-1, SIDE, SIDE, 1], np.uint8)
    rows = ops.reduce_mean(ops.convert(image, np.float32), [2, 3], keep_dims=False)
    save(folder / "features.xml", rows, image)


def export(folder: Path) -> None:
    """Write the outputs of the stage `export` that prediction and the web page need."""
    build(folder)
    rng = np.random.default_rng(1)
    known = rng.normal(128, 10, (100, SIDE)).astype(np.float32)
    reference = ood.fit(known)
    ood.save(reference, folder / "ood_reference.npz")
    limit = float(ood.distances(reference, known).max() * 2)
    image = read_params(PROJECT / "params.yaml").image.model_copy(update={"input_size": SIDE})
    alone = {"threshold": THRESHOLD, "scale": SCALE}
    members = {"bright": SCALE, "left": {"slope": 1.0, "intercept": 0.0}}
    settings = {
        "image": image.model_dump(mode="json"),
        "recommended": "bright",
        "variants": {
            "bright": alone,
            "left": alone,
            "both": {**alone, "members": members},
        },
        "ood": {"threshold": limit, "false_positive_rate": {"val": 0.01, "test": 0.02}},
        "trained_on": {"shorter_side": [SIDE, 400], "aspect_ratio": [0.8, 2.0]},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model_card.md").write_text(CARD)


def grey(level: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("L", size, level)


def content_as(image: Image.Image, kind: str = "PNG") -> bytes:
    """Content of an image file of a format."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
