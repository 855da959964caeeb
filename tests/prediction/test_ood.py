"""OOD images have high scores; in-distribution images rarely exceed the threshold."""

from pathlib import Path

import numpy as np
import pytest

from cxr.errors import CxrError
from cxr.prediction import ood
from cxr.prediction.ood import FeatureSubspace

DIMENSIONS, USED = 64, 6


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Rows (900, D) that vary in few directions, with little noise."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(USED, DIMENSIONS))
    rows = 3 + rng.normal(size=(900, USED)) @ directions + 0.05 * rng.normal(size=(900, DIMENSIONS))
    return rows.astype(np.float32)


def fitted(monkeypatch: pytest.MonkeyPatch, rows: np.ndarray) -> FeatureSubspace:
    monkeypatch.setattr(ood, "MAX_COMPONENTS", 8)
    return ood.fit(rows)


def test_images_outside_of_the_training_subspace_exceed_the_threshold(
    monkeypatch: pytest.MonkeyPatch, features: np.ndarray
) -> None:
    reference = fitted(monkeypatch, features[:500])
    held_out = ood.distances(reference, features[500:])
    threshold = ood.ood_threshold(ood.distances(reference, features[500:700]))
    others = np.random.default_rng(1).normal(size=(50, DIMENSIONS)).astype(np.float32)
    assert ood.distances(reference, others).min() > threshold
    assert (held_out > threshold).mean() < 0.04


def test_distance_is_the_length_of_the_residual() -> None:
    reference = FeatureSubspace(np.zeros(3, np.float32), np.eye(3, dtype=np.float32)[:1])
    rows = np.array([[5, 0, 0], [0, 2, 0], [3, 4, 0], [6, 8, 0], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(ood.distances(reference, rows), [0, 1, 0.8, 0.8, 0], atol=1e-7)


def test_components_are_orthonormal_and_have_the_largest_variance(
    monkeypatch: pytest.MonkeyPatch, features: np.ndarray
) -> None:
    reference = fitted(monkeypatch, features)
    components = reference.components
    np.testing.assert_allclose(components @ components.T, np.eye(8), atol=1e-5)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    _, sizes, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(abs(components[:USED] @ vectors[:USED].T), np.eye(USED), atol=1e-2)
    np.testing.assert_allclose(
        (ood.distances(reference, features) ** 2).sum(), (sizes[8:] ** 2).sum(), rtol=1e-3
    )


def test_blocks_of_rows_give_the_same_result(
    monkeypatch: pytest.MonkeyPatch, features: np.ndarray
) -> None:
    whole = ood.distances(fitted(monkeypatch, features), features)
    monkeypatch.setattr(ood, "BLOCK_ROWS", 7)
    blocks = ood.distances(fitted(monkeypatch, features), features)
    np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-6)


def test_few_images_give_few_components(features: np.ndarray) -> None:
    assert ood.fit(features[:12]).components.shape == (3, DIMENSIONS)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (50, 50), (99, 99), (100, 100), (1000, 991)])
def test_threshold_is_the_conformal_quantile(count: int, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(count) + 1.0
    assert ood.ood_threshold(scores) == rank


def test_a_saved_reference_is_loaded_unchanged(tmp_path: Path, features: np.ndarray) -> None:
    reference = ood.fit(features)
    ood.save(reference, tmp_path / "ood_reference.npz")
    loaded = ood.load(tmp_path / "ood_reference.npz")
    np.testing.assert_array_equal(loaded.mean, reference.mean)
    np.testing.assert_array_equal(loaded.components, reference.components)


@pytest.mark.parametrize("content", [None, b"", b"nothing", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ood_reference.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CxrError, match=r"ood_reference\.npz .*dvc repro export"):
        ood.load(path)
