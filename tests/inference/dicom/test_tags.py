"""Tags of DICOM files: every encoding, and tags that contradict a frontal chest radiograph."""

import numpy as np
import pytest
from pydicom import uid

from cxr.inference.dicom import tags
from tests.support.dicom_files import content_of, dataset, picture, radiograph_of, shown

# As outside of tests: warnings of libraries are not errors.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("frames", ["0", "1", ""])
def test_numbers_of_frames_that_mean_one_image(frames: str) -> None:
    made = dataset(picture(), NumberOfFrames=frames)
    np.testing.assert_array_equal(shown(content_of(made)), picture())


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
    ids=["implicit", "big-endian", "deflated"],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_the_pixels_do_not_depend_on_the_encoding(syntax: uid.UID, bits: int) -> None:
    expected = shown(content_of(dataset(picture(bits))))
    made = dataset(picture(bits))
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian and bits == 16:
        made["PixelData"].value = picture(bits).astype(">u2").tobytes()
    np.testing.assert_array_equal(shown(content_of(made)), expected)


@pytest.mark.parametrize("lacks", ["preamble", "preamble and header"])
@pytest.mark.parametrize(
    ("syntax", "begin"),
    [
        (uid.ExplicitVRLittleEndian, b"\x08\0\x16\0"),
        (uid.ImplicitVRLittleEndian, b"\x08\0\x16\0"),
        (uid.ExplicitVRBigEndian, b"\0\x08\0\x16"),
    ],
    ids=["explicit", "implicit", "big-endian"],
)
def test_the_pixels_do_not_depend_on_preamble_and_header(
    syntax: uid.UID, begin: bytes, lacks: str
) -> None:
    """As some scanners and old archives write them."""
    made = dataset(picture(16))
    expected = shown(content_of(made))
    made.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        made["PixelData"].value = picture(16).astype(">u2").tobytes()
    content = content_of(made)
    bare = content[132:] if lacks == "preamble" else content[content.index(begin) :]
    np.testing.assert_array_equal(shown(bare), expected)


@pytest.mark.parametrize(
    ("tags", "notes"),
    [
        ({}, ()),
        ({"Modality": "DX", "BodyPartExamined": "PORT CHEST", "ViewPosition": "AP"}, ()),
        ({"Modality": "DR", "ViewPosition": "LLD"}, ()),
        *(
            ({"BodyPartExamined": word}, ())
            for word in (
                *("TORAX", "TÓRAX PA", "PECHO", "PULMONES", "PEITO", "PULMÃO", "TORACE", "petto"),
                *("POLMONI", "THORAX", "POITRINE", "POUMONS", "BRUSTKORB", "LUNGE", "CHEST_PA"),
                *("BRUST", "BRUST_AP", "T\xc3\x93RAX"),  # UTF-8, read as Latin-1
            )
        ),
        ({"BodyPartExamined": "BRUSTWIRBELSAULE"}, (tags.OTHER_PART,)),
        *(
            ({"ViewPosition": word}, (tags.OTHER_VIEW,))
            for word in ("LATERALE", "L LATERAL", "CHEST_LAT", "PERFIL", "PROFIL", "SEITLICH")
        ),
        ({"ViewPosition": "LATERAL DECUBITUS"}, ()),
        ({"PresentationIntentType": "FOR PROCESSING"}, (tags.FOR_PROCESSING,)),
        ({"PresentationIntentType": "FOR PRESENTATION"}, ()),
        (
            {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing},
            (tags.FOR_PROCESSING,),
        ),
        ({"Modality": "CT"}, (tags.OTHER_MODALITY,)),
        ({"BodyPartExamined": "HAND"}, (tags.OTHER_PART,)),
        ({"ViewPosition": "LL"}, (tags.OTHER_VIEW,)),
        (
            {"Modality": "MR", "ViewPosition": "lateral"},
            (tags.OTHER_MODALITY, tags.OTHER_VIEW),
        ),
    ],
)
def test_tags_that_contradict_a_frontal_chest_radiograph_are_noted(
    tags: dict[str, str], notes: tuple[str, ...]
) -> None:
    assert radiograph_of(dataset(picture(), **tags)).notes == notes
