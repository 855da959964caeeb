"""Write the OpenVINO network of a variant and predict with it: `python -m stages.predict NAME`."""

import argparse

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import open_split
from cxr.common.files import replacing, write_csv, write_json
from cxr.common.names import TRAINED
from cxr.compute.runtimes import run_all
from cxr.errors import run_stage
from cxr.prediction import networks
from cxr.prediction.variants import predict_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=TRAINED)
    variant = parser.parse_args().variant
    determinism.make_deterministic(0)
    model = networks.load_model(paths.model(variant))
    images = networks.compared_images(open_split(paths.ARRAYS / "val"))
    expected = run_all(model.predict_on_batch, images)
    with replacing(paths.network(variant).parent) as folder:
        folder.mkdir()
        file = folder / paths.network(variant).name
        comparison = networks.write_compared(model, file, images, expected)
        write_json(folder / paths.COMPARISON, comparison)
    write_csv(paths.predictions(variant), predict_variant(variant, model))


if __name__ == "__main__":
    run_stage(main)
