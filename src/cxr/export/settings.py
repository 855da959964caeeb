"""Typed content of settings.json: everything that prediction needs besides the networks."""

from typing import Any

from cxr import paths
from cxr.evaluation.calibration import Scale
from cxr.evaluation.results import OMITTED_IF_EMPTY, Record, ResultFile
from cxr.params import EvaluateParams, ImageParams

FILE = "settings.json"  # in the folder of exported networks


class VariantSettings(Record):
    """One variant.

    Attributes:
        threshold: of the operating point.
        scale: calibrates the probability.
        members: of the ensemble only: Platt scaling of each member.
    """

    threshold: float
    scale: Scale
    members: dict[str, Scale] = OMITTED_IF_EMPTY


class OodSettings(Record):
    """The OOD detector.

    Attributes:
        threshold: distance from the training images above which an image gets a warning.
        false_positive_rate: by split: fraction of its images above the threshold.
        detection_rate: by alteration: fraction of altered validation images above the threshold.
    """

    threshold: float
    false_positive_rate: dict[str, float]
    detection_rate: dict[str, float]


class TrainingRange(Record):
    """Minimum and maximum of the training files: pixels, and width / height."""

    shorter_side: tuple[int, int]
    aspect_ratio: tuple[float, float]


class Settings(ResultFile):
    """models/exported/settings.json.

    Attributes:
        image: how images are prepared.
        evaluate: how the pipeline evaluates.
        recommended: variant.
    """

    path = paths.EXPORTED / FILE
    stage = "export"

    image: ImageParams
    evaluate: EvaluateParams
    recommended: str
    variants: dict[str, VariantSettings]
    ood: OodSettings
    trained_on: TrainingRange

    def failed_checks(self, ood_score: Any, shorter_side: Any, aspect_ratio: Any) -> dict[str, Any]:
        """Which checks an image fails; each number may be a column, and the results are then
        columns.

        Args:
            ood_score: distance from the training images, relative to its threshold.
            shorter_side: of the file, in pixels.
            aspect_ratio: width / height of the file.

        Returns:
            `ood`, `small` and `aspect_ratio`: true where the check fails.
        """
        low, high = self.trained_on.aspect_ratio
        return {
            "ood": ood_score > 1,
            "small": shorter_side < self.image.input_size,
            "aspect_ratio": (aspect_ratio < low) | (aspect_ratio > high),
        }

    @classmethod
    def _remedy(cls) -> str:
        return (
            "run `dvc repro export` in the project (`dvc pull export` if it has a DVC remote), or "
            "pass the folder of exported models with --models, such as --models "
            "demo/models/exported after `make demo`"
        )
