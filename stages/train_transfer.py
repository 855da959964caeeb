"""Train the head on the cached features; save it behind its backbone as one model."""

from cxr import backbones, distribution, networks, paths, reproducible, training
from cxr.arrays import open_rows, open_split
from cxr.datasets import ArrayDataset, class_weights, image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    fit, resume = params.transfer, params.train.resume
    with distribution.strategy_scope(params.train.distribution):
        train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
        rows, val_rows = (open_rows(paths.features(name)) for name in ("train", "val"))
        batches = ArrayDataset(rows, train.labels, fit.batch_size, params.seed)
        val_batches = ArrayDataset(val_rows, val.labels, fit.batch_size)
        head = networks.transfer_head(rows.shape[1:], fit)
        weights = class_weights(train.labels, fit.class_weights)
        training.train("transfer", head, batches, val_batches, fit, weights, resume=resume)
        model = backbones.with_head(head, image_input(train), fit)
        training.save("transfer", model)


if __name__ == "__main__":
    run_stage(main)
