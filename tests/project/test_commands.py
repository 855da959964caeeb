"""The commands of README.md, docs/use.md and the start of docs/experiments.md work as typed.

Each is parsed, and those that need neither network nor real data are run, in order, in a clone.
"""

import re
import shlex
import shutil
import signal
import subprocess
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dvc.cli import DvcParserError, parse_args

from cxr import cli
from cxr.common.files import parse_yaml
from cxr.errors import CxrError
from cxr.params import read_params
from cxr.tools.project_copy import PROJECT, set_params
from tests.support.dicom_files import content_of, dataset
from tests.support.project import Project, wait_for_queue
from tests.support.tiny import grey
from tests.support.working_tree import copy_missing

PAGES = ("README.md", "docs/use.md", "docs/experiments.md")
IDEAS = "\n## Ideas"  # from here on, commands of docs/experiments.md need the real data
EXTRAS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
].keys()
README = PROJECT / "README.md"
FLAGS = re.MULTILINE | re.DOTALL
OUTPUT = re.compile(r"^# \S+\.jpeg (NORMAL|PNEUMONIA) [01]\.\d{3}", re.MULTILINE)
PAGE_OF_SERVER = "http://127.0.0.1:8000/"


def commands(page: str) -> list[str]:
    """The commands in a page's blocks of shell code, without comments."""
    text = (PROJECT / page).read_text(encoding="utf-8").partition(IDEAS)[0].replace("\\\n", " ")
    blocks = re.findall(r"^ *```(?:bash|sh|console)\n(.*?)^ *```", text, FLAGS)
    lines = [line for block in blocks for line in block.split("\n")]
    return [found for line in lines if (found := re.sub(r"(^|\s+)#.*", "", line).strip())]


# --- parsed --------------------------------------------------------------------------------------


def check(command: str, folder: Path) -> None:
    """Fail where a command's program, target, subcommand, option or parameter does not exist."""
    words = shlex.split(command.split(" > ")[0].split(" && ")[0])
    match words:
        case ["make", *arguments]:
            targets = {word for word in arguments if "=" not in word}
            makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
            assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)), command
        case ["cxr", *arguments]:
            cli.parser().parse_args(arguments)
        case ["dvc", *arguments]:
            given = parse_args(arguments)
            for change in getattr(given, "set_param", None) or []:
                check_param(change, folder)
        case ["pip", "install", project]:
            assert set(re.findall(r"\w+", project)) <= EXTRAS, command
        case ["source", ".venv/bin/activate"] | ["curl", *_]:
            pass
        case _:
            pytest.fail(f"{command}: say in `check` how a command of {words[0]} is checked")


def check_param(change: str, folder: Path) -> None:
    """Fail where params.yaml has no such key, or one of the values is not valid."""
    key, values = change.split("=", 1)
    for value in [values] if values.startswith("[") else values.split(","):
        shutil.copy(PROJECT / "params.yaml", folder)
        set_params(folder / "params.yaml", {key: parse_yaml(value)})
        read_params(folder / "params.yaml")


@pytest.mark.parametrize(
    "command", sorted({command for page in PAGES for command in commands(page)})
)
def test_a_command_parses(command: str, tmp_path: Path) -> None:
    check(command, tmp_path)


@pytest.mark.parametrize("page", [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
def test_commands_are_in_blocks_of_shell_code(page: Path) -> None:
    """So that these tests find them."""
    text = page.read_text(encoding="utf-8")
    for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, FLAGS):
        if kind not in ("bash", "sh", "console"):
            assert not re.search(r"^\s*\$? ?(make|dvc|cxr|pip) [a-z]", block, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "cxr guess folder/",
        "cxr predict --explained folder/",
        "cxr predict --format xml folder/",
        "dvc exp run --temporary",
        "dvc experiment run",
        "dvc exp run -S model.epoch=20",
        "dvc exp run -S model.epochs=20,many",
        "dvc exp run --queue -S 'transfer.pooling=average,maximum'",
        "pip install something",
    ],
)
def test_invalid_commands_are_detected(command: str, tmp_path: Path) -> None:
    wrong = (AssertionError, DvcParserError, SystemExit, KeyError, CxrError, pytest.fail.Exception)
    with pytest.raises(wrong):
        check(command, tmp_path)


# --- run -----------------------------------------------------------------------------------------


