"""Write the report: reports/index.html with pictures, reports/report.md without."""

from cxr import paths
from cxr.errors import run_stage
from cxr.params import flat, read_params
from cxr.report import read_results, report


def main() -> None:
    params = read_params()
    settings = {"seed": params.seed, "data.source": params.data.source}
    settings |= flat(
        split=params.split,
        image=params.image,
        model=params.model,
        augment=params.augment,
        transfer=params.transfer,
    )
    document = report(read_results(settings, params.evaluate))
    document.write(paths.REPORT, paths.REPORT_PAGE)


if __name__ == "__main__":
    run_stage(main)
