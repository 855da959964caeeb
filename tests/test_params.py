"""What params.yaml may hold, and what is said about mistakes in it."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from cxr.errors import CxrError
from cxr.params import Params, flat, read_params

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
TREE = YAML().load(TEXT)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return found


LEAVES = leaves(TREE)
NUMBERS = [k for k, v in LEAVES.items() if isinstance(v, int | float) and not isinstance(v, bool)]
INTEGERS = [key for key in NUMBERS if isinstance(LEAVES[key], int)]
FREE_TEXT = {
    "data.directory",
    "finetune.from_layer",
    "preprocess.scheduler",
    "split.val_series",
}
CHOICES = [k for k, v in LEAVES.items() if isinstance(v, str) and k not in FREE_TEXT]


def line_of(key: str) -> tuple[int, int]:
    """Line of a dotted key, and column of its value."""
    *parents, last = key.split(".")
    node = TREE
    for parent in parents:
        node = node[parent]
    return node.lc.value(last)


def edited(changes: dict[str, str | None]) -> str:
    """The committed file with other values, as they would be typed; None removes the line."""
    lines = TEXT.splitlines()
    for key, literal in changes.items():
        line, column = line_of(key)
        lines[line] = "" if literal is None else lines[line][:column] + literal
    return "\n".join(lines) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def read(path: Path, changes: dict[str, str | None]) -> Params:
    path.write_text(edited(changes), encoding="utf-8")
    return read_params(path)


def refusal(path: Path, content: str | bytes) -> str:
    """The message with which the content is refused."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CxrError) as caught:
        read_params(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_committed_file_is_read_as_written() -> None:
    record = read_params(ROOT / "params.yaml").model_dump()
    found = {k: list(v) if isinstance(v, tuple) else v for k, v in leaves(record).items()}
    assert found == LEAVES
    assert len(LEAVES) > 30


def test_params_of_the_current_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_params() == read_params(ROOT / "params.yaml")


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_is_explained_on_its_line(key: str) -> None:
    line, _ = line_of(key)
    assert re.search(r"\S # \w", TEXT.splitlines()[line])


@pytest.mark.parametrize(
    ("literal", "value"),
    [("1e-05", 1e-5), ("1e-3", 1e-3), ("1E-3", 1e-3), ("5.0e-4", 5e-4), ("1", 1.0)],
)
def test_numbers_in_every_notation(path: Path, literal: str, value: float) -> None:
    found = read(path, {"model.learning_rate": literal}).model.learning_rate
    assert found == value
    assert isinstance(found, float)


@pytest.mark.parametrize(
    ("key", "literal", "value"),
    [
        ("seed", "0", 0),
        ("seed", "2147483648", 2**31),
        ("split.val_fraction", "0.5", 0.5),
        ("model.filters", "[8]", (8,)),
        ("model.filters", "[1, 2, 3]", (1, 2, 3)),
        ("model.conv_dropout", "0", 0.0),
        ("augment.rotation", "0.0", 0.0),
        ("evaluate.min_recall", "1", 1.0),
        ("data.directory", '"/a b/ä"', "/a b/ä"),
        ("image.resize", "pad", "pad"),
        ("image.resize", '"squash"', "squash"),
    ],
)
def test_allowed_value(path: Path, key: str, literal: str, value: Any) -> None:
    found: Any = read(path, {key: literal})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("literal", "shown"),
    [
        ('"0.1"', "'0.1'"),
        ("twenty", "'twenty'"),
        ("true", "True"),
        ("null", "None"),
        ("", "None"),
        ("[1]", "[1]"),
        ("{a: 1}", "{'a': 1}"),
        (".nan", "nan"),
        (".inf", "inf"),
        ("-1", "-1"),
        ("9999999999", "9999999999"),
    ],
)
def test_no_number_key_takes(path: Path, literal: str, shown: str) -> None:
    message = refusal(path, edited(dict.fromkeys(NUMBERS, literal)))
    assert len(NUMBERS) > 20
    for key in NUMBERS:
        assert f"\n  {key}: {shown} " in message


def test_no_whole_number_takes_a_fraction(path: Path) -> None:
    message = refusal(path, edited(dict.fromkeys(INTEGERS, "6.5")))
    for key in INTEGERS:
        assert f"\n  {key}: 6.5 " in message


