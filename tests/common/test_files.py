"""Atomic writes of files and folders; YAML 1.2."""

import errno
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cxr.common.files import parse_yaml, read_yaml, remove, replacing, write_csv, write_json
from cxr.errors import CxrError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(part: Path, kind: str, content: str) -> None:
    if kind == "folder":
        part.mkdir()
        part = part / "inside.txt"
    part.write_text(content)


def content(path: Path) -> str:
    return (path / "inside.txt" if path.is_dir() else path).read_text()


KINDS = pytest.mark.parametrize("kind", ["file", "folder"])


@KINDS
def test_result_is_renamed_and_parents_are_created(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a" / "b" / "result.txt"
    with replacing(path) as part:
        assert part.parent == path.parent
        assert part.suffix == path.suffix
        fill(part, kind, "new")
        assert not path.exists()
    assert content(path) == "new"
    assert names(path.parent) == ["result.txt"]


@pytest.mark.parametrize(
    ("old", "kind"), [("file", "file"), ("folder", "folder"), ("file", "folder")]
)
def test_result_replaces_the_existing_one(tmp_path: Path, old: str, kind: str) -> None:
    path = tmp_path / "result"
    fill(path, old, "old")
    if old == "folder":
        (path / "leftover.txt").write_text("old")
    with replacing(path) as part:
        fill(part, kind, "new")
        assert content(path) == "old"
    assert content(path) == "new"
    assert names(tmp_path) == ["result"]
    assert kind == "file" or names(path) == ["inside.txt"]


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_keeps_the_existing_result_only(
    tmp_path: Path, kind: str, error: type[BaseException]
) -> None:
    path = tmp_path / "result"
    fill(path, kind, "old")
    with pytest.raises(error), replacing(path) as part:
        fill(part, kind, "half")
        raise error
    assert content(path) == "old"
    assert names(tmp_path) == ["result"]


@KINDS
def test_leftover_of_a_killed_run_is_removed_first(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "result"
    ended = subprocess.run(["sh", "-c", "echo $$"], stdout=subprocess.PIPE, check=True).stdout
    for pid in (int(ended), os.getpid()):  # process IDs are reused
        fill(tmp_path / f".part-{pid}-result", kind, "stale")
    with replacing(path) as part:
        assert names(tmp_path) == []
        part.write_text("new")
    assert names(tmp_path) == ["result"]
    assert content(path) == "new"


@KINDS
def test_temporary_file_of_a_running_process_is_kept(tmp_path: Path, kind: str) -> None:
    """A stage may outlive its killed `dvc repro` while the next one starts."""
    path, other = tmp_path / "result", tmp_path / f".part-{os.getppid()}-result"
    fill(other, kind, "other")
    with replacing(path) as part:
        part.write_text("new")
    assert content(path) == "new"
    assert content(other) == "other"


def test_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(CxrError, match=r"result.csv cannot be written: .*No space left"),
        replacing(tmp_path / "result.csv"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # full disk
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CxrError, match="result cannot be written"):
        write_json(tmp_path / "file" / "result", {})
    assert names(tmp_path) == ["file"]


def test_link_is_replaced_and_its_target_is_kept(tmp_path: Path) -> None:
    """DVC may link results into its cache, whose files must never change."""
    target, link = tmp_path / "cached", tmp_path / "result"
    target.write_text("cached")
    link.symlink_to(target)
    with replacing(link) as part:
        part.write_text("new")
    assert content(link) == "new"
    assert content(target) == "cached"


def test_remove_does_not_follow_links(tmp_path: Path) -> None:
    target, link = tmp_path / "folder", tmp_path / "link"
    fill(target, "folder", "kept")
    link.symlink_to(target)
    remove(link)
    remove(tmp_path / "nothing")
    assert names(tmp_path) == ["folder"]
    assert content(target) == "kept"


def test_json_is_indented_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"b": {"a": 0.1, "n": 3}, "text": "ä"}
    write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 4
    assert text.index('"b"') < text.index('"text"')


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_with_nan_or_infinity_raises(tmp_path: Path, number: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"auc": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"auc": {"test": number}})
    assert json.loads(path.read_text()) == {"auc": 0.5}
    assert names(tmp_path) == ["value.json"]


def test_csv_has_no_index_and_unix_line_endings(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    write_csv(path, pd.DataFrame({"name": ["a,b", "c"], "n": [1, 2]}, index=[7, 8]))
    assert path.read_bytes() == b'name,n\n"a,b",1\nc,2\n'
    assert names(path.parent) == ["table.csv"]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        *(("1e-05", 1e-5), ("1E3", 1000.0), ("-2.5e+3", -2500.0), ("1.", 1.0), (".5", 0.5)),
        *((".inf", math.inf), ("-.INF", -math.inf), ("0", 0), ("-12", -12), ("+3", 3)),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None)),
        # Numbers, booleans and dates of YAML 1.1 only.
        *((word, word) for word in ("yes", "no", "on", "off", "Y", "n", "none", "1:30", "0x1F")),
        *((word, word) for word in ("2026-01-01", "1_000", "1e", "e5", ".", "+")),
        *(("'1e-05'", "1e-05"), ('"true"', "true"), ("[1, 1e-3]", [1, 1e-3])),
        ("{a: &x {b: 1}, c: {<<: *x, b: 2}}", {"a": {"b": 1}, "c": {"b": 2}}),
    ],
)
def test_yaml_1_2_values(literal: str, value: Any) -> None:
    parsed = parse_yaml(f"key: {literal}")["key"]
    assert (parsed, type(parsed)) == (value, type(value))


def test_json_is_parsed_as_yaml() -> None:
    value = {"a": [1, 1.5e-7, -2e20, None, True, "ä\n\"'"], "b": {"c": {}, "d": []}}
    for indent in (None, 2):
        assert parse_yaml(json.dumps(value, indent=indent)) == value
    assert math.isnan(parse_yaml("[.nan]")[0])


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3", "x: {a: 1, b: 2, a: 3}", 'a: 1\n"a": 2', "[{a: 1, a: 1}]"]
)
def test_duplicate_key_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"^duplicate key a in line \d, column \d+$"):
        parse_yaml(text)


BROKEN = [
    *(
        b"seed: [1\n",
        b"seed: 1\n\timage: 2\n",
        b"seed: 'one\n",
        b"a: b: c\n",
        b"<<<<<<< HEAD\na: 1",
    ),
    *(b"seed: 1\n---\nseed: 2\n", b"seed: \x00\n", b"seed: \xff\xfe\n", b"? [a]\n: b\n", b"a: *b"),
    *(b"seed: !!python/object:os.system 1\n", b"seed: !!timestamp 2026-13-45\n"),
    *(b"seed: !!int one\n", b"seed: !!bool x\n", b"seed: !!timestamp x\n", b"seed: !!int ''\n"),
    *(b"seed: " + b"[" * 5000, b"seed: " + b"1" * 5000),
]


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:30]))
def test_invalid_yaml_file_is_one_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(CxrError, match=f"^{path} cannot be read: .+; `git checkout {path}` .+$"):
        read_yaml(path)


@pytest.mark.parametrize("content", ["", "# only a comment\n", "- seed: 1\n", "seed\n", "1\n"])
def test_yaml_file_without_keys_raises(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(CxrError, match=f"^{path} has no keys; "):
        read_yaml(path)
