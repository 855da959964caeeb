"""Write the report: reports/index.html with pictures, reports/report.md without."""

from cxr import paths
from cxr.errors import run_stage
from cxr.params import read_params
from cxr.report import read_results, report


def main() -> None:
    params = read_params()
    settings = {
        "data.source": params.data.source,
        "split.test": params.split.test,
        "split.group_by": params.split.group_by,
        "image.size": params.image.size,
        "image.resize": params.image.resize,
        "transfer.backbone": params.transfer.backbone,
        "seed": params.seed,
    }
    document = report(read_results(settings, params.evaluate))
    document.write(paths.REPORT, paths.REPORT_PAGE)


if __name__ == "__main__":
    run_stage(main)
