"""Fine-tune the last layers of the backbone on the cached activations."""

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import open_split
from cxr.errors import run_stage
from cxr.models import split_backbone
from cxr.models.networks import image_input
from cxr.params import read_params
from cxr.training import distribution, finetuning, trainer


def main() -> None:
    params = read_params()
    determinism.make_deterministic(params.seed)
    fit, resume = params.finetune, params.train.resume
    with distribution.strategy_scope(params.train.strategy):
        train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
        batches = finetuning.batches("train", train, fit, params.seed)
        val_batches = finetuning.batches("val", val, fit)
        parts = split_backbone.configured_backbone(params.transfer, fit)
        training_model = finetuning.with_outputs(parts.tuned, fit)
        trainer.train("finetuned", training_model, batches, val_batches, fit, resume=resume)
        image = image_input(train)
        model = finetuning.whole_model(image, parts.frozen, training_model, fit.tta_scales)
        trainer.save("finetuned", model)


if __name__ == "__main__":
    run_stage(main)
