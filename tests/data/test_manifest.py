"""The manifest: patients, rejects, counts."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

import imagehash
import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr.common.files import write_csv
from cxr.common.names import LABELS, SPLITS
from cxr.data import manifest
from cxr.data.dataset_folder import select_images
from cxr.data.manifest import (
    COLUMNS,
    Verified,
    describe,
    has_unknown_patient,
    identify,
    notes,
    read,
    read_patients,
    summarize,
    verify,
)
from cxr.errors import CxrError

OWN = ""  # the image counts as a patient of its own

SMALL = [
    "train/NORMAL/IM-0001-0001.png",
    "train/PNEUMONIA/person1_bacteria_2.png",
    "val/NORMAL/NORMAL2-IM-0001-0001.png",
    "test/PNEUMONIA/person1_virus_6.png",
]


def put(folder: Path, *names: str, mode: str = "L") -> Path:
    """Images of 8 x 6 pixels, each of another color."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((6, 8, 3), list(hashlib.sha256(name.encode()).digest()[:3]), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
    return folder


def spoil(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    ("name", "label", "patient", "pathogen"),
    [
        ("person1_bacteria_2.jpeg", "PNEUMONIA", "person1_bacteria", "bacteria"),
        ("person1_virus_6.jpeg", "PNEUMONIA", "person1_virus", "virus"),
        ("person1_virus_6.PNG", "PNEUMONIA", "person1_virus", "virus"),
        ("IM-0115-0001.jpeg", "NORMAL", "IM-0115", "none"),
        ("NORMAL2-IM-0383-0001.jpeg", "NORMAL", "NORMAL2-IM-0383", "none"),
        ("NORMAL2-IM-1406-0001-0002.jpeg", "NORMAL", "NORMAL2-IM-1406", "none"),
        # the third published version: the number is the patient's, whatever the disease
        ("NORMAL-1003233-0001.jpeg", "NORMAL", "patient1003233", "none"),
        ("BACTERIA-1003233-0003.jpeg", "PNEUMONIA", "patient1003233", "bacteria"),
        ("VIRUS-7422-0001.jpeg", "PNEUMONIA", "patient7422", "virus"),
        # what programs and people make of names
        (f"VIRUS-7422-0001_jpeg.rf.{'12' * 16}.jpg", "PNEUMONIA", "patient7422", "virus"),
        ("person1_virus_2 (1).jpeg", "PNEUMONIA", "person1_virus", "virus"),
        ("person1_virus_6_resized.png", "PNEUMONIA", "person1_virus", "virus"),
        ("IM-0115-0001-resized.png", "NORMAL", "IM-0115", "none"),
        ("resized_person1_virus_6.png", "PNEUMONIA", "person1_virus", "virus"),
        ("Person1_Virus_6.jpg", "PNEUMONIA", "person1_virus", "virus"),
        ("person1-virus-6.jpg", "PNEUMONIA", "person1_virus", "virus"),
        ("normal2-im-0383-0001.jpeg", "NORMAL", "NORMAL2-IM-0383", "none"),
        ("virus-7422-0001.jpeg", "PNEUMONIA", "patient7422", "virus"),
        ("NORMAL_original_IM-0115-0001.jpeg_ab.png", "NORMAL", "IM-0115", "none"),
        # a patient of its own
        ("0012.jpeg", "NORMAL", OWN, "none"),
        ("person1_fungus_2.jpeg", "PNEUMONIA", OWN, "none"),
        ("person_virus_2.jpeg", "PNEUMONIA", OWN, "none"),
        ("person1_virus.jpeg", "PNEUMONIA", OWN, "none"),
        ("xperson1_virus_2.jpeg", "PNEUMONIA", OWN, "none"),
        ("IM-0115.jpeg", "NORMAL", OWN, "none"),
        ("dim-0115-0001.jpeg", "NORMAL", OWN, "none"),
        ("NORMAL3-IM-0383-0001.jpeg", "NORMAL", OWN, "none"),
        ("Normal-12.png", "NORMAL", OWN, "none"),
        ("Normal-12-3.png", "NORMAL", OWN, "none"),
        ("NORMAL-12-00015.png", "NORMAL", OWN, "none"),
        ("person\u0661_virus_2.jpeg", "PNEUMONIA", OWN, "none"),
        # the other class: still that patient, whom the guards have to find
        ("person1_bacteria_2.jpeg", "NORMAL", "person1_bacteria", "none"),
        ("IM-0115-0001.jpeg", "PNEUMONIA", "IM-0115", "none"),
        ("NORMAL-7422-0001.jpeg", "PNEUMONIA", "patient7422", "none"),
    ],
)
def test_patient_and_pathogen_from_the_name(
    name: str, label: str, patient: str, pathogen: str
) -> None:
    path = PurePosixPath("test", label, name)
    assert identify(path, label) == (str(path) if patient is OWN else patient, pathogen)


