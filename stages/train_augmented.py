"""Train the same network behind random flip, rotation and zoom."""

from cxr import distribution, networks, reproducible, training
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    with distribution.strategy_scope(params.train.distribution):
        layers = networks.augmentation(params.augment, params.seed)
        training.train_small_cnn(
            "augmented", params.model, params.seed, layers, resume=params.train.resume
        )


if __name__ == "__main__":
    run_stage(main)
