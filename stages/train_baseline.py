"""Train the small CNN on the images as they are."""

import keras

from cxr import datasets, distribution, faster, networks, reproducible, training
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(params.seed)
    fit, resume = params.model, params.train.resume
    with distribution.strategy_scope(params.train.distribution):
        image, train, val = datasets.training_images(fit.batch_size, params.seed)
        network = networks.small_cnn(fit)
        model = keras.Model(image, networks.apply(network, image))
        learner = keras.Model(image, networks.apply(faster.for_training(network), image))
        weights = datasets.class_weights(train.labels, fit.class_weights)
        training.train("baseline", learner, train, val, fit, weights, resume=resume)
        training.save("baseline", model)


if __name__ == "__main__":
    run_stage(main)
