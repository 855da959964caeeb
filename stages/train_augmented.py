"""Train the same network behind random flip, rotation and zoom."""

import keras

from cxr import datasets, networks, paths, reproducible, training
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    image, train, val = datasets.training_images(params.model.batch_size, params.seed)
    network = networks.small_cnn(params.model)
    augmentation = networks.augmentation(params.augment, params.seed)
    learner = keras.Model(image, networks.apply(augmentation + network, image))
    weights = datasets.class_weights(train.labels, params.model.class_weights)
    training.train("augmented", learner, train, val, params.model, weights)
    # The same trained layers without the augmentation before them are what is saved.
    model = keras.Model(image, networks.apply(network, image))
    reproducible.save_model(model, paths.model("augmented"))


if __name__ == "__main__":
    run_stage(main)
