"""Run the frozen backbone over all images."""

import keras

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import open_split
from cxr.errors import run_stage
from cxr.features import extract
from cxr.models import backbones
from cxr.models.networks import image_input
from cxr.params import read_params


def main() -> None:
    params = read_params()
    determinism.make_deterministic(0)
    image = image_input(open_split(paths.ARRAYS / "train"))
    backbone = params.transfer.backbone
    weights = paths.weights(backbone, params.transfer.weights)
    preprocessing, pooling = params.transfer.preprocessing, params.transfer.pooling
    output = backbones.feature_extractor(backbone, weights, image, preprocessing, pooling)
    extractor = keras.Model(image, output)
    for name in ("train", "val", "stress", "test"):
        split = open_split(paths.ARRAYS / name)
        path, dask_scheduler = paths.features(name), params.preprocess.dask_scheduler
        extract.extract(extractor, params.transfer.inference_backend, split, path, dask_scheduler)


if __name__ == "__main__":
    run_stage(main)
