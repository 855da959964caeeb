"""Files that running or editing the code leaves next to it change no dependency."""

from pathlib import Path

from tests.support.project import Project


def test_bytecode_and_editor_files_leave_dvc_status_clean(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path / "project")
    project.run("python -m compileall -q src stages")
    package = project.folder / "src/cxr/training"
    assert list(package.glob("__pycache__/*.pyc"))
    (package / ".ipynb_checkpoints").mkdir()
    left = (".ipynb_checkpoints/trainer.py", ".trainer.py.swp", "trainer.py~")
    for name in left:
        (package / name).touch()
    assert "up to date" in project.run("dvc status")
    (package / "new.py").touch()
    assert "modified:           src/cxr/training" in project.run("dvc status")
