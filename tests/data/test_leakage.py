"""Leakage of patients and duplicates, on synthetic tables and on typically modified images."""

import io
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from cxr.data import leakage, manifest, phantom
from cxr.errors import CxrError

RNG = np.random.default_rng(4)
HASHES = [RNG.bytes(32).hex() for _ in range(8)]


def table(*rows: tuple[str, str, str, int, int]) -> tuple[pd.DataFrame, pd.Series]:
    """Manifest and splits of rows (patient, label, split, file number, hash number)."""
    images = pd.DataFrame(
        {
            "path": f"{number}.png",
            "label": label,
            "patient": patient,
            "sha256": f"{file}",
            "phash": HASHES[phash],
        }
        for number, (patient, label, _, file, phash) in enumerate(rows)
    )
    images.index = pd.Index(range(10, 10 + len(rows)))  # as of a filtered table
    return images, pd.Series([row[2] for row in rows], index=images.index)


def found(
    *rows: tuple[str, str, str, int, int], group_by: str = "patient"
) -> list[tuple[str, ...]]:
    """Kind, path and counterpart."""
    result = leakage.find(*table(*rows), group_by)
    assert list(result.columns) == leakage.COLUMNS
    return list(result[["kind", "path", "other_path"]].itertuples(index=False, name=None))


def test_no_leakage() -> None:
    rows = [("a", "NORMAL", "train", 1, 1), ("a", "NORMAL", "train", 1, 1)]
    rows += [("b", "NORMAL", "val", 2, 2), ("c", "PNEUMONIA", "test", 3, 3)]
    assert found(*rows) == []


def test_the_image_further_from_test_is_dropped() -> None:
    train, val = ("a", "NORMAL", "train", 1, 1), ("b", "NORMAL", "val", 1, 1)
    test = ("c", "NORMAL", "test", 1, 1)
    assert found(train, val) == found(("a", "NORMAL", "train", 1, 1), val)
    assert found(val, train) == [("identical", "1.png", "0.png")]
    assert found(train, val, test) == [
        ("identical", "0.png", "1.png"),
        ("identical", "0.png", "2.png"),
        ("identical", "1.png", "2.png"),
    ]


def test_a_patient_in_several_splits() -> None:
    rows = [("a", "NORMAL", "train", 1, 1), ("a", "NORMAL", "test", 2, 2)]
    rows += [("a", "NORMAL", "val", 3, 3), ("a", "NORMAL", "test", 4, 4)]
    assert found(*rows) == [("patient", "0.png", "1.png"), ("patient", "2.png", "1.png")]


def test_by_image_a_patient_may_be_in_several_splits_but_no_duplicate_of_another() -> None:
    rows = [("a", "NORMAL", "train", 1, 1), ("a", "NORMAL", "val", 1, 1)]
    rows += [("b", "NORMAL", "train", 2, 2), ("c", "NORMAL", "val", 2, 2)]
    assert found(*rows, group_by="image") == [("identical", "2.png", "3.png")]
    both = [("a", "NORMAL", "train", 1, 1), ("a", "PNEUMONIA", "train", 1, 1)]
    assert [kind for kind, _, _ in found(*both, group_by="image")] == ["label_conflict"] * 2


def test_near_duplicates() -> None:
    near = bytearray.fromhex(HASHES[0])
    for byte in range(leakage.MAX_HASH_DISTANCE):
        near[byte] ^= 1
    images, assigned = table(("a", "NORMAL", "train", 1, 0), ("b", "NORMAL", "test", 2, 1))
    images.loc[11, "phash"] = near.hex()
    assert list(leakage.find(images, assigned, "patient")["kind"]) == ["near_identical"]
    near[leakage.MAX_HASH_DISTANCE] ^= 1
    images.loc[11, "phash"] = near.hex()
    assert leakage.find(images, assigned, "patient").empty


