"""Kill, interrupt and starve every stage: the next `dvc repro` ends as if nothing had happened."""

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
from reliability.figures import Figure
from tests.support.project import Project

KILLS = 20  # of each stage
IN_A_ROW = 5  # kills before the next undisturbed `dvc repro`
INTERRUPTS = 3  # of each stage
AT_ONCE = 2  # projects that are tried side by side
EPOCHS: dict[str, object] = {  # to resume between them
    "model.epochs": 3,
    "transfer.epochs": 3,
    "finetune.epochs": 3,
}
TMPFS = "1g"
KILLED = (
    "nothing half-written under its name, and the next `dvc repro` gives the same bytes (after "
    "`git checkout dvc.lock` where DVC was killed while it wrote that file)"
)
REFUSED = (
    "the stage ends with one error that says why, and no half-written file; `dvc repro` then gives "
    "the same bytes"
)


def measure(kills: int = KILLS, interrupts: int = INTERRUPTS) -> list[Figure]:
    """Figures of every stage; about half an hour on two idle cores."""
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)) as is_small:
        trials = Trials([Trial(Project(Path(folder) / str(n), EPOCHS)) for n in range(AT_ONCE)])
        figures = trials.of_all_stages(partial(Trial.killed, times=kills))
        for what, tried in (
            ("Ctrl-C", partial(Trial.interrupted, times=interrupts)),
            ("file size limit (EFBIG)", Trial.limited),
            ("read-only folders", Trial.read_only),
        ):
            figures.append(together(what, trials.of_all_stages(tried)))
        if is_small:  # which all share, so one has it alone
            one = trials.free.get()
            figures.append(together("full disk (tmpfs)", [one.full(name) for name in one.outputs]))
    return figures


class Trials:
    """Several projects, to which things are done side by side."""

    def __init__(self, trials: list["Trial"]) -> None:
        self.stages = list(trials[0].outputs)
        self.free: Queue[Trial] = Queue()
        for trial in trials:
            self.free.put(trial)

    def of_all_stages(self, tried: Callable[["Trial", str], Figure]) -> list[Figure]:
        """Try something with every stage, each in the next project that is free."""
        with ThreadPoolExecutor(self.free.qsize()) as pool:
            return list(pool.map(partial(self._of_stage, tried), self.stages))

    def _of_stage(self, tried: Callable[["Trial", str], Figure], stage: str) -> Figure:
        trial = self.free.get()
        try:
            figure = tried(trial, stage)
        finally:
            self.free.put(trial)
        print(f"{figure.what}: {figure.held} of {figure.tried}", file=sys.stderr, flush=True)
        return figure


def together(what: str, found: list[Figure]) -> Figure:
    """One figure for all stages."""
    failed = [figure.what for figure in found if not figure.reached]
    note = f"{len(found)} stages"
    return Figure(
        f"{what}, each stage",
        found[0].right,
        sum(figure.tried for figure in found),
        sum(figure.held for figure in found),
        note=f"{note}; not: {', '.join(failed)}" if failed else note,
    )


@dataclass(frozen=True)
class End:
    """How a command ended, and what it said."""

    code: int
    said: str

    def is_one_error(self, text: str = "error: ") -> bool:
        """Whether it failed with one line that begins like this, and without a traceback."""
        lines = sum(line.startswith(text) for line in self.said.splitlines())
        return self.code != 0 and lines == 1 and "Traceback" not in self.said


