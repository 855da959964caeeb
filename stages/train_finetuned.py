"""Train the last layers of the backbone on the cached activations."""

from cxr import activations, finetuning, paths, reproducible, training
from cxr.arrays import open_split
from cxr.datasets import image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
    batches = finetuning.batches("train", train, params.finetune, params.seed)
    val_batches = finetuning.batches("val", val, params.finetune)
    halves = activations.chosen_halves(params.transfer, params.finetune)
    learner = finetuning.with_outputs(halves.tuned, params.finetune)
    groups = finetuning.stopping_groups(val.labels, params.finetune)
    training.train("finetuned", learner, batches, val_batches, params.finetune, groups=groups)
    zooms = params.finetune.zooms
    model = finetuning.whole_model(image_input(train), halves.frozen, learner, zooms)
    reproducible.save_model(model, paths.model("finetuned"))


if __name__ == "__main__":
    run_stage(main)
