"""The transfer variant: the frozen backbone once for each image, or again in each epoch."""

import contextlib
import tempfile
from pathlib import Path

import keras

from benchmarks import images, notebook
from benchmarks.timing import Comparison, Times, alternate, cores, seconds_of
from cxr import paths
from cxr.common.arrays import open_rows, open_split
from cxr.features import extract
from cxr.models import backbones, networks
from cxr.models.networks import image_input
from cxr.params import TransferParams, read_params
from cxr.training import trainer
from cxr.training.batches import ArrayDataset, class_weights

REPEATS = 3
COPIES = 4  # of each file: a data set in which what is done once does not weigh too much


def measure() -> list[Comparison]:
    params = read_params().transfer
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder, kind = images.full_size(scratch / "images")
        folder = images.repeated(folder, COPIES, scratch / "many")
        weights = backbone_weights(scratch)
        with contextlib.chdir(scratch):  # where the training's history is written
            heads: list[float] = []

            def ours() -> None:
                from_files(folder, weights, params)
                heads.append(seconds_of(lambda: train_head(params)))  # other parameters of the head

            def theirs() -> None:
                model = notebook.frozen_xception(weights)
                notebook.fit(model, folder, params.epochs, "rgb")

            times = alternate(ours, theirs, REPEATS)
        number = len(images.files(folder))
    sizes = f"{number} {kind}, {params.epochs} epochs, side {notebook.SIZE}, {cores()} cores"
    first = [whole - head for whole, head in zip(times.ours, heads, strict=True)]
    return [
        Times(first, times.notebook).compare(
            "transfer variant, first run, from files to trained head", target=0.20, sizes=sizes
        ),
        Times(heads, times.notebook).compare(
            "transfer variant, new parameters of the head: its training", target=0.02, sizes=sizes
        ),
    ]


def backbone_weights(scratch: Path) -> Path:
    """The pipeline's weights where they are, else random ones, which are as fast."""
    weights = paths.weights("xception", "imagenet").resolve()
    if not weights.is_file():
        weights = scratch / "random.weights.h5"
        backbones.ensure_weights(weights, "xception", "none")
    return weights


def from_files(folder: Path, weights: Path, params: TransferParams) -> None:
    """Arrays, features, head: what the stages do for train and val."""
    for name in ("train", "val"):
        images.cache(folder / name, paths.ARRAYS / name)
    image = image_input(open_split(paths.ARRAYS / "train"))
    output = backbones.feature_extractor(
        "xception", weights, image, params.preprocessing, params.pooling
    )
    for name in ("train", "val"):
        split = open_split(paths.ARRAYS / name)
        extract.extract(
            keras.Model(image, output), params.inference_backend, split, paths.features(name)
        )
    train_head(params)


def train_head(params: TransferParams) -> None:
    """The head, on the features that are there."""
    batches = {}
    for name, seed in (("train", 1), ("val", None)):
        labels = open_split(paths.ARRAYS / name).labels
        rows = open_rows(paths.features(name))
        batches[name] = ArrayDataset(rows, labels, params.batch_size, seed)
    head = networks.transfer_head(batches["train"].rows.shape[1:], params)
    weights = class_weights(batches["train"].labels, params.class_weights)
    trainer.train("transfer", head, batches["train"], batches["val"], params, weights)
