"""Train the same network behind random flip, rotation and zoom."""

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
    network = networks.small_cnn(params.model)
    augmentation = networks.augmentation(params.augment, params.seed)
    learner = keras.Model(image, networks.apply(augmentation + network, image))
    training.train("augmented", learner, batches, val_batches, params.model)
    # The same trained layers without the augmentation before them are what is saved.
    model = keras.Model(image, networks.apply(network, image))
    reproducible.save_model(model, paths.model("augmented"))


if __name__ == "__main__":
    run_stage(main)