@pytest.mark.parametrize("literal", ["other", "KAGGLE", '""', "1", "true", "null", "[none]"])
def test_no_choice_takes(path: Path, literal: str) -> None:
    message = refusal(path, edited(dict.fromkeys(CHOICES, literal)))
    assert f"{len(CHOICES)} wrong value" in message
    for key in CHOICES:
        assert f"\n  {key}: " in message


def test_refused_choice_is_told_with_the_allowed_ones(path: Path) -> None:
    message = refusal(path, edited({"image.resize": "stretch"}))
    for word in ("image.resize", "'stretch'", "'crop'", "'squash'", "'pad'"):
        assert word in message


@pytest.mark.parametrize(
    ("key", "literal"),
    [
        ("data.phantom.patients", "7"),
        ("data.phantom.short_side", "31"),
        ("split.val_fraction", "0"),
        ("split.val_fraction", "0.51"),
        ("split.test_fraction", "1"),
        ("image.size", "15"),
        ("model.conv_dropout", "1"),
        ("model.dense_dropout", "1.0"),
        ("model.learning_rate", "0"),
        ("model.batch_size", "0"),
        ("model.epochs", "0"),
        ("augment.rotation", "0.6"),
        ("augment.zoom", "1"),
        ("transfer.learning_rate", "-1e-3"),
        ("transfer.epochs", "0"),
        ("evaluate.min_recall", "0"),
        ("evaluate.min_recall", "1.01"),
        ("seed", "2147483649"),
    ],
)
def test_out_of_range(path: Path, key: str, literal: str) -> None:
    message = refusal(path, edited({key: literal}))
    value = YAML(typ="safe", pure=True).load(literal)
    assert f"{key}: {value!r} should be" in message
    assert "1 wrong value" in message


@pytest.mark.parametrize(
    ("literal", "key"),
    [
        ("[]", "model.filters"),
        ("32", "model.filters"),
        ("[32, true]", "model.filters.1"),
        ('["32"]', "model.filters.0"),
        ("[32, 6.5]", "model.filters.1"),
        ("[0]", "model.filters.0"),
        ("[.nan]", "model.filters.0"),
    ],
)
def test_wrong_filters(path: Path, literal: str, key: str) -> None:
    message = refusal(path, edited({"model.filters": literal}))
    assert f"{key}: " in message
    assert "1 wrong value" in message


@pytest.mark.parametrize("key", LEAVES)
def test_missing_key(path: Path, key: str) -> None:
    message = refusal(path, edited({key: None}))
    assert f"1 wrong value(s):\n  {key}: this key is missing" in message


def test_missing_section(path: Path) -> None:
    message = refusal(path, TEXT.replace("\nevaluate:", "\nevaluation:"))
    assert "  evaluate: this key is missing" in message
    assert "  evaluation: unknown key" in message


@pytest.mark.parametrize(
    ("after", "line", "key"),
    [
        ("seed", "sead: 1", "sead"),
        ("image.size", "  sice: 256", "image.sice"),
        ("data.phantom.seed", "    seeds: 1", "data.phantom.seeds"),
    ],
)
def test_unknown_key(path: Path, after: str, line: str, key: str) -> None:
    lines = TEXT.splitlines()
    lines.insert(line_of(after)[0] + 1, line)
    message = refusal(path, "\n".join(lines))
    assert f"  {key}: unknown key" in message
    assert "1 wrong value" in message


def test_unknown_section(path: Path) -> None:
    assert "  extra: unknown key" in refusal(path, TEXT + "extra:\n  size: 1\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image.size": "16", "model.filters": "[1, 1, 1]"}, ["image.size 16", "3 blocks"]),
        ({"image.size": "16", "model.kernel_size": "10"}, ["model.kernel_size 10"]),
        ({"image.size": "16", "model.pool_size": "8"}, ["model.pool_size 8"]),
    ],
)
def test_image_too_small_for_the_network(
    path: Path, changes: dict[str, str | None], said: list[str]
) -> None:
    message = refusal(path, edited(changes))
    assert "too small" in message
    for words in said:
        assert words in message


