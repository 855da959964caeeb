"""Train the small CNN on the images as they are."""

import keras

from cxr import networks, paths, reproducible, training
from cxr.arrays import open_split
from cxr.datasets import image_batches, image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    train, val = open_split(paths.ARRAYS / "train"), open_split(paths.ARRAYS / "val")
    batches = image_batches(train, params.model.batch_size, params.seed)
    val_batches = image_batches(val, params.model.batch_size)
    image = image_input(train)
    model = keras.Model(image, networks.apply(networks.small_cnn(params.model), image))
    training.train("baseline", model, batches, val_batches, params.model)
    reproducible.save_model(model, paths.model("baseline"))


if __name__ == "__main__":
    run_stage(main)
