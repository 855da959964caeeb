"""Published data sets: address, contents, license and citation."""

from dataclasses import dataclass

CHILDREN = (
    "frontal chest radiographs of children of one to five years from one hospital in Guangzhou"
)
CITATION = (
    'Kermany, Zhang, Goldbaum (2018): "Labeled Optical Coherence Tomography (OCT) and Chest X-Ray '
    'Images for Classification", Mendeley Data, doi:10.17632/rscbjbr9sj'
)
KAGGLE = "paultimothymooney/chest-xray-pneumonia"


@dataclass(frozen=True)
class KnownSet:
    """Facts about one published data set.

    Attributes:
        address: Kaggle handle, or URL of a zip file.
        description: Follows "Trained on" in the model card.
        counts: Published number of images by split.
        citation: Publication to cite.
        license: License of the images.
        sha256: Hash of the zip file, in lower-case hexadecimal digits; empty for Kaggle, whose
            client verifies downloads.
    """

    address: str
    description: str
    counts: dict[str, int]
    citation: str
    license: str
    sha256: str = ""


# By `data.source`.
KNOWN_SETS = {
    "kaggle": KnownSet(
        address=KAGGLE,
        description=f"the Kaggle set `{KAGGLE}` (Kermany 2018, 10.1016/j.cell.2018.02.010): "
        f"{CHILDREN}",
        counts={"train": 5216, "val": 16, "test": 624},
        citation=CITATION,
        license="CC BY 4.0",
    ),
    "mendeley": KnownSet(
        address="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
        "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        description=f"the Mendeley set 10.17632/rscbjbr9sj (Kermany 2018): {CHILDREN}",
        counts={"train": 5232, "val": 0, "test": 624},
        citation=CITATION,
        license="CC BY 4.0",
        sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
    ),
}
