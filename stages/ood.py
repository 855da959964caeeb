"""Write the network of the frozen backbone and fit the OOD detector to its features."""

import keras

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import evenly_spaced, open_rows, open_split
from cxr.common.files import replacing, write_json
from cxr.common.names import SPLITS
from cxr.compute.runtimes import open_network
from cxr.errors import run_stage
from cxr.models import backbones
from cxr.models.networks import image_input
from cxr.params import read_params
from cxr.prediction import networks, ood


def main() -> None:
    params = read_params()
    determinism.make_deterministic(0)
    val = open_split(paths.ARRAYS / "val")
    features = {name: open_rows(paths.features(name)) for name in SPLITS}
    image = image_input(val)
    backbone = params.transfer.backbone
    weights = paths.weights(backbone, params.transfer.weights)
    preprocessing, pooling = params.transfer.preprocessing, params.transfer.pooling
    output = backbones.feature_extractor(backbone, weights, image, preprocessing, pooling)
    images = networks.compared_images(val)
    expected = features["val"][evenly_spaced(len(val.images), networks.COMPARED)]
    reference = ood.fit(features["train"])
    with replacing(paths.OOD) as folder:
        folder.mkdir()
        file = folder / paths.FEATURE_NETWORK
        comparison = networks.write_compared(keras.Model(image, output), file, images, expected)
        ood.save(reference, folder / ood.FILE)
        rates = ood.measure(reference, features, open_network(file), images)
        write_json(folder / paths.COMPARISON, {"features": comparison, "ood": rates})


if __name__ == "__main__":
    run_stage(main)
