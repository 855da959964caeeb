"""Write the report, as HTML with figures and as Markdown, and the model card."""

import shutil

from cxr import paths
from cxr.common.files import replacing
from cxr.errors import run_stage
from cxr.params import flat, read_params
from cxr.reporting.report import FIGURES, read_inputs, render_charts, report


def main() -> None:
    params = read_params()
    settings = {"seed": params.seed, "data.source": params.data.source} | flat(
        split=params.split,
        image=params.image,
        model=params.model,
        augment=params.augment,
        transfer=params.transfer,
        finetune=params.finetune,
        perturb=params.perturb,
    )
    inputs = read_inputs(settings, params.evaluate)
    charts = render_charts(inputs)
    for name in charts.keys() & FIGURES:
        with replacing(paths.FIGURES / f"{name}.svg") as part:
            part.write_text(charts[name], encoding="utf-8")
    with replacing(paths.CARD) as part:
        shutil.copyfile(paths.EXPORTED / paths.CARD.name, part)
    report(inputs, charts).write(paths.REPORT, paths.REPORT_PAGE)


if __name__ == "__main__":
    run_stage(main)
