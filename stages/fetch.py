"""Download or copy the images to data/raw/<source>, verify them, write the manifest."""

from pathlib import Path

from cxr import paths
from cxr.common.files import write_csv, write_json
from cxr.data import download, manifest
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    raw = paths.raw(params.data.source)
    download.ensure_raw(raw, params.data)
    patients = Path(params.data.patients)
    verified = manifest.verify(raw, params.data.on_bad_image, params.data.on_unplaced, patients)
    summary = manifest.summarize(verified, params.data.source, download.left_out(raw))
    write_csv(paths.MANIFEST, verified.images)
    write_csv(paths.REJECTS, verified.rejects)
    write_json(paths.DATA_METRICS, summary)
    print(manifest.describe(summary), *manifest.notes(verified), sep="\n")


if __name__ == "__main__":
    run_stage(main)
