"""Kill, interrupt or fail every stage: the next `dvc repro` gives the same results."""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue

import psutil  # type: ignore[import-untyped]

from cxr.common.files import remove
from cxr.tools.project_copy import script
from reliability.figures import Figure
from tests.support.project import Project

KILLS = 20  # per stage
IN_A_ROW = 5  # kills before an uninterrupted `dvc repro`
INTERRUPTS = 3  # per stage
N_PROJECTS = 2  # used in parallel
EPOCHS: dict[str, object] = {  # several, to resume between them
    "model.epochs": 3,
    "transfer.epochs": 3,
    "finetune.epochs": 3,
}
TMPFS = "1g"
KILLED = (
    "no partial file, and the next `dvc repro` gives the same bytes (after `git checkout dvc.lock` "
    "if DVC was killed while it wrote that file)"
)
FAILED = (
    "the stage ends with one error that names the reason, and no partial file; `dvc repro` then "
    "gives the same bytes"
)


def measure(kills: int = KILLS, interrupts: int = INTERRUPTS) -> list[Figure]:
    """Measure every stage; takes about half an hour on two idle cores."""
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)) as is_small:
        pool = TrialPool([Trial(Project(Path(folder) / str(n), EPOCHS)) for n in range(N_PROJECTS)])
        figures = pool.for_all_stages(partial(Trial.killed, times=kills))
        for what, experiment in (
            ("Ctrl-C", partial(Trial.interrupted, times=interrupts)),
            ("file size limit (EFBIG)", Trial.limited),
            ("read-only folders", Trial.read_only),
        ):
            figures.append(combined(what, pool.for_all_stages(experiment)))
        if is_small:  # shared by all projects, so only one uses it
            one = pool.free.get()
            figures.append(combined("full disk (tmpfs)", [one.full(name) for name in one.outputs]))
    return figures


class TrialPool:
    """Several projects that run trials in parallel."""

    def __init__(self, trials: list["Trial"]) -> None:
        self.stages = list(trials[0].outputs)
        self.free: Queue[Trial] = Queue()
        for trial in trials:
            self.free.put(trial)

    def for_all_stages(self, experiment: Callable[["Trial", str], Figure]) -> list[Figure]:
        """Run an experiment with every stage, each in the next free project."""
        with ThreadPoolExecutor(self.free.qsize()) as threads:
            return list(threads.map(partial(self._for_stage, experiment), self.stages))

    def _for_stage(self, experiment: Callable[["Trial", str], Figure], stage: str) -> Figure:
        trial = self.free.get()
        try:
            figure = experiment(trial, stage)
        finally:
            self.free.put(trial)
        print(f"{figure.what}: {figure.passed} of {figure.trials}", file=sys.stderr, flush=True)
        return figure


def combined(what: str, figures: list[Figure]) -> Figure:
    """Sum the figures of all stages."""
    failed = [figure.what for figure in figures if not figure.reached]
    note = f"{len(figures)} stages"
    return Figure(
        f"{what}, each stage",
        figures[0].criterion,
        sum(figure.trials for figure in figures),
        sum(figure.passed for figure in figures),
        note=f"{note}; failed: {', '.join(failed)}" if failed else note,
    )


@dataclass(frozen=True)
class End:
    """Exit code and output of a command."""

    code: int
    output: str

    def is_one_error(self, text: str = "error: ") -> bool:
        """Whether it failed with one line that starts with `text`, and without a traceback."""
        lines = sum(line.startswith(text) for line in self.output.splitlines())
        return self.code != 0 and lines == 1 and "Traceback" not in self.output


