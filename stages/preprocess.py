"""Split by patient, check for data leakage and shortcuts, cache resized images."""

from cxr import paths
from cxr.common.arrays import open_split
from cxr.common.files import write_csv, write_json
from cxr.data import leakage, manifest, preprocess, shortcuts, splits
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    images = manifest.read(paths.MANIFEST)
    assigned = splits.assign(images, params.split)
    found = leakage.find(images, assigned, params.split.group_by)
    write_csv(paths.LEAKS, found)
    counts = leakage.guard(found, params.data.on_leak, params.split.group_by)
    if params.data.on_leak == "drop":
        images, assigned = splits.leave_out(found["path"], images, assigned, params.split)
    raw = paths.raw(params.data.source)
    scheduler = params.preprocess.dask_scheduler
    preprocess.cache_splits(raw, images, assigned, params.image, paths.ARRAYS, scheduler)
    aucs = shortcuts.guard(open_split(paths.ARRAYS / "train"), params.data.on_shortcut)
    write_csv(paths.PLOTS / "classes.csv", preprocess.class_balance(images, assigned))
    write_json(paths.GUARDS, {"leaks": counts, "single_feature_auc": aucs})


if __name__ == "__main__":
    run_stage(main)
