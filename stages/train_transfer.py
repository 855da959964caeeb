"""Train the head on the cached features; save it with the backbone as one model."""

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import open_rows, open_split
from cxr.errors import run_stage
from cxr.models import backbones, networks
from cxr.models.networks import image_input
from cxr.params import read_params
from cxr.training import distribution, trainer
from cxr.training.batches import ArrayDataset, class_weights


def main() -> None:
    params = read_params()
    determinism.make_deterministic(params.seed)
    fit, resume = params.transfer, params.train.resume
    with distribution.strategy_scope(params.train.strategy):
        train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
        rows, val_rows = (open_rows(paths.features(name)) for name in ("train", "val"))
        batches = ArrayDataset(rows, train.labels, fit.batch_size, params.seed)
        val_batches = ArrayDataset(val_rows, val.labels, fit.batch_size)
        head = networks.transfer_head(rows.shape[1:], fit)
        weights = class_weights(train.labels, fit.class_weights)
        trainer.train("transfer", head, batches, val_batches, fit, weights, resume=resume)
        model = backbones.with_head(head, image_input(train), fit)
        trainer.save("transfer", model)


if __name__ == "__main__":
    run_stage(main)