@pytest.mark.parametrize(
    ("size", "fits"),  # two blocks of kernel 3 and pooling 3: 17 -> 5 -> 1, 16 -> 4 -> 0
    [(17, True), (16, False)],
)
def test_smallest_image_that_the_network_takes(path: Path, size: int, fits: bool) -> None:
    changes: dict[str, str | None] = {"image.size": str(size), "model.pool_size": "3"}
    if fits:
        assert read(path, changes).image.size == size
    else:
        assert "too small" in refusal(path, edited(changes))


def test_all_mistakes_are_in_one_message(path: Path) -> None:
    wrong = {
        "seed": "one",
        "data.phantom.patients": "2",
        "model.epochs": "6.5",
        "transfer.weights": "random",
        "image.size": None,
    }
    message = refusal(path, edited(wrong) + "extra: 1\n")
    assert "6 wrong value" in message
    for words in (
        "seed: 'one'",
        "data.phantom.patients: 2",
        "model.epochs: 6.5",
        "transfer.weights: 'random'",
        "image.size: this key is missing",
        "extra: unknown key",
    ):
        assert f"\n  {words}" in message


@pytest.mark.parametrize(
    "content", ["", "# only a comment\n", "- seed: 1\n", "seed\n", "1\n"], ids=repr
)
def test_file_without_a_mapping(path: Path, content: str) -> None:
    assert "holds no keys" in refusal(path, content)


@pytest.mark.parametrize("key", ["seed", "image.size", "data.phantom.patients"])
def test_key_given_twice(path: Path, key: str) -> None:
    lines = TEXT.splitlines()
    line, _ = line_of(key)
    lines.insert(line, lines[line])
    message = refusal(path, "\n".join(lines))
    assert "duplicate" in message
    assert key.split(".")[-1] in message


@pytest.mark.parametrize(
    "content",
    [
        b"seed: [1\n",
        b"seed: 1\n\timage: 2\n",
        b"seed: 'one\n",
        b"a: b: c\n",
        b"seed: 1\n---\nseed: 2\n",
        b"seed: \x00\n",
        b"seed: \xff\xfe\n",
        b"seed: !!python/object:os.system 1\n",
        b"seed: 2026-13-45\n",
        b"seed: !!int one\n",
        b"seed: " + b"[" * 5000,
    ],
    ids=repr,
)
def test_broken_file(path: Path, content: bytes) -> None:
    assert "cannot be read" in refusal(path, content)


@pytest.mark.parametrize(("draws", "allowed"), [("100", True), ("20000", True), ("20001", False)])
def test_draws_fit_into_memory(path: Path, draws: str, allowed: bool) -> None:
    """Each draw holds a weight for every image."""
    changes: dict[str, str | None] = {"evaluate.resamples": draws}
    if allowed:
        assert read(path, changes).evaluate.resamples == int(draws)
    else:
        assert "evaluate.resamples: 20001" in refusal(path, edited(changes))


def test_flat_names_keys_in_full() -> None:
    params = read_params(ROOT / "params.yaml")
    found = flat(image=params.image, model=params.model)
    assert found["image.size"] == params.image.size
    assert found["model.filters"] == params.model.filters
    assert set(found) == {key for key in LEAVES if key.split(".")[0] in ("image", "model")}


def test_missing_file(path: Path) -> None:
    with pytest.raises(CxrError, match="cannot be read") as caught:
        read_params(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("section", "key"), [("", "seed"), ("image", "size"), ("model", "epochs")])
def test_record_is_frozen(section: str, key: str) -> None:
    params = read_params(ROOT / "params.yaml")
    record = getattr(params, section) if section else params
    before = getattr(record, key)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, key, before + 1)
    assert getattr(record, key) == before


@pytest.mark.parametrize("address", ['""', "tcp://10.0.0.1:8786", "tls://host:1"])
def test_address_of_a_scheduler(path: Path, address: str) -> None:
    found = read(path, {"preprocess.scheduler": address}).preprocess.scheduler
    assert found == address.strip('"')


@pytest.mark.parametrize("address", ["10.0.0.1", "tcp://10.0.0.1", "8786", "true"])
def test_what_is_no_address_of_a_scheduler(path: Path, address: str) -> None:
    assert "preprocess.scheduler: " in refusal(path, edited({"preprocess.scheduler": address}))
