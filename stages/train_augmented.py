"""Train the small CNN with random flip, rotation and zoom."""

from cxr.common import determinism
from cxr.errors import run_stage
from cxr.models import networks
from cxr.params import read_params
from cxr.training import distribution, trainer


def main() -> None:
    params = read_params()
    determinism.make_deterministic(params.seed)
    with distribution.strategy_scope(params.train.strategy):
        layers = networks.augmentation(params.augment, params.seed)
        trainer.train_small_cnn(
            "augmented", params.model, params.seed, layers, resume=params.train.resume
        )


if __name__ == "__main__":
    run_stage(main)
