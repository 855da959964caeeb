"""Train the head on the cached features; save it behind its backbone as one model."""

import numpy as np

from cxr import backbones, networks, paths, reproducible, training
from cxr.arrays import open_split
from cxr.datasets import Batches, class_weights, image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
    rows, val_rows = (np.load(paths.features(split), mmap_mode="r") for split in ("train", "val"))
    batches = Batches(rows, train.labels, params.transfer.batch_size, params.seed)
    val_batches = Batches(val_rows, val.labels, params.transfer.batch_size)
    head = networks.transfer_head(rows.shape[1:], params.transfer)
    weights = class_weights(train.labels, params.transfer.class_weights)
    training.train("transfer", head, batches, val_batches, params.transfer, weights)
    model = backbones.with_head(head, image_input(train), params.transfer)
    reproducible.save_model(model, paths.model("transfer"))


if __name__ == "__main__":
    run_stage(main)