class Clone:
    """The finished project with all other files of the working tree, and images to predict."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.folder = project.folder
        self.ran: set[str] = set()  # commands
        copy_missing(self.folder)
        # The environment is the one of this test.
        (self.folder / ".venv").mkdir()
        for name in ("runtime", "runtime-development"):
            (self.folder / f".venv/{name}-installed").touch()
        # No command below uses what they would write, and they take most of an experiment's time.
        project.run("dvc freeze train_augmented intervals dataset_shift export report")
        project.commit("clone")
        self._add_images()

    def _add_images(self) -> None:
        """Add the images that the commands name."""
        raw = sorted((self.folder / "data/raw").rglob("*.jpeg"))
        rows = []
        for name in ("folder", "hospital"):
            for number, image in enumerate(raw):
                copy = self.folder / name / image.parent.name / f"{number}.jpeg"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(image, copy)
                rows.append(f"{image.parent.name}/{number}.jpeg,{number}")
        (self.folder / "patients.csv").write_text("\n".join(["file,patient", *set(rows)]))
        grey(120).save(self.folder / "image.png")
        shutil.copy(raw[0], self.folder / "image.jpeg")
        (self.folder / "scan.dcm").write_bytes(
            content_of(dataset(np.full((40, 40), 120, np.uint8)))
        )

    def run(self, command: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run a command as typed; returns its output."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode in codes, f"{command}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        return self.project.environment() | {"PYTHONPATH": str(self.folder / "src")}

    @contextmanager
    def server(self) -> Iterator[str]:
        """The address of a `cxr serve` that is ended by Ctrl-C."""
        with subprocess.Popen(
            ["cxr", "serve", "--port", "0"],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            try:
                assert found
                yield found[0]
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
            finally:
                process.kill()


Way = Callable[[Clone, str], object]


def given(_: Clone, command: str) -> None:
    """Not run, only parsed: CI runs it (make), it installs from the network (pip; tested by
    test_installing), or the environment of this test replaces it.
    """


def as_typed(clone: Clone, command: str) -> None:
    clone.run(command)


def drift(clone: Clone, command: str) -> None:
    """Exit code 3 means that drift was found."""
    assert "report: drift" in clone.run(command, codes=(0, cli.DRIFT_FOUND))


def started(clone: Clone, command: str) -> None:
    """Run the first experiment of the queue."""
    waiting = re.findall(r"^([0-9a-f]{7}) .*Queued$", clone.run("dvc queue status"), re.MULTILINE)
    assert len(waiting) > 1
    clone.run(f"dvc queue remove {' '.join(waiting[1:])}")
    clone.run(command)
    assert re.search(rf"^{waiting[0]} .*Success$", wait_for_queue(clone.project), re.MULTILINE)


def recorded(clone: Clone, command: str) -> None:
    """Rename two experiments to the names in the command."""
    names = clone.run("dvc exp list --name-only").split()
    for old, new in zip(names, ("name", "other"), strict=False):
        clone.run(f"dvc exp rename {old} {new}")
    clone.run(command)
    text = (clone.folder / "docs/experiments.csv").read_text(encoding="utf-8")
    assert re.search("^name,", text, re.MULTILINE)
    assert re.search("^other,", text, re.MULTILINE)


def served(clone: Clone, command: str) -> None:
    """Served on a free port."""
    assert command == "cxr serve"
    with clone.server() as address, urllib.request.urlopen(address) as page:
        assert page.status == 200


def asked(clone: Clone, command: str) -> None:
    """Sent to a server on a free port."""
    assert PAGE_OF_SERVER in command
    with clone.server() as address:
        assert '"probability"' in clone.run(command.replace(PAGE_OF_SERVER, address))


# A command that is missing here fails the test: add how it is run.
WAYS: dict[str, Way] = {
    "source .venv/bin/activate": given,
    "make demo": given,
    "make demo-shortcut": given,
    "make test": given,
    **dict.fromkeys(["pip install .", "pip install '.[serve]'", "pip install '.[train]'"], given),
    "dvc repro": as_typed,
    "dvc exp run -S model.epochs=20": as_typed,
    "dvc exp run --queue -S 'model.epochs=6,12'": as_typed,
    "dvc queue start": started,
    "dvc exp run --temp -S transfer.pooling=flatten": as_typed,
    "dvc exp show --only-changed": as_typed,
    "dvc metrics diff": as_typed,
    "dvc plots diff": as_typed,
    "dvc exp run --queue -S 'model.learning_rate=1e-3,3e-4' -S 'seed=1,2,3'": as_typed,
    "make summary": as_typed,
    'make record EXP="name other"': recorded,
    "cxr predict folder/ scan.dcm": as_typed,
    "cxr predict image.jpeg folder/ scan.dcm": as_typed,
    "cxr predict folder/": as_typed,
    "cxr predict --explain folder/": as_typed,
    "cxr predict --explain --into maps/ image.jpeg": as_typed,
    "cxr predict --format csv folder/ > all.csv": as_typed,
    "cxr predict --variant baseline image.png": as_typed,
    "cxr serve": served,
    "curl --data-binary @image.jpeg -H 'Content-Type: application/octet-stream' "
    "http://127.0.0.1:8000/api/predict": asked,
    "cxr drift folder/": drift,
    "cxr evaluate folder/": as_typed,
    "cxr export --onnx": as_typed,
    "cxr evaluate hospital/ --patients patients.csv --prevalence 0.1": as_typed,
}


def test_every_command_is_run_or_excluded() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert sorted(set(found) - set(WAYS)) == []
    assert sorted(set(WAYS) - set(found)) == [], "no longer in the pages"


@pytest.fixture(scope="module")
def clone(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(finished.copy(tmp_path_factory.mktemp("clone") / "project"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_order(clone: Clone, page: str) -> None:
    for command in commands(page):
        if command not in clone.ran:  # once for all pages
            WAYS[command](clone, command)
            clone.ran.add(command)


@pytest.mark.slow
def test_the_python_example_runs(clone: Clone) -> None:
    """The example of README.md, with models and images of the clone instead of the demo."""
    code = re.search(r"^```python\n(.*?)^```", readme := README.read_text("utf-8"), FLAGS)
    assert code
    assert OUTPUT.search(readme)
    here = code[1].replace('"demo/', '"').replace("*31*1.jpeg", "*.jpeg")
    (clone.folder / "example.py").write_text(here, encoding="utf-8")
    lines = clone.run("python example.py").splitlines()
    assert lines
    assert all(OUTPUT.match(f"# {line}") for line in lines)
