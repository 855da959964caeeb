"""Train the last layers of the backbone on the cached activations."""

from cxr import activations, distribution, finetuning, paths, reproducible, training
from cxr.arrays import open_split
from cxr.datasets import image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    fit, resume = params.finetune, params.train.resume
    with distribution.strategy_scope(params.train.distribution):
        train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
        batches = finetuning.batches("train", train, fit, params.seed)
        val_batches = finetuning.batches("val", val, fit)
        halves = activations.chosen_halves(params.transfer, fit)
        learner = finetuning.with_outputs(halves.tuned, fit)
        training.train("finetuned", learner, batches, val_batches, fit, resume=resume)
        image = image_input(train)
        model = finetuning.whole_model(image, halves.frozen, learner, fit.zooms)
        training.save("finetuned", model)


if __name__ == "__main__":
    run_stage(main)