@pytest.mark.parametrize(
    ("path", "label", "pathogen"),
    [
        ("train/PNEUMONIA/virus/1.png", "PNEUMONIA", "virus"),
        ("train/PNEUMONIA/BACTERIA/1.png", "PNEUMONIA", "bacteria"),
        ("train/PNEUMONIA/Viral Pneumonia/x/1.png", "PNEUMONIA", "virus"),
        ("PNEUMONIA/bacterial/1.png", "PNEUMONIA", "bacteria"),
        ("train/PNEUMONIA/bacteria/viral/1.png", "PNEUMONIA", "virus"),
        ("train/PNEUMONIA/virus/person1_bacteria_2.png", "PNEUMONIA", "bacteria"),
        ("train/PNEUMONIA/virus/IM-0001-0001.png", "PNEUMONIA", "virus"),
        ("virus/train/PNEUMONIA/1.png", "PNEUMONIA", "none"),
        ("train/NORMAL/virus/1.png", "NORMAL", "none"),
        ("train/PNEUMONIA/virus.png", "PNEUMONIA", "none"),
    ],
)
def test_pathogen_from_a_folder(path: str, label: str, pathogen: str) -> None:
    assert identify(PurePosixPath(path), label)[1] == pathogen


# What the name of an image may hold.
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1
)


def test_equal_names_in_different_folders_are_different_patients(tmp_path: Path) -> None:
    put(tmp_path, "train/NORMAL/1.png", "train/PNEUMONIA/1.png", "test/NORMAL/1.png")
    assert verify(tmp_path, "error").images["patient"].nunique() == 3


def patients_csv(folder: Path, *rows: str, header: str = "path,patient") -> Path:
    path = folder / "patients.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


FOREIGN = ["train/NORMAL/a.png", "train/PNEUMONIA/virus/b.png", "test/PNEUMONIA/c.png"]


def test_images_of_unknown_patients_are_counted_and_named(tmp_path: Path) -> None:
    found = verify(put(tmp_path, *FOREIGN, *SMALL), "error", patients=patients_csv(tmp_path))
    assert list(found.images.loc[has_unknown_patient(found.images), "path"]) == sorted(FOREIGN)
    summary = summarize(found, "directory")
    assert (summary["unknown_patients"], summary["unknown_pathogens"]) == (3, 1)
    patient, pathogen, _ = notes(found)
    assert "patient of 3 of 7 images" in patient
    assert "(test/PNEUMONIA/c.png, train/NORMAL/a.png," in patient
    assert "data.patients" in patient
    assert "pathogen of 1 PNEUMONIA image(s)" in pathogen
    assert "(test/PNEUMONIA/c.png)" in pathogen


def test_patients_from_a_table(tmp_path: Path) -> None:
    """They override the names; rows in any order, with a byte order mark."""
    put(tmp_path, *FOREIGN, SMALL[0])
    rows = [f"{path},kid {number}" for number, path in enumerate([*FOREIGN, SMALL[0]])]
    table = patients_csv(tmp_path, *rows, header="\ufeffpath,patient")
    found = verify(tmp_path, "error", patients=table)
    patients = found.images[["path", "patient"]].itertuples(index=False)
    assert dict(patients) == dict(row.split(",") for row in rows)
    assert summarize(found, "directory")["unknown_patients"] == 0
    assert not any("patient" in note for note in notes(found))
    assert list(found.images["pathogen"]) == ["none", "none", "none", "virus"]


