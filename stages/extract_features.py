"""Run the frozen backbone once over every image."""

import keras

from cxr import backbones, features, paths, reproducible
from cxr.arrays import open_split
from cxr.datasets import image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(0)
    image = image_input(open_split(paths.ARRAYS / "train"))
    backbone = params.transfer.backbone
    weights = paths.weights(backbone, params.transfer.weights)
    scaling, pooling = params.transfer.scaling, params.transfer.pooling
    output = backbones.feature_extractor(backbone, weights, image, scaling, pooling)
    extractor = keras.Model(image, output)
    for split in ("train", "val", "stress", "test"):
        features.extract(extractor, open_split(paths.ARRAYS / split), paths.features(split))


if __name__ == "__main__":
    run_stage(main)
