"""Bring the backbone's weights to data/weights, where DVC pins them."""

from cxr import backbones, paths
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    path = paths.weights(params.transfer.backbone, params.transfer.weights)
    backbones.ensure_weights(path, params.transfer.backbone, params.transfer.weights)


if __name__ == "__main__":
    run_stage(main)