def test_paths_are_normalized_before_comparison(tmp_path: Path) -> None:
    table = patients_csv(tmp_path, "./a//b.png, kid ,west", header="file,patient,ward")
    assert read_patients(table, [PurePosixPath("a/b.png")], "file") == {"a/b.png": "kid"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "an image without a row: test/PNEUMONIA/c.png"),
        (lambda rows: [*rows, "x.png,d"], "not an image of the folder: x.png"),
        (lambda rows: [*rows, rows[0]], "duplicate rows: train/NORMAL/a.png"),
        (lambda rows: [f"{FOREIGN[0]}, ", *rows[1:]], "a row without a patient: train/NORMAL/a"),
    ],
    ids=["lacks a row", "unknown path", "twice", "no patient"],
)
def test_a_table_that_does_not_match_is_rejected(tmp_path: Path, change: Any, message: str) -> None:
    put(tmp_path, *FOREIGN)
    table = patients_csv(tmp_path, *change([f"{path},kid" for path in FOREIGN]))
    with pytest.raises(CxrError) as caught:
        verify(tmp_path, "error", patients=table)
    first, problem, remedy = str(caught.value).splitlines()
    assert first == f"{table} does not match the images:"
    assert problem.startswith(f"  {message}")
    assert "path relative to the folder" in remedy


def test_a_row_for_an_unreadable_image_is_no_error(tmp_path: Path) -> None:
    bad = "train/NORMAL/bad.png"
    spoil(put(tmp_path, *FOREIGN), bad)
    table = patients_csv(tmp_path, *(f"{path},kid" for path in [*FOREIGN, bad]))
    assert set(verify(tmp_path, "skip", patients=table).images["patient"]) == {"kid"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,patient\nx.png,1", "has no column 'path'"),
        (b"path,child\nx.png,1", "has no column 'patient'"),
        (b"path;patient\nx.png;1", "has no column .*separated by commas"),
        (None, "cannot be read: "),
        (b"", "cannot be read: "),
        (b'path,patient\n"a', "cannot be read: "),
        (b"\xff\xfe\x00", "cannot be read: "),
    ],
)
def test_an_unreadable_table_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    table = tmp_path / "patients.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(CxrError, match=rf"patients\.csv {message}"):
        read_patients(table, [PurePosixPath("x.png")])


def test_images_of_little_range_are_counted_and_named(tmp_path: Path) -> None:
    """12 bits in a 16-bit PNG, of which a maximum of 15 is left in 8."""
    put(tmp_path, *SMALL)
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name, pixels in zip(SMALL, (ramp, ramp * 16, ramp, ramp >> 4), strict=True):
        deep = pixels if pixels.max() > 255 else pixels.astype(np.uint8)
        iio.imwrite(tmp_path / name, deep)
    found = verify(tmp_path, "error")
    assert found.little_range == tuple(sorted((SMALL[0], SMALL[2])))
    assert summarize(found, "directory")["little_range"] == 2
    (note,) = notes(found)
    assert note.startswith("WARNING: 2 of 4 images use less than an eighth")
    assert SMALL[0] in note
    assert "sBIT" in note


def test_one_row_for_each_image(tmp_path: Path) -> None:
    found = verify(put(tmp_path, *SMALL), "error")
    images = found.images
    assert list(images.columns) == COLUMNS
    assert list(images["path"]) == sorted(SMALL)
    assert list(images["split"]) == ["test", "train", "train", "val"]
    assert list(images["label"]) == ["PNEUMONIA", "NORMAL", "PNEUMONIA", "NORMAL"]
    assert list(images["pathogen"]) == ["virus", "none", "bacteria", "none"]
    assert list(images["patient"]) == [
        *("person1_virus", "IM-0001", "person1_bacteria", "NORMAL2-IM-0001"),
    ]
    assert set(images["width"]) == {8}
    assert set(images["height"]) == {6}
    for row in images.itertuples():
        content = (tmp_path / row.path).read_bytes()
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        assert row.bytes == len(content)
    assert list(found.rejects.columns) == ["path", "reason"]
    assert len(found.rejects) == 0


