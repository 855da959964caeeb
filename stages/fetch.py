"""Bring the images to data/raw/<source>, verify each one, and list them in the manifest."""

from pathlib import Path

from cxr import manifest, paths, sources
from cxr.errors import run_stage
from cxr.files import write_csv, write_json
from cxr.params import DataParams, read_params


def main() -> None:
    data = read_params().data
    bring_images(data)
    raw, patients = paths.raw(data.source), Path(data.patients)
    verified = manifest.verify(raw, data.on_bad_image, data.on_unplaced, patients)
    summary = manifest.summarise(verified, data.source, sources.left_out(raw))
    write_csv(paths.MANIFEST, verified.images)
    write_csv(paths.REJECTS, verified.rejects)
    write_json(paths.DATA_METRICS, summary)
    print(manifest.describe(summary), *manifest.notes(verified), sep="\n")


def bring_images(data: DataParams) -> None:
    """Fill data/raw/<source>."""
    sources.ensure_raw(
        paths.raw(data.source),
        data.source,
        directory=data.directory,
        on_unplaced=data.on_unplaced,
        phantom_patients=data.phantom.patients,
        phantom_seed=data.phantom.seed,
        phantom_short_side=data.phantom.short_side,
        phantom_shortcut=data.phantom.shortcut,
    )


if __name__ == "__main__":
    run_stage(main)
