"""Coverage-guided fuzzing of the readers of untrusted bytes (Atheris, based on libFuzzer).

Each target of targets.py runs in its own process, because libFuzzer ends the process. It starts
from seeds.py and from inputs that once failed (reliability/corpus/<target>/). A failing input is
saved in reliability/failed/; add it to the corpus once its cause is fixed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

from cxr.errors import CxrError
from reliability.figures import Figure

PROJECT = Path(__file__).parent.parent
CORPUS = PROJECT / "reliability" / "corpus"
FAILED = Path("reliability/failed")
SECONDS = 60  # per target
SEED = 1
MAX_LENGTH = 4096  # bytes of an input
MAX_PIXELS = 65_536  # of an image: larger ones only take longer
MEGABYTES = 4096
READERS = {
    "image": "image reader",
    "table": "manifest reader",
    "names": "selection of images by name",
    "params": "reader of params.yaml",
}
# Modules whose branches guide the fuzzer, in addition to cxr.
INSTRUMENTED = {
    "image": ["PIL"],
    "table": ["pandas.io.parsers"],
    "names": [],
    "params": ["yaml"],
}


def measure() -> list[Figure]:
    """Fuzz every target for `SECONDS`.

    Raises:
        CxrError: Atheris is missing.
    """
    if not find_spec("atheris"):
        raise CxrError("fuzzing needs the package atheris: pip install atheris")
    return [fuzz(target, SECONDS) for target in READERS]


def fuzz(target: str, seconds: int) -> Figure:
    """Run one target in its own process; a failing input is saved in `FAILED`."""
    with tempfile.TemporaryDirectory() as folder:
        new, failed, corpus = (Path(folder, name) for name in ("new", "failed", "corpus"))
        for path in (new, failed):
            path.mkdir()
        gather(target, corpus)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "reliability.fuzzing", target, new, corpus),
                *(f"-max_total_time={seconds}", f"-seed={SEED}", f"-max_len={MAX_LENGTH}"),
                *("-timeout=20", f"-rss_limit_mb={MEGABYTES}", "-print_final_stats=1"),
                f"-artifact_prefix={failed}/{target}-",
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (PROJECT / "src", PROJECT)))},
            capture_output=True,
            text=True,
            errors="replace",
        )
        for path in failed.iterdir():
            FAILED.mkdir(exist_ok=True)
            shutil.copy(path, FAILED)
    return figure(target, seconds, done.stderr, done.returncode)


def gather(target: str, folder: Path) -> None:
    """Write the seeds of a target and its inputs that once failed to a new folder."""
    from reliability.seeds import write_seeds  # imports what `main` must first instrument

    folder.mkdir()
    write_seeds(target, folder)
    if (failed := CORPUS / target).is_dir():
        shutil.copytree(failed, folder, dirs_exist_ok=True)


def figure(target: str, seconds: int, output: str, status: int) -> Figure:
    """Parse the output of libFuzzer.

    Args:
        target: name in targets.py.
        seconds: its time limit.
        output: standard error of the process.
        status: exit status of the process; 0 if no input failed.

    Raises:
        CxrError: it ended before its first trial.
    """
    runs = re.search(r"stat::number_of_executed_units: (\d+)", output)
    coverage = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)", output)
    if not runs or not coverage:
        raise CxrError(f"fuzzing of {target} did not run:\n{output[-2000:]}")
    trials, (branches, inputs) = int(runs[1]), coverage[-1]
    failed = f"; stopped by an input that is in {FAILED}" if status else ""
    return Figure(
        what=f"fuzzed {READERS[target]}",
        criterion="read correctly or rejected with CxrError",
        trials=trials,
        passed=trials - bool(status),
        note=f"Atheris, {seconds} s, {branches} branches covered, {inputs} distinct inputs{failed}",
    )


def main() -> None:
    """Fuzz one target; libFuzzer ends the process."""
    import atheris

    target, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=["cxr", *INSTRUMENTED[target]]):
        from PIL.PngImagePlugin import ChunkStream

        from cxr.data import images
        from reliability import targets
    images.MAX_PIXELS = MAX_PIXELS
    # Random changes never have a valid checksum; an attacker's do.
    ChunkStream.crc = ChunkStream.crc_skip  # type: ignore[method-assign]
    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