def test_size_and_perceptual_hash_are_of_the_upright_image_and_mode_of_the_file(
    tmp_path: Path,
) -> None:
    """Hashes of similar images are similar in any format; 256 bits as 64 digits."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    one = coarse.resize((64, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 8
    put(tmp_path, *SMALL)
    one.save(tmp_path / SMALL[0])
    one.convert("RGB").resize((128, 96)).save(tmp_path / SMALL[1])
    one.transpose(Image.Transpose.ROTATE_270).save(tmp_path / SMALL[2], exif=exif)
    one.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / SMALL[3])
    images = verify(tmp_path, "error").images.set_index("path").loc[SMALL]
    assert list(images["mode"]) == ["L", "RGB", "L", "L"]
    assert list(images["width"]) == [64, 128, 64, 64]
    assert list(images["height"]) == [48, 96, 48, 48]
    hashes = images["phash"]
    assert hashes.iloc[0] == str(imagehash.phash(one, 16))
    assert hashes.str.fullmatch(manifest.PHASH).all()
    bits = [int(digits, 16) for digits in hashes]
    distances = [(bits[0] ^ other).bit_count() for other in bits]
    assert distances[2] == 0
    assert distances[1] < 10 < 64 < distances[3]


NORMAL = [name for name in SMALL if "/NORMAL/" in name]
PNEUMONIA = [name for name in SMALL if "/PNEUMONIA/" in name]


@pytest.mark.parametrize(
    ("good", "bad", "lacking"),
    [
        (NORMAL, [], "PNEUMONIA image. Found: 2 readable images"),
        (PNEUMONIA, NORMAL, "NORMAL image. Found: 2 readable images"),
        ([], ["train/x.png"], "NORMAL image. Found: 0 readable images, train: 1 image"),
    ],
)
def test_a_class_without_a_readable_image(
    tmp_path: Path, good: list[str], bad: list[str], lacking: str
) -> None:
    spoil(put(tmp_path, *good), *bad)
    with pytest.raises(CxrError, match=f"^{tmp_path} contains no readable {lacking}"):
        verify(tmp_path, "skip", "skip")


def test_kaggle_zip_unpacked_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, *(f"chest_xray/{name}" for name in SMALL))
    put(tmp_path, *(f"chest_xray/chest_xray/{name}" for name in SMALL))
    spoil(
        tmp_path,
        "chest_xray/__MACOSX/train/NORMAL/._IM-0001-0001.jpeg",
        "chest_xray/train/NORMAL/._IM-0001-0001.jpeg",
        "chest_xray/.DS_Store",
        "chest_xray/train/.DS_Store",
        "notes.txt",
        "chest_xray/train/COVID/x.jpeg",
        f"chest_xray/other/{SMALL[0]}",  # of another size: no copy
        "chest_xray/train/NORMAL/Thumbs.db",
    )
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    Image.new("L", (8, 8)).save(outside)
    (tmp_path / "chest_xray/train/link.png").symlink_to(outside)
    with pytest.raises(CxrError, match=r"chest_xray/other/.*: 1 image\n  chest_xray/train/COVID"):
        verify(tmp_path, "error")
    found = verify(tmp_path, "error", "skip")
    assert list(found.images["path"]) == sorted(f"chest_xray/{name}" for name in SMALL)
    counts = {"stray": 4, "nested": 4, "other": 2, "links": 1, "unplaced": 2}
    assert summarize(found, "kaggle")["left_out"] == counts
    summary = summarize(found, "kaggle", left_out=dict.fromkeys(counts, 10))
    assert summary["left_out"] == {name: count + 10 for name, count in counts.items()}


def verified(*names: str, **changes: list[object]) -> Verified:
    """Result of `verify` for files that do not exist."""
    rows = []
    for number, name in enumerate(names):
        split, label, _ = name.split("/")
        patient, pathogen = identify(PurePosixPath(name), label)
        size = {"width": 8, "height": 6, "mode": "L", "bytes": 9, "sha256": f"{number:064}"}
        rows.append(
            {"path": name, "split": split, "label": label, "patient": patient}
            | {"pathogen": pathogen, **size, "phash": f"{number:064x}"}
        )
    images = pd.DataFrame(rows, columns=COLUMNS).assign(**changes)
    rejects = pd.DataFrame({"path": ["a"], "reason": ["b"]})
    return Verified(images, rejects, select_images([]))


def test_counts_of_images_and_patients() -> None:
    found = summarize(
        verified(
            "train/NORMAL/IM-0001-0001.jpeg",
            "train/NORMAL/IM-0001-0002.jpeg",
            "train/PNEUMONIA/person1_virus_1.jpeg",
            "train/PNEUMONIA/person1_bacteria_1.jpeg",
            "train/PNEUMONIA/person2_bacteria_1.jpeg",
            "test/NORMAL/IM-0001-0003.jpeg",
            "test/PNEUMONIA/person1_virus_2.jpeg",
            "test/PNEUMONIA/person3_virus_2.jpeg",
            sha256=[*"12345611"],
        ),
        "directory",
    )
    assert (found["images"], found["patients"], found["patients_in_several_splits"]) == (8, 5, 2)
    assert found["train"] == {
        **{"images": 5, "NORMAL": 2, "PNEUMONIA": 3, "patients": 4},
        "positive_share": pytest.approx(0.6),
    }
    assert found["test"] == {
        **{"images": 3, "NORMAL": 1, "PNEUMONIA": 2, "patients": 3},
        "positive_share": pytest.approx(2 / 3),
    }
    assert found["val"] == {"images": 0, "NORMAL": 0, "PNEUMONIA": 0, "patients": 0}
    assert (found["duplicates"], found["rejects"]) == (2, 1)
    assert json.loads(json.dumps(found)) == found


def test_differences_from_the_published_counts_are_noted() -> None:
    summary = summarize(verified(*SMALL), "kaggle")
    assert [summary[split]["published"] for split in SPLITS] == [5216, 16, 624]
    train, val, test, _ = describe(summary).splitlines()
    assert train == (
        "train: 2 images (1 NORMAL, 1 PNEUMONIA), 2 patients; NOTE: 5216 images are published"
    )
    assert "NOTE: 16 " in val
    assert "NOTE: 624 " in test
    for split in SPLITS:
        summary[split]["published"] = summary[split]["images"]
    assert "NOTE" not in describe(summary)
    assert "NOTE" not in describe(summarize(verified(*SMALL), "directory"))


def test_description_counts_skipped_files() -> None:
    summary = summarize(verified(*SMALL), "directory")
    summary |= {"duplicates": 11, "rejects": 12, "patients_in_several_splits": 13}
    summary["left_out"] = {"stray": 14, "nested": 15, "other": 16, "links": 17}
    assert describe(summary).splitlines()[-1] == (
        "patients in several splits 13, duplicates 11, rejects 12, stray files left out 14, "
        "nested files left out 15, other files left out 16, links files left out 17"
    )


NUMBERS = st.integers(0, 2**63 - 1)
COLUMN = {
    **dict.fromkeys(COLUMNS, names | st.sampled_from(["0012", "NA", "nan", "1e5", "True", 'a"b'])),
    **dict.fromkeys(("width", "height", "bytes"), NUMBERS),
    **{"split": st.sampled_from(SPLITS), "label": st.sampled_from(LABELS)},
    "phash": st.integers(0, 2**256 - 1).map("{:064x}".format),
}
rows_of_text = st.lists(st.fixed_dictionaries(COLUMN), min_size=1)


@given(rows_of_text)
def test_manifest_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_csv(path, pd.DataFrame(rows))
    assert read(path).to_dict("records") == rows


# A manifest, cut and overwritten somewhere.
ROW = dict.fromkeys(COLUMNS, "1") | {"split": "train", "label": "NORMAL", "phash": "0" * 64}
WHOLE = pd.DataFrame([ROW] * 3).to_csv(index=False).encode()


@given(st.integers(0, len(WHOLE)), st.integers(0, 20), st.binary(max_size=20) | st.text("019,\n"))
def test_a_damaged_manifest_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, damage: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.csv"
    put_in = damage if isinstance(damage, bytes) else damage.encode()
    path.write_bytes(WHOLE[:start] + put_in + WHOLE[start + length :])
    try:
        found = read(path)
    except CxrError as error:
        assert str(path) in str(error)
        return
    assert list(found.columns) == COLUMNS
    assert set(found[["width", "height", "bytes"]].dtypes) == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "Train", "unknown split or label"),
        ("label", "COVID", "unknown split or label"),
        ("phash", "0" * 63, "truncated"),
        ("phash", "0" * 65, "truncated"),
    ],
)
def test_one_wrong_row(tmp_path: Path, column: str, value: str, message: str) -> None:
    path = tmp_path / "manifest.csv"
    write_csv(path, pd.DataFrame([ROW, ROW | {column: value}, ROW]))
    with pytest.raises(CxrError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column(tmp_path: Path, column: str) -> None:
    path = tmp_path / "manifest.csv"
    write_csv(path, verified(*SMALL).images.drop(columns=column))
    with pytest.raises(CxrError, match=column) as caught:
        read(path)
    assert str(path) in str(caught.value)


HUGE = f"{','.join(COLUMNS)}\n{','.join(['9' * 30] * len(COLUMNS))}\n"


@pytest.mark.parametrize(
    "content", [None, "", "path,split\n", "\xff\n", "a\n1,2,3\n1\n", HUGE], ids=repr
)
def test_no_manifest(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CxrError, match="dvc repro fetch") as caught:
        read(path)
    assert str(path) in str(caught.value)
