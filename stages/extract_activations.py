"""Run the frozen layers over all images, their augmented versions or their views."""

from cxr import paths
from cxr.common import determinism
from cxr.common.arrays import open_split
from cxr.errors import run_stage
from cxr.features import activations
from cxr.models import split_backbone
from cxr.params import read_params


def main() -> None:
    params = read_params()
    determinism.make_deterministic(0)
    frozen = split_backbone.configured_backbone(params.transfer, params.finetune).frozen
    inference_backend = params.transfer.inference_backend
    dask_scheduler = params.preprocess.dask_scheduler
    activations.write_augmented(
        paths.activations("train"),
        frozen,
        inference_backend,
        open_split(paths.ARRAYS / "train"),
        params.finetune.n_augmentations,
        params.perturb,
        dask_scheduler,
    )
    for name in ("val", "stress", "test"):
        split = open_split(paths.ARRAYS / name)
        path, scales = paths.activations(name), params.finetune.tta_scales
        activations.write_views(path, frozen, inference_backend, split, scales, dask_scheduler)


if __name__ == "__main__":
    run_stage(main)