def test_duplicates_with_conflicting_labels_are_both_dropped_in_any_split() -> None:
    rows = [("a", "NORMAL", "train", 1, 1), ("b", "PNEUMONIA", "train", 1, 1)]
    conflicts = [("label_conflict", "0.png", "1.png"), ("label_conflict", "1.png", "0.png")]
    assert found(*rows) == conflicts
    assert found(rows[0], ("b", "PNEUMONIA", "test", 1, 1)) == conflicts


def test_every_pair_is_compared_with_any_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("abcdefg"[n], "NORMAL", ("train", "val")[n % 2], n, n // 2) for n in range(7)]
    whole = found(*rows)
    assert [row[1] for row in whole] == ["0.png", "2.png", "4.png"]
    for block in (1, 2, 3):
        monkeypatch.setattr(leakage, "BLOCK", block)
        assert found(*rows) == whole


def test_guard_raises_warns_or_drops(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"p{n}", "NORMAL", ("train", "test")[n % 2], n // 2, n // 2) for n in range(16)]
    rows += [(f"q{n}", "NORMAL", ("train", "test")[n % 2], n // 2, n // 2) for n in range(16)]
    result = leakage.find(*table(*rows), "patient")
    with pytest.raises(CxrError, match=r"16 image.*identical 16.*\n  0\.png \(train\)") as caught:
        leakage.guard(result, "error", "patient")
    assert "data.on_leak" in str(caught.value)
    assert f"and {len(result) - leakage.MAX_LISTED} more, in data/leaks.csv" in str(caught.value)
    nothing = dict.fromkeys(leakage.KINDS, 0)
    assert leakage.guard(result, "warn", "patient") == nothing | {"identical": 16, "dropped": 0}
    assert "kept" in capsys.readouterr().out
    assert leakage.guard(result, "drop", "patient") == nothing | {"identical": 16, "dropped": 16}
    assert "dropped" in capsys.readouterr().out
    assert leakage.guard(result.head(0), "error", "patient") == nothing | {"dropped": 0}
    # Patients that were not compared are not reported as none.
    assert leakage.guard(result.head(0), "error", "image") == nothing | {
        "patient": None,
        "dropped": 0,
    }
    assert capsys.readouterr().out == ""


def near_copies(image: Image.Image) -> dict[str, Image.Image]:
    """Typical modifications of images that move between data sets."""
    compressed = io.BytesIO()
    image.save(compressed, "JPEG", quality=20)
    return {
        "compressed": Image.open(compressed),
        "smaller": image.resize((image.width // 2, image.height // 2)),
        "brighter": ImageEnhance.Brightness(image).enhance(1.2),
        "paler": ImageEnhance.Contrast(image).enhance(0.8),
        "stretched": image.resize((224, 224)),
    }


def differing_bits(image: Image.Image, other: Image.Image) -> int:
    first, second = (imagehash.phash(part, manifest.HASH_SIZE) for part in (image, other))
    return int(first - second)


def test_modified_phantoms_are_near_duplicates() -> None:
    for seed in range(5):
        pixels = phantom.generate_image(np.random.default_rng(seed), "virus", short_side=128)
        original = Image.fromarray(pixels)
        for name, copy in near_copies(original).items():
            assert differing_bits(original, copy) <= leakage.MAX_HASH_DISTANCE, name


@pytest.mark.slow
@pytest.mark.real_data
def test_of_real_images_only_duplicates_are_near(real_data: Path) -> None:
    images = manifest.verify(real_data, "error").images
    pairs = np.concatenate(
        [np.stack(pair, axis=1) for pair in leakage.near_duplicates(images["phash"])]
    )
    patients, files = (images[key].to_numpy()[pairs] for key in ("patient", "sha256"))
    of_two = patients[:, 0] != patients[:, 1]
    assert 0 < of_two.sum() < len(pairs)
    assert (files[of_two, 0] == files[of_two, 1]).all()
    for path in images["path"].sample(40, random_state=1):
        with Image.open(real_data / path) as image:
            gray = image.convert("L")
        for name, copy in near_copies(gray).items():
            assert differing_bits(gray, copy) <= leakage.MAX_HASH_DISTANCE, (path, name)
