"""Run the frozen layers of the backbone once over every image, its copies or its views."""

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
    engine, scheduler = params.transfer.inference_backend, params.preprocess.dask_scheduler
    activations.write_augmented(
        paths.activations("train"),
        frozen,
        engine,
        open_split(paths.ARRAYS / "train"),
        params.finetune.n_augmentations,
        params.perturb,
        scheduler,
    )
    for name in ("val", "stress", "test"):
        split = open_split(paths.ARRAYS / name)
        path, zooms = paths.activations(name), params.finetune.tta_scales
        activations.write_views(path, frozen, engine, split, zooms, scheduler)


if __name__ == "__main__":
    run_stage(main)
