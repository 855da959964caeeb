"""Generate the stress-test set from the validation images."""

from cxr import paths
from cxr.augment import stress_test
from cxr.common.arrays import open_split, write_split
from cxr.data import manifest
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    raw = paths.raw(params.data.source)
    index = stress_test.stress_index(open_split(paths.ARRAYS / "val").index)
    hashes = dict(manifest.read(paths.MANIFEST)[["path", "sha256"]].itertuples(index=False))
    images = stress_test.stress_images(raw, index, hashes, params.image)
    write_split(paths.ARRAYS / "stress", images, index)


if __name__ == "__main__":
    run_stage(main)
