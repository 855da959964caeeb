"""Train the same network behind random flip, rotation and zoom."""

import keras

from cxr import datasets, faster, networks, paths, reproducible, training
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    image, train, val = datasets.training_images(params.model.batch_size, params.seed)
    network = networks.small_cnn(params.model)
    model = keras.Model(image, networks.apply(network, image))
    augmentation = networks.augmentation(params.augment, params.seed)
    stack = augmentation + faster.for_training(network)
    learner = keras.Model(image, networks.apply(stack, image))
    weights = datasets.class_weights(train.labels, params.model.class_weights)
    training.train("augmented", learner, train, val, params.model, weights)
    reproducible.save_model(model, paths.model("augmented"))


if __name__ == "__main__":
    run_stage(main)
