"""Bring the backbone's weights to data/weights, where DVC pins them."""

from cxr import backbones, paths, pretraining
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    backbone, weights = params.transfer.backbone, params.transfer.weights
    path = paths.weights(backbone, weights)
    if weights == "phantom":
        pretraining.write_phantom_weights(path, backbone)
    else:
        backbones.ensure_weights(path, backbone, weights)


if __name__ == "__main__":
    run_stage(main)
