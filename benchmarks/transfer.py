"""The transfer variant: the frozen backbone runs once per image, or in each epoch."""

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
N_LINKS = 4  # per file, so that one-time costs have a realistic weight


def measure() -> list[Comparison]:
    params = read_params().transfer
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder, kind = images.full_size(scratch / "images")
        folder = images.link_repeatedly(folder, N_LINKS, scratch / "linked")
        weights = backbone_weights(scratch)
        with contextlib.chdir(scratch):  # the training writes its history here
            heads: list[float] = []

            def ours() -> None:
                from_files(folder, weights, params)
                heads.append(
                    seconds_of(lambda: train_head(params))
                )  # with new parameters of the head

            def theirs() -> None:
                model = notebook.frozen_xception(weights)
                notebook.fit(model, folder, params.epochs, "rgb")

            times = alternate(ours, theirs, REPEATS)
        number = len(images.files(folder))
    sizes = f"{number} {kind}, {params.epochs} epochs, {notebook.SIZE} px, {cores()} cores"
    first = [whole - head for whole, head in zip(times.ours, heads, strict=True)]
    return [
        Times(first, times.notebook).compare(
            "transfer variant, first run, from files to the trained head", target=0.20, sizes=sizes
        ),
        Times(heads, times.notebook).compare(
            "transfer variant, training of the head with new parameters", target=0.02, sizes=sizes
        ),
    ]


def backbone_weights(scratch: Path) -> Path:
    """The weights of the pipeline if they exist, otherwise random ones, which are as fast."""
    weights = paths.weights("xception", "imagenet").resolve()
    if not weights.is_file():
        weights = scratch / "random.weights.h5"
        backbones.ensure_weights(weights, "xception", "none")
    return weights


def from_files(folder: Path, weights: Path, params: TransferParams) -> None:
    """Compute arrays, features and head as the stages do, for train and val."""
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
    """Train the head on the cached features."""
    batches = {}
    for name, seed in (("train", 1), ("val", None)):
        labels = open_split(paths.ARRAYS / name).labels
        rows = open_rows(paths.features(name))
        batches[name] = ArrayDataset(rows, labels, params.batch_size, seed)
    head = networks.transfer_head(batches["train"].rows.shape[1:], params)
    weights = class_weights(batches["train"].labels, params.class_weights)
    trainer.train("transfer", head, batches["train"], batches["val"], params, weights)