class Trial:
    """A project after an uninterrupted run, with whose results others are compared."""

    def __init__(self, project: Project) -> None:
        self.project = project
        if not (project.folder / "dvc.lock").exists():
            project.repro()
            project.commit("results")
        self.outputs = project.outputs()
        self.expected = project.contents(self._all_outputs())
        self.log = project.folder.with_name(f"{project.folder.name}.log")
        self.rng = random.Random(1)
        self.orphans: list[psutil.Process] = []
        self.damaged_files = 0

    def _all_outputs(self) -> list[str]:
        return [output for outputs in self.outputs.values() for output in outputs]

    def killed(self, stage: str, times: int = KILLS) -> Figure:
        """`kill -9` at random times during `dvc repro` of a stage."""
        started = time.monotonic()
        seconds = self._seconds(f"dvc repro --force --single-item {stage}")
        passed = resumed = self.damaged_files = 0
        for first in range(0, times, IN_A_ROW):
            numbers = range(first, min(first + IN_A_ROW, times))
            complete = sum(self.kill(stage, number, seconds) for number in numbers)
            passed += complete if self.is_restored() else 0
            resumed += "resuming from epoch" in self.log.read_text(errors="replace")
        note = f"within {seconds:.1f} s; {time.monotonic() - started:.0f} s in total"
        if resumed:
            note += f"; training resumed from a checkpoint {resumed} times"
        if self.damaged_files:
            note += f"; DVC's own files were damaged {self.damaged_files} times"
        return Figure(f"kill -9 of {stage}", KILLED, times, passed, note=note)

    def kill(self, stage: str, number: int, seconds: float) -> bool:
        """Kill once; return whether no result is partial.

        Args:
            stage: that `dvc repro` runs.
            number: of the attempt. It kills, in turn, all processes, only DVC (the stage continues
                in parallel to the next) and only the stage; every fourth during a write.
            seconds: time within which the others are killed.
        """
        self._remove(stage)
        process = self._start(f"dvc repro --force --single-item {stage}")
        if number % 4 == 3:
            self._wait_for_a_file(stage, process)
            time.sleep(self.rng.random() * 0.01)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.rng.random() * seconds)
        self._kill_some(process, number % 3)
        process.wait()
        return self.is_whole(stage)

    def _kill_some(self, process: "subprocess.Popen[bytes]", which: int) -> None:
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:  # it has ended
            return
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if which == 0:
                os.killpg(process.pid, signal.SIGKILL)
            elif which == 1 or not children:
                process.kill()
                self.orphans += children
            else:
                for child in children:
                    child.kill()

    def _wait_for_a_file(self, stage: str, process: "subprocess.Popen[bytes]") -> None:
        """Wait for a new file next to the results, usually a temporary one."""
        folders = {(self.project.folder / output).parent for output in self.outputs[stage]}

        def names() -> set[Path]:
            return {file for folder in folders for file in folder.glob("*")}

        before = names()
        while process.poll() is None and names() <= before:
            time.sleep(0.0005)

    def interrupted(self, stage: str, times: int = INTERRUPTS) -> Figure:
        """Ctrl-C at random times during a stage."""
        command = " ".join(["python", *script(stage)])
        self._remove(stage)
        seconds = self._seconds(command)
        passed = 0
        for _ in range(times):
            self._remove(stage)
            process = self._start(command)
            with suppress(subprocess.TimeoutExpired):  # time for Python to start
                process.wait(0.15 + self.rng.random() * seconds)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            end = End(process.wait(60), self.log.read_text(errors="replace"))
            complete = self._is_complete(stage)  # it had already ended
            ended = end.is_one_error("error: interrupted") or complete
            passed += ended and self.is_whole(stage)
        criterion = f"one message, no traceback, {KILLED}"
        return Figure(f"Ctrl-C of {stage}", criterion, times, passed if self.is_restored() else 0)

    def limited(self, stage: str) -> Figure:
        """Run a stage with a file size limit of half its largest file."""
        outputs = self.project.contents(self.outputs[stage])
        limit = max((self.project.folder / file).stat().st_size for file in outputs) // 2
        self._remove(stage)
        limits = (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        end = self._run(stage, partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits))
        return self._failed(f"file size limit for {stage}", stage, end)

    def _run(self, stage: str, prepare: Callable[[], None] | None = None) -> End:
        """Run a stage without DVC, after `prepare` in its process."""
        done = subprocess.run(
            [sys.executable, *script(stage)],
            cwd=self.project.folder,
            preexec_fn=prepare,
            env=self.project.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return End(done.returncode, done.stdout)

    def read_only(self, stage: str) -> Figure:
        """Run a stage whose output folders are read-only."""
        self._remove(stage)
        folders = {(self.project.folder / output).parent for output in self.outputs[stage]}
        with read_only(folders):
            end = self._finish(self._start(" ".join(["python", *script(stage)])))
        return self._failed(f"read-only folders of {stage}", stage, end)

    def full(self, stage: str) -> Figure:
        """Run a stage on a `small_disk` with space for half of its largest file."""
        sizes = [self.project.folder / file for file in self.project.contents(self.outputs[stage])]
        free = max(file.stat().st_size for file in sizes) // 2
        self._remove(stage)
        ballast = self.project.folder.with_name("ballast")
        disk = os.statvfs(self.project.folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - free))
        end = self._run(stage)
        ballast.unlink()
        return self._failed(f"full disk for {stage}", stage, end)

    def _failed(self, what: str, stage: str, end: End) -> Figure:
        named = "cannot" in end.output or "No space left" in end.output
        passed = named and end.is_one_error() and self.is_whole(stage)
        if not passed:
            print(f"{what}: {end}", file=sys.stderr)
        return Figure(what, FAILED, 1, int(self.is_restored() and passed))

    def is_whole(self, stage: str) -> bool:
        """Whether each existing result of the stage has the expected bytes."""
        found = self.project.contents(self.outputs[stage])
        return self._differing(found) == []

    def _is_complete(self, stage: str) -> bool:
        found = self.project.contents(self.outputs[stage])
        names = {name for output in self.outputs[stage] for name in self._below(output)}
        return found == {name: self.expected[name] for name in names}

    def _below(self, output: str) -> Iterator[str]:
        return (n for n in self.expected if n == output or n.startswith(f"{output}/"))

    def _differing(self, found: dict[str, str]) -> list[str]:
        differing = [name for name in found if found[name] != self.expected.get(name)]
        if differing:
            print(f"not as expected: {', '.join(differing)}", file=sys.stderr)
        return differing

    def is_restored(self) -> bool:
        """Whether the next `dvc repro` gives the results of an uninterrupted run, byte for byte."""
        if not self._repro():
            return False
        psutil.wait_procs(self.orphans, timeout=120)
        self.orphans.clear()
        found = self.project.contents(self._all_outputs())
        return self._differing(found) == [] and found.keys() == self.expected.keys()

    def _repro(self) -> bool:
        """Run `dvc repro`; repair DVC's own files as a user would if they are damaged."""
        for _ in range(3):  # both can be damaged
            end = self._finish(self._start("dvc repro --no-run-cache"))
            if end.code == 0:
                return True
            self.damaged_files += 1
            print(end.output, file=sys.stderr)
            if "dvc.lock'" in end.output:
                self.project.run("git checkout --quiet dvc.lock")
            elif "RWLock-file" in end.output:
                (self.project.folder / ".dvc/tmp/rwlock").unlink()
        return False

    def _remove(self, stage: str) -> None:
        """Remove the outputs: DVC itself keeps those that persist."""
        for output in self.outputs[stage]:
            remove(self.project.folder / output)

    def _seconds(self, command: str) -> float:
        started = time.monotonic()
        end = self._finish(self._start(command))
        assert end.code == 0, end.output
        return time.monotonic() - started

    def _start(self, command: str) -> "subprocess.Popen[bytes]":
        return self.project.start(command, self.log)

    def _finish(self, process: "subprocess.Popen[bytes]") -> End:
        return End(process.wait(), self.log.read_text(errors="replace"))


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a tmpfs at the folder; yields whether that worked."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(folders: set[Path]) -> Iterator[None]:
    """Make folders read-only; for root, by a mount."""
    done: list[Path] = []
    try:
        for folder in sorted(folders):
            if os.geteuid():
                folder.chmod(0o555)
            else:
                subprocess.run(["mount", "--bind", folder, folder], check=True)
            done.append(folder)
            if not os.geteuid():
                subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        for folder in reversed(done):
            if os.geteuid():
                folder.chmod(0o755)
            else:
                subprocess.run(["umount", folder], check=True)
