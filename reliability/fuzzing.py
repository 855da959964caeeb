"""Coverage-guided fuzzing of what reads foreign bytes (Atheris, which drives libFuzzer).

Each target of targets.py runs in a process of its own, as libFuzzer ends the process in the end.
It starts from what seeds.py draws, and from reliability/corpus/<target>/: inputs that once failed.
What it finds new goes with its temporary folder; an input that fails is put in reliability/failed/,
and belongs in the corpus once its cause is mended.
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
SECONDS = 60  # for each target
SEED = 1
LONGEST = 4096  # bytes of an input
MOST_PIXELS = 65_536  # of an image: larger ones would only take time
MEGABYTES = 4096
READ = {
    "image": "image reader",
    "table": "manifest reader",
    "names": "choice of images by name",
    "params": "reader of params.yaml",
}
# Whose branches guide the fuzzer, beside cxr's own.
INSTRUMENTED = {
    "image": ["PIL"],
    "table": ["pandas.io.parsers"],
    "names": [],
    "params": ["yaml"],
}


def measure() -> list[Figure]:
    """Fuzz every target for `SECONDS`, from what is drawn and kept.

    Raises:
        CxrError: Atheris is missing.
    """
    if not find_spec("atheris"):
        raise CxrError("fuzzing needs the package atheris: pip install atheris")
    return [fuzz(target, SECONDS) for target in READ]


def fuzz(target: str, seconds: int) -> Figure:
    """Run one target in a process of its own; its failure, if any, goes to `FAILED`."""
    with tempfile.TemporaryDirectory() as folder:
        found, failed, start = (Path(folder, name) for name in ("found", "failed", "start"))
        for path in (found, failed):
            path.mkdir()
        gather(target, start)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "reliability.fuzzing", target, found, start),
                *(f"-max_total_time={seconds}", f"-seed={SEED}", f"-max_len={LONGEST}"),
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
    """Put all that a target starts from into a new folder: what is drawn and what once failed."""
    from reliability.seeds import draw  # imports what `main` has to import first, instrumented

    folder.mkdir()
    draw(target, folder)
    if (kept := CORPUS / target).is_dir():
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def figure(target: str, seconds: int, said: str, status: int) -> Figure:
    """Read what libFuzzer said.

    Args:
        target: of targets.py.
        seconds: that it was given.
        said: standard error of the process.
        status: of the process; 0 where no input failed.

    Raises:
        CxrError: it ended before it had tried anything.
    """
    runs = re.search(r"stat::number_of_executed_units: (\d+)", said)
    reached = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)", said)
    if not runs or not reached:
        raise CxrError(f"fuzzing of {target} did not run:\n{said[-2000:]}")
    tried, (branches, kept) = int(runs[1]), reached[-1]
    failed = f"; stopped by an input that is in {FAILED}" if status else ""
    return Figure(
        what=f"fuzzed {READ[target]}",
        right="read right, or refused with the one error",
        tried=tried,
        held=tried - bool(status),
        note=f"Atheris, {seconds} s, {branches} branches reached, {kept} inputs told apart{failed}",
    )


def main() -> None:
    """What the process of its own runs; libFuzzer ends it."""
    import atheris

    target, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=["cxr", *INSTRUMENTED[target]]):
        from PIL.PngImagePlugin import ChunkStream

        from cxr.data import images
        from reliability import targets
    images.MAX_PIXELS = MOST_PIXELS
    # Changes at random never get a checksum right, as an attacker does.
    ChunkStream.crc = ChunkStream.crc_skip  # type: ignore[method-assign]
    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
