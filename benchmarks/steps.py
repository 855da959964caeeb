"""A training step of the baseline, and the time of its input."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from benchmarks import images, notebook
from benchmarks.timing import Comparison, Times, alternate
from cxr.models import networks
from cxr.params import Params, read_params
from cxr.training import fast_layers, trainer
from cxr.training.batches import image_batches

REPEATS = 9
N_LINKS = 4  # per file, for the input
STEPS = 4  # per measurement


def measure() -> list[Comparison]:
    batch, gray, labels = inputs()
    ours, theirs = training_model(read_params()), notebook.small_cnn()
    for model, rows in ((ours, batch), (theirs, gray)):
        steps(model, rows, labels)  # compiles
    times = alternate(
        lambda: steps(ours, batch, labels), lambda: steps(theirs, gray, labels), REPEATS
    )
    per_step = Times(
        *([seconds / STEPS for seconds in measured] for measured in (times.ours, times.notebook))
    )
    sizes = f"batch {len(batch)}, {notebook.SIZE} px"
    step = per_step.compare("training step of the baseline", target=0.65, sizes=sizes)
    return [step, of_input(step.ours)]


def inputs() -> tuple[Any, Any, Any]:
    """One batch of images as uint8 (pipeline) and as float32 (notebook), and their labels."""
    shape = (notebook.BATCH_SIZE, notebook.SIZE, notebook.SIZE, 1)
    batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    labels = (np.arange(len(batch)) % 2).astype(np.float32)[:, np.newaxis]
    return batch, batch.astype(np.float32), labels


def training_model(params: Params) -> keras.Model:
    """The baseline as the pipeline trains it, with the notebook's image size, but without
    deterministic TensorFlow, which would also apply to the notebook.
    """
    image = keras.Input((notebook.SIZE, notebook.SIZE, 1), dtype="uint8")
    network = networks.small_cnn(params.model)
    networks.apply(network, image)
    model = keras.Model(image, networks.apply(fast_layers.for_training(network), image))
    model.compile(
        optimizer=trainer.optimizer(params.model, 100),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def steps(model: keras.Model, batch: Any, labels: Any) -> int:
    """Run training steps; return their number."""
    for _ in range(STEPS):
        model.train_on_batch(batch, labels)
    return STEPS


def of_input(step: float) -> Comparison:
    """Seconds of the input of a batch from the cache and from the notebook's folders; the ratio is
    that of the cache to the training step.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, kind = images.full_size(Path(scratch) / "images")
        train = images.link_repeatedly(folder / "train", N_LINKS, Path(scratch) / "linked")
        split = images.cache(train, Path(scratch) / "arrays")
        batches = image_batches(split, notebook.BATCH_SIZE, shuffle_seed=1)
        adapter, decoded = PyDatasetAdapter(batches, None), notebook.read(train)

        def epoch() -> None:
            adapter.on_epoch_begin()
            list(adapter.get_tf_dataset())
            adapter.on_epoch_end()

        times = alternate(epoch, lambda: list(decoded), REPEATS)
        count = len(split.images)
    ours = statistics.median(times.ours) / count * notebook.BATCH_SIZE
    return Comparison(
        what="input of a batch from the second epoch on, as a fraction of the step",
        ours=ours,
        notebook=statistics.median(times.notebook) / count * notebook.BATCH_SIZE,
        unit="s",
        ratio=ours / step,
        target=0.02,
        repeats=REPEATS,
        sizes=f"batch {notebook.BATCH_SIZE}, {count} {kind}",
    )
