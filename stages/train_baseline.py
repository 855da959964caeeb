"""Train the small CNN on the images as they are."""

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
    learner = keras.Model(image, networks.apply(faster.for_training(network), image))
    weights = datasets.class_weights(train.labels, params.model.class_weights)
    training.train("baseline", learner, train, val, params.model, weights)
    reproducible.save_model(model, paths.model("baseline"))


if __name__ == "__main__":
    run_stage(main)
