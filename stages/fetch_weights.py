"""Download or pretrain the weights of the backbone, to data/weights."""

import sys

import keras

from cxr import paths
from cxr.errors import run_stage
from cxr.models import backbones, pretraining
from cxr.params import read_params


def main() -> None:
    params = read_params()
    backbone, weights = params.transfer.backbone, params.transfer.weights
    path = paths.weights(backbone, weights)
    if weights == "phantom":
        pretraining.write_phantom_weights(path, backbone)
        return
    if weights == "imagenet" and not path.exists():
        print(f"downloading the ImageNet weights of {backbone}", flush=True)
        if not sys.stdout.isatty():  # in a log, Keras's progress bar has thousands of lines
            keras.config.disable_interactive_logging()
    backbones.ensure_weights(path, backbone, weights)


if __name__ == "__main__":
    run_stage(main)
