from pathlib import Path

import numpy as np
import pytest

from cxr.models import backbones, pretraining, split_backbone


def test_training_data_is_balanced_and_half_perturbed() -> None:
    images, labels = pretraining.training_data(8)
    assert images.shape == (16, pretraining.INPUT_SIZE, pretraining.INPUT_SIZE, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 0, 2] * 4
    assert not np.array_equal(images[:8], images[8:])
    assert np.array_equal(images, pretraining.training_data(8)[0])


@pytest.mark.slow
def test_pretraining_changes_weights_deterministically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "IMAGES", 16)
    monkeypatch.setattr(pretraining, "EPOCHS", 1)
    random = tmp_path / "random.weights.h5"
    backbones.ensure_weights(random, "tiny", "none")
    paths = [tmp_path / f"{name}.weights.h5" for name in ("first", "second")]
    for path in paths:
        pretraining.write_phantom_weights(path, "tiny")
    untrained, first, second = (
        backbones.load_backbone("tiny", path).get_weights() for path in (random, *paths)
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(untrained[0], first[0], atol=1e-4)


@pytest.mark.parametrize(
    ("trainable_from", "n_trained"), [("last_stage", 1), ("last_two_stages", 2)]
)
def test_tiny_is_cut_before_the_blocks_of_its_last_stages(
    tmp_path: Path, trainable_from: str, n_trained: int
) -> None:
    weights = tmp_path / "w.weights.h5"
    backbones.ensure_weights(weights, "tiny", "none")
    parts = split_backbone.split_backbone("tiny", weights, "imagenet", 64, trainable_from)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), dtype=np.uint8)
    scale, offset = backbones.BACKBONES["tiny"].scaling
    scaled = np.repeat(images, 3, -1) * np.float32(scale) + np.float32(offset)
    whole = backbones.load_backbone("tiny", weights)(scaled)
    assert whole.shape == (2, 8, 8, 64)
    np.testing.assert_allclose(parts.tuned(parts.frozen(images)), whole, atol=1e-4)
    kernels = [weight for weight in parts.tuned.trainable_weights if weight.ndim == 4]
    assert len(kernels) == n_trained
