"""Split by patient; decode and resize every image into the cached arrays."""

from cxr import manifest, paths, preprocessing, splits
from cxr.errors import run_stage
from cxr.files import write_csv
from cxr.params import read_params


def main() -> None:
    params = read_params()
    images = manifest.read(paths.MANIFEST)
    assigned = splits.assign(images, params.split)
    raw = paths.raw(params.data.source)
    scheduler = params.preprocess.scheduler
    preprocessing.cache_splits(raw, images, assigned, params.image, paths.ARRAYS, scheduler)
    write_csv(paths.PLOTS / "classes.csv", preprocessing.class_balance(images, assigned))


if __name__ == "__main__":
    run_stage(main)
