"""Profile of a training step, of decoding and of the whole pipeline:
`python -m benchmarks.profiling`.
"""

import re
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks import images, notebook, pipeline
from benchmarks.growth import run_alone
from benchmarks.steps import inputs, steps, training_model
from benchmarks.timing import machine, seconds_of, sentence
from benchmarks.transfer import backbone_weights
from cxr.common.files import replacing
from cxr.data.images import decode
from cxr.errors import run_stage
from cxr.params import read_params
from cxr.reporting.document import markdown_table
from cxr.tools import project_copy

RESULT = Path(__file__).parent / "profile.md"
ROUNDS = 3
N_SHOWN = 16  # kinds of operations
# Stages whose work the notebook does, too.
AS_NOTEBOOK = {
    **dict.fromkeys(("fetch", "preprocess", "train_baseline", "train_augmented"), "yes"),
    **dict.fromkeys(("fetch_weights", "train_transfer"), "yes"),
    "extract_features": "all but the stress-test set",
    **dict.fromkeys(("predict@baseline", "predict@augmented", "predict@transfer"), "test"),
}
# Affixes of oneDNN and of fusion in the names of operations.
AFFIXES = re.compile(r"^_(Mkl(Native)?)?(Fused)?|WithBias$")


def main() -> None:
    step = profile_step()
    decoding = profile_decoding()
    stages = profile_stages()
    text = "\n\n".join(
        [
            "Milliseconds of a training step of the baseline by kind of operation (concurrent "
            "operations count twice):",
            markdown_table(step.reset_index().round(1)),
            "Milliseconds to decode an image on one core:",
            markdown_table(decoding.round(2)),
            f"Seconds of each stage of the pipeline with the settings of its benchmark, one run "
            f"without DVC, {stages['seconds'].sum():.0f} in total:",
            markdown_table(stages.round(1)),
            f"Measured on {sentence(machine())}",
        ]
    )
    with replacing(RESULT) as temp_path:
        temp_path.write_text(text + "\n", encoding="utf-8")
    print(text)


def profile_step() -> pd.DataFrame:
    """Milliseconds by kind of operation (rows), of notebook and pipeline (columns)."""
    batch, gray, labels = inputs()
    table = pd.DataFrame(
        {
            "notebook": _operations(notebook.small_cnn(), gray, labels),
            "pipeline": _operations(training_model(read_params()), batch, labels),
        }
    ).fillna(0.0)
    table = table.loc[table.max(axis=1).sort_values(ascending=False).index]
    rest = table.iloc[N_SHOWN:].sum().rename("all others")
    return pd.concat([table.iloc[:N_SHOWN], rest.to_frame().T]).rename_axis("operation")


def _operations(model: keras.Model, batch: Any, labels: Any) -> dict[str, float]:
    """Milliseconds of each kind of operation in a step."""
    steps(model, batch, labels)  # compiles
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        count = ROUNDS * steps(model, batch, labels)
        for _ in range(ROUNDS - 1):
            steps(model, batch, labels)
        tf.profiler.experimental.stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    total: Counter[str] = Counter()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name = plane.event_metadata[event.metadata_id].name
            if "/" in name and ":" in name:  # layer/.../operation:Kind, not its executor
                total[AFFIXES.sub("", name.rsplit(":", 1)[1])] += event.duration_ps
    return {kind: picoseconds / 1e9 / count for kind, picoseconds in total.items()}


def profile_decoding() -> pd.DataFrame:
    """Milliseconds by scale of decoding; at an eighth, most of the time is entropy decoding, which
    every scale needs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, kind = images.full_size(Path(scratch))
        paths = images.files(folder / "train")
        rows = []
        for enough, name in ((0, "full"), (256, "reduced, for 256 px"), (1, "1/8")):
            seconds = [seconds_of(lambda: _decode(paths, enough)) for _ in range(ROUNDS)]  # noqa: B023
            rows.append((name, 1000 * statistics.median(seconds) / len(paths)))
    return pd.DataFrame(rows, columns=[f"decoded of {len(paths)} {kind}", "milliseconds"])


def profile_stages() -> pd.DataFrame:
    """Seconds of each stage in the order of dvc.yaml, and whether the notebook does the same."""
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        pipeline.copy(project, backbone_weights(Path(scratch)))
        rows = [
            (stage, run_alone(stage, project)[0], AS_NOTEBOOK.get(stage, "no"))
            for stage in project_copy.stages(project)
        ]
    return pd.DataFrame(rows, columns=["stage", "seconds", "done by the notebook"])


def _decode(paths: list[Path], enough: int) -> int:
    return int(np.sum([decode(path.read_bytes(), path, enough).size for path in paths]))


if __name__ == "__main__":
    run_stage(main)
