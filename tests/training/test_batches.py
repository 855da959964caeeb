import keras
import numpy as np
import pandas as pd
import pytest

from cxr.common.arrays import Split
from cxr.models.networks import image_input
from cxr.training.batches import ArrayDataset, class_weights, image_batches


def split(count: int, size: int = 4) -> Split:
    """Image i is filled with the value i; even ones are NORMAL."""
    images = np.repeat(np.arange(count, dtype=np.uint8), size * size).reshape(-1, size, size)
    labels = ["NORMAL" if i % 2 == 0 else "PNEUMONIA" for i in range(count)]
    return Split(images, pd.DataFrame({"label": labels}))


def image_numbers(batches: ArrayDataset) -> list[int]:
    return [int(image[0, 0, 0]) for i in range(len(batches)) for image in batches[i][0]]


@pytest.mark.parametrize(("count", "size"), [(10, 3), (9, 3), (1, 32), (33, 32)])
def test_each_epoch_has_each_row_once(count: int, size: int) -> None:
    batches = image_batches(split(count), size)
    assert image_numbers(batches) == list(range(count))
    batches = image_batches(split(count), size, shuffle_seed=1)
    batches.on_epoch_end()
    assert sorted(image_numbers(batches)) == list(range(count))


def test_shuffling_keeps_images_with_their_labels() -> None:
    batches = image_batches(split(20), 6, shuffle_seed=5)
    batches.on_epoch_end()
    for number in range(len(batches)):
        images, labels = batches[number]
        assert images.shape[1:] == (4, 4, 1)
        assert images.dtype == np.uint8
        assert labels.dtype == np.float32
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels[:, 0])


def orders(seed: int) -> list[list[int]]:
    return orders_of(image_batches(split(50), 8, shuffle_seed=seed))


def test_order_depends_only_on_seed_and_epoch() -> None:
    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    first, second, third = orders(1)
    assert first != second != third != first


def test_fit_shuffles_each_epoch() -> None:
    """Record the batches that Keras requests, with its prefetching."""
    seen: list[int] = []

    class Spy(ArrayDataset):
        def __getitem__(self, number):  # type: ignore[no-untyped-def]
            batch = super().__getitem__(number)
            seen.extend(int(v) for v in batch[0][:, 0, 0, 0])
            return batch

    data = split(24)
    spy = Spy(data.images, data.labels, 5, shuffle_seed=1)
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile(loss="mse")
    model.fit(spy, epochs=3, verbose=0, shuffle=False)
    epochs = [seen[-24 * k : len(seen) - 24 * (k - 1)] for k in (3, 2, 1)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs == orders_of(image_batches(data, 5, shuffle_seed=1))


def orders_of(batches: ArrayDataset) -> list[list[int]]:
    """Orders of three epochs."""
    found = []
    for _ in range(3):
        batches.on_epoch_end()
        found.append(image_numbers(batches))
    return found


def test_features_are_passed_unchanged() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    x, y = ArrayDataset(rows, np.array([0, 1, 0, 1]), 3)[0]
    np.testing.assert_array_equal(x, rows[:3])
    np.testing.assert_array_equal(y, [[0], [1], [0]])


def test_input_has_the_shape_of_the_images() -> None:
    image = image_input(split(2, size=6))
    assert image.shape == (None, 6, 6, 1)
    assert image.dtype == "uint8"


def test_class_weights() -> None:
    labels = np.array([0] * 2 + [1] * 6)
    assert class_weights(labels, "balanced") == {0: 8 / 4, 1: 8 / 12}
    assert class_weights(labels, "none") is None