class Trial:
    """A project after one undisturbed run, to which its results are compared."""

    def __init__(self, project: Project) -> None:
        self.project = project
        if not (project.folder / "dvc.lock").exists():
            project.repro()
            project.commit("results")
        self.outputs = project.outputs()
        self.undisturbed = project.contents(self._all_outputs())
        self.log = project.folder.with_name(f"{project.folder.name}.log")
        self.rng = random.Random(1)
        self.orphans: list[psutil.Process] = []
        self.torn_files = 0

    def _all_outputs(self) -> list[str]:
        return [output for outputs in self.outputs.values() for output in outputs]

    def killed(self, stage: str, times: int = KILLS) -> Figure:
        """`kill -9` at random moments of `dvc repro` of a stage, with undisturbed runs between."""
        started = time.monotonic()
        seconds = self._seconds(f"dvc repro --force --single-item {stage}")
        held = resumed = self.torn_files = 0
        for first in range(0, times, IN_A_ROW):
            numbers = range(first, min(first + IN_A_ROW, times))
            whole = sum(self.kill(stage, number, seconds) for number in numbers)
            held += whole if self.mended() else 0
            resumed += "resuming from epoch" in self.log.read_text(errors="replace")
        note = f"within {seconds:.1f} s; {time.monotonic() - started:.0f} s in all"
        if resumed:
            note += f"; trainings went on after a kept epoch {resumed} times"
        if self.torn_files:
            note += f"; DVC's own files were torn {self.torn_files} times"
        return Figure(f"kill -9 of {stage}", KILLED, times, held, note=note)

    def kill(self, stage: str, number: int, seconds: float) -> bool:
        """Kill once; whether nothing half-written stands under the name of a result.

        Args:
            stage: that `dvc repro` runs.
            number: of the attempt. In turn all processes are killed, DVC alone (the stage then goes
                on beside the next one) and the stage alone; every fourth one while a result is
                being written.
            seconds: within which the others are killed.
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
        except psutil.NoSuchProcess:  # it was quicker
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
        """Until there is a new name beside results, as a rule a temporary one."""
        folders = {(self.project.folder / output).parent for output in self.outputs[stage]}

        def names() -> set[Path]:
            return {file for folder in folders for file in folder.glob("*")}

        before = names()
        while process.poll() is None and names() <= before:
            time.sleep(0.0005)

    def interrupted(self, stage: str, times: int = INTERRUPTS) -> Figure:
        """Ctrl-C at random moments of a stage."""
        command = f"python -m stages.{stage}"
        self._remove(stage)
        seconds = self._seconds(command)
        held = 0
        for _ in range(times):
            self._remove(stage)
            process = self._start(command)
            with suppress(subprocess.TimeoutExpired):  # Python itself starts within a moment
                process.wait(0.15 + self.rng.random() * seconds)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            end = End(process.wait(60), self.log.read_text(errors="replace"))
            complete = self._is_complete(stage)  # then it was over already
            right = end.is_one_error("error: interrupted") or complete
            held += right and self.is_whole(stage)
        right_means = f"one message, no traceback, {KILLED}"
        return Figure(f"Ctrl-C of {stage}", right_means, times, held if self.mended() else 0)

    def limited(self, stage: str) -> Figure:
        """A stage whose largest file is too large by half, as on a disk that is almost full."""
        outputs = self.project.contents(self.outputs[stage])
        most = max((self.project.folder / file).stat().st_size for file in outputs) // 2
        self._remove(stage)
        limits = (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        end = self._run(stage, partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits))
        return self._refused(f"file size limit for {stage}", stage, end)

    def _run(self, stage: str, prepare: Callable[[], None] | None = None) -> End:
        """Run a stage with nothing written but by itself, after `prepare` in its process."""
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"],
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
        """A stage that must not write where its results belong."""
        self._remove(stage)
        folders = {(self.project.folder / output).parent for output in self.outputs[stage]}
        with read_only(folders):
            end = self._finish(self._start(f"python -m stages.{stage}"))
        return self._refused(f"read-only folders of {stage}", stage, end)

    def full(self, stage: str) -> Figure:
        """A stage on a disk with too little room by half; on a `small_disk`."""
        sizes = [self.project.folder / file for file in self.project.contents(self.outputs[stage])]
        room = max(file.stat().st_size for file in sizes) // 2
        self._remove(stage)
        ballast = self.project.folder.with_name("ballast")
        disk = os.statvfs(self.project.folder)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - room))
        end = self._run(stage)
        ballast.unlink()
        return self._refused(f"full disk for {stage}", stage, end)

    def _refused(self, what: str, stage: str, end: End) -> Figure:
        named = "cannot" in end.said or "No space left" in end.said
        right = named and end.is_one_error() and self.is_whole(stage)
        if not right:
            print(f"{what}: {end}", file=sys.stderr)
        return Figure(what, REFUSED, 1, int(self.mended() and right))

    def is_whole(self, stage: str) -> bool:
        """Whether every file of the stage's results that is there is as it should be."""
        there = self.project.contents(self.outputs[stage])
        return self._differing(there) == []

    def _is_complete(self, stage: str) -> bool:
        there = self.project.contents(self.outputs[stage])
        names = {name for output in self.outputs[stage] for name in self._below(output)}
        return there == {name: self.undisturbed[name] for name in names}

    def _below(self, output: str) -> Iterator[str]:
        return (n for n in self.undisturbed if n == output or n.startswith(f"{output}/"))

    def _differing(self, there: dict[str, str]) -> list[str]:
        differing = [name for name in there if there[name] != self.undisturbed.get(name)]
        if differing:
            print(f"not as undisturbed: {', '.join(differing)}", file=sys.stderr)
        return differing

    def mended(self) -> bool:
        """Whether the next `dvc repro` gives the results of an undisturbed run, byte for byte."""
        if not self._repro():
            return False
        psutil.wait_procs(self.orphans, timeout=120)
        self.orphans.clear()
        there = self.project.contents(self._all_outputs())
        return self._differing(there) == [] and there.keys() == self.undisturbed.keys()

    def _repro(self) -> bool:
        """The next `dvc repro`, with what a user does where DVC's own files were torn."""
        for _ in range(3):  # both can be
            end = self._finish(self._start("dvc repro --no-run-cache"))
            if end.code == 0:
                return True
            self.torn_files += 1
            print(end.said, file=sys.stderr)
            if "dvc.lock'" in end.said:
                self.project.run("git checkout --quiet dvc.lock")
            elif "RWLock-file" in end.said:
                (self.project.folder / ".dvc/tmp/rwlock").unlink()
        return False

    def _remove(self, stage: str) -> None:
        """DVC removes them itself, but for those that persist."""
        for output in self.outputs[stage]:
            remove(self.project.folder / output)

    def _seconds(self, command: str) -> float:
        started = time.monotonic()
        end = self._finish(self._start(command))
        assert end.code == 0, end.said
        return time.monotonic() - started

    def _start(self, command: str) -> "subprocess.Popen[bytes]":
        return self.project.start(command, self.log)

    def _finish(self, process: "subprocess.Popen[bytes]") -> End:
        return End(process.wait(), self.log.read_text(errors="replace"))


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs at the folder, where mounting is allowed; whether it is."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(folders: set[Path]) -> Iterator[None]:
    """Nothing can be written directly in the folders; root needs a mount for that."""
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
