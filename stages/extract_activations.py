"""Run the frozen layers of the backbone once over every image and its perturbed copies."""

from cxr import activations, paths, reproducible
from cxr.arrays import open_split
from cxr.datasets import image_input
from cxr.errors import run_stage
from cxr.params import read_params


def main() -> None:
    params = read_params()
    reproducible.make_deterministic(0)
    splits = {name: open_split(paths.ARRAYS / name) for name in ("train", "val", "stress", "test")}
    image = image_input(splits["train"])
    frozen = activations.chosen_halves(image, params.transfer, params.finetune).frozen
    for name, split in splits.items():
        copies = params.finetune.copies if name == "train" else 0
        activations.write_activations(
            paths.activations(name), frozen, params.transfer.engine, split, copies, params.perturb
        )


if __name__ == "__main__":
    run_stage(main)
