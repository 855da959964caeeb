"""Train the small CNN without augmentation."""

from cxr.common import determinism
from cxr.errors import run_stage
from cxr.params import read_params
from cxr.training import distribution, trainer


def main() -> None:
    params = read_params()
    determinism.make_deterministic(params.seed)
    with distribution.strategy_scope(params.train.strategy):
        trainer.train_small_cnn("baseline", params.model, params.seed, resume=params.train.resume)


if __name__ == "__main__":
    run_stage(main)
