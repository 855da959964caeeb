"""What params.yaml may hold, and what is said about mistakes in it."""

import json
import math
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from dvc.utils.hydra import apply_overrides
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from cxr.errors import CxrError
from cxr.params import Params, Section, flat, read_params

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
TREE = YAML().load(TEXT)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return found


def fields(section: type[Section], prefix: str = "") -> dict[str, FieldInfo]:
    """Every key that the records know, by its full name."""
    found: dict[str, FieldInfo] = {}
    for key, field in section.model_fields.items():
        kind: Any = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, Section)
        found |= fields(kind, f"{prefix}{key}.") if is_section else {prefix + key: field}
    return found


LEAVES = leaves(TREE)
FIELDS = fields(Params)
CHOICES = {
    k: get_args(f.annotation) for k, f in FIELDS.items() if get_origin(f.annotation) is Literal
}


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
    assert set(FIELDS) == set(LEAVES)


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
        ("data.patients", '"/a b/ä.csv"', "/a b/ä.csv"),
        ("data.on_unplaced", "skip", "skip"),
        ("image.resize", "pad", "pad"),
        ("image.resize", '"squash"', "squash"),
    ],
)
def test_allowed_value(path: Path, key: str, literal: str, value: Any) -> None:
    found: Any = read(path, {key: literal})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def item(field: FieldInfo) -> FieldInfo:
    """What each item of a list is."""
    return FieldInfo.from_annotation(get_args(field.annotation)[0])


def bounds(field: FieldInfo) -> tuple[float, float, list[float]]:
    """The nearest numbers below and above the range of a numeric field, and its two ends."""
    kind: Any = field.annotation
    ends = {name: getattr(m, name) for m in field.metadata for name in ENDS if hasattr(m, name)}
    assert len(ends) == 2, "a number without a range"
    (low, least), (high, most) = sorted(ends.items(), key=lambda end: end[1])
    below = least if low == "gt" else kind(least - 1 if kind is int else math.nextafter(least, -9))
    above = most if high == "lt" else kind(most + 1 if kind is int else math.nextafter(most, 1e9))
    return below, above, [least, most]


ENDS = ("ge", "gt", "le", "lt")
NO_NUMBER = ['"0.1"', "twenty", "true", "null", "", "[1]", "{a: 1}", ".nan", ".inf", "-.inf"]


def wrong(field: FieldInfo) -> list[str]:
    """What a key may not hold, as it would be typed."""
    kind: Any = field.annotation
    if kind in (int, float):
        fractions = ["6.5", "1.0"] if kind is int else []
        return [*NO_NUMBER, *map(repr, bounds(field)[:2]), "-9999999999", *fractions]
    if get_origin(kind) is tuple:
        items = [f"[{literal}]" for literal in wrong(item(field)) if literal]
        return ["[]", "32", "text", "null", "true", "{a: 1}", "[[]]", *items]
    return {
        bool: ["yes", "1", "0", "null", "", '"true"', "[true]", "{a: true}"],
        str: ["1", "1.5", "true", "null", "", "[a]", "{a: b}", "2026-01-01"],
    }.get(kind) or ["other", "KAGGLE", '""', "1", "true", "null", "", "[none]", "{none: none}"]


def allowed(field: FieldInfo) -> list[str]:
    """What a message about a key has to tell."""
    kind: Any = field.annotation
    if kind in (int, float):
        words = "a whole number " if kind is int else " a number "
        return [words, *(f" {end}" for end in bounds(field)[2])]
    if get_origin(kind) is tuple:
        return ["a list of one or more", *allowed(item(field))]
    choices = [f" {choice}" for choice in get_args(kind)]
    return choices or [{bool: "true or false", str: field.description or "text"}[kind]]


WRONG = {key: wrong(field) for key, field in FIELDS.items()}


@pytest.mark.parametrize("number", range(max(map(len, WRONG.values()))))
def test_one_line_tells_key_value_and_what_is_allowed(path: Path, number: int) -> None:
    """Every key gets something wrong in each round, until each has had all that is wrong."""
    typed = {key: literals[number % len(literals)] for key, literals in WRONG.items()}
    lines = refusal(path, edited(dict(typed))).splitlines()[1:]
    assert len(lines) == len(FIELDS)
    for line, (key, literal) in zip(lines, in_order_of_records(typed), strict=True):
        value = YAML(typ="safe", pure=True).load(literal)
        tells = allowed(FIELDS[key])
        if isinstance(value, list) and value and get_origin(FIELDS[key].annotation) is tuple:
            key, value, tells = f"{key}.0", value[0], tells[1:]  # what is wrong is the item
        shown = {None: "null", True: "true", False: "false"}
        as_typed = shown[value] if isinstance(value, bool | None) else repr(value)
        assert line.startswith(f"  {key}: {as_typed} should be ")
        for words in tells:
            assert words in line


def in_order_of_records(typed: dict[str, str]) -> list[tuple[str, str]]:
    return [(key, typed[key]) for key in FIELDS]


def test_ends_of_ranges_are_allowed(path: Path) -> None:
    """Just inside: what is refused outside is not refused by another rule."""
    numbers = {k: f for k, f in FIELDS.items() if f.annotation in (int, float)}
    assert len(numbers) > 50
    for end in (0, 1):
        inside = {
            key: bounds(field)[2][end]
            for key, field in numbers.items()
            if any(getattr(m, ("ge", "le")[end], None) is not None for m in field.metadata)
        }
        # These two may not both be set, and the image has to be large enough for the network.
        inside |= {key: 0 for key in inside if key.endswith("weight_average")}
        inside |= {"image.size": 2048, "model.kernel_size": 1, "model.pool_size": 1}
        found = flat(params=read(path, {key: repr(value) for key, value in inside.items()}))
        assert {key: found[f"params.{key}"] for key in inside} == inside


@pytest.mark.parametrize(
    ("key", "literal", "message"),
    [
        ("model.epochs", "0", "0 should be a whole number from 1 to 100000"),
        ("seed", "2147483649", "2147483649 should be a whole number from 0 to 2147483648"),
        ("split.val_fraction", "0", "0 should be a number from above 0 to 0.5"),
        ("augment.zoom", "1", "1 should be a number from 0 to below 1"),
        ("image.resize", "stretch", "'stretch' should be one of squash, crop, pad"),
        ("transfer.class_weights", "null", "null should be one of balanced, none"),
        ("train.resume", "yes", "'yes' should be true or false"),
        ("finetune.from_layer", '""', "'' should be text, not empty"),
        (
            "preprocess.scheduler",
            "10.0.0.1",
            "'10.0.0.1' should be \"\" or an address, as tcp://10.0.0.1:8786",
        ),
        (
            "model.filters",
            "[]",
            "[] should be a list of one or more, each a whole number from 1 to 100000 "
            "(it is empty)",
        ),
        (
            "evaluate.ensemble",
            "[transfer, transfer]",
            "['transfer', 'transfer'] should be a list of one or more, each one of baseline, "
            "augmented, transfer, finetuned (one is named twice)",
        ),
    ],
)
def test_message(path: Path, key: str, literal: str, message: str) -> None:
    found = refusal(path, edited({key: literal}))
    assert found == f"{path} has 1 wrong value(s):\n  {key}: {message}"


@pytest.mark.parametrize(
    ("literal", "key"),
    [
        ("[32, true]", "model.filters.1"),
        ("[32, 6.5, 32]", "model.filters.1"),
        ("[1, 1, 0]", "model.filters.2"),
    ],
)
def test_wrong_item_of_a_list(path: Path, literal: str, key: str) -> None:
    message = refusal(path, edited({"model.filters": literal}))
    assert f"1 wrong value(s):\n  {key}: " in message


def test_every_missing_key_is_told(path: Path) -> None:
    lines = refusal(path, edited(dict.fromkeys(FIELDS, None))).splitlines()[1:]
    for line, (key, field) in zip(lines, FIELDS.items(), strict=True):
        assert line.startswith(f"  {key}: this key is missing; it should be ")
        for words in allowed(field):
            assert words in line


def test_missing_key(path: Path) -> None:
    message = refusal(path, edited({"image.size": None}))
    assert message.endswith(
        "has 1 wrong value(s):\n"
        "  image.size: this key is missing; it should be a whole number from 16 to 2048"
    )


def test_every_unknown_key_is_told_with_those_that_there_are(path: Path) -> None:
    lines = TEXT.splitlines()
    for key in sorted(FIELDS, key=line_of, reverse=True):
        *_, name = key.split(".")
        indent = "  " * key.count(".")
        lines.insert(line_of(key)[0] + 1, f"{indent}{name}x: 256")
    found = set(refusal(path, "\n".join(lines)).splitlines()[1:])
    assert len(found) == len(FIELDS)
    for key in FIELDS:
        known = section_keys(key)
        assert f"  {key}x: unknown key with the value 256; there are {', '.join(known)}" in found


def section_keys(key: str) -> list[str]:
    """The keys beside a key, itself included."""
    section: Any = Params
    for part in key.split(".")[:-1]:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


@pytest.mark.parametrize("number", range(4))
def test_sections_that_are_none(path: Path, number: int) -> None:
    literal = ["3", "text", "[a]", "true"][number]
    message = refusal(path, TEXT.split("\nimage:")[0] + f"\nimage: {literal}\n")
    assert "should be a section with the keys size, resize" in message


def test_experiments_of_dvc_rewrite_every_number_and_list(path: Path) -> None:
    """`dvc exp run -S` sets keys by this function; it writes 0.00001 as 1e-05."""
    settings: dict[str, Any] = {
        key: 1e-05 if get_origin(field.annotation) is None else [1e-05]
        for key, field in FIELDS.items()
        if field.annotation is float and bounds(field)[2][0] == 0
    }
    assert len(settings) > 30
    settings |= {"model.filters": [8, 16], "finetune.zooms": [0.5], "perturb.flip": False}
    settings |= {"image.resize": "pad", "evaluate.ensemble": ["baseline"], "model.epochs": 20}
    path.write_text(TEXT, encoding="utf-8")
    apply_overrides(
        path, [f"{key}={json.dumps(v)}".replace("1e-05", "0.00001") for key, v in settings.items()]
    )
    assert "learning_rate: 1e-05" in path.read_text(encoding="utf-8")
    found = flat(params=read_params(path))
    for key, value in settings.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert found[f"params.{key}"] == expected


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("model.epochs=twenty", "model.epochs: 'twenty' should be a whole number from 1 to 100000"),
        ("model.learning_rate=0", "model.learning_rate: 0 should be a number from above 0 to 10"),
        ("model.dropout=nan", "model.dropout: unknown key with the value nan; there are "),
        ("model.filters=[8,0]", "model.filters.1: 0 should be a whole number from 1 to 100000"),
        ("image.resize=null", "image.resize: null should be one of squash, crop, pad"),
    ],
)
def test_experiments_of_dvc_with_a_wrong_value(path: Path, setting: str, told: str) -> None:
    path.write_text(TEXT, encoding="utf-8")
    key, _, value = setting.partition("=")
    added = "+" if key not in FIELDS else ""
    apply_overrides(path, [f"{added}{key}={value}"])
    message = refusal(path, path.read_bytes())
    assert f"1 wrong value(s):\n  {told}" in message


@pytest.mark.parametrize("key", CHOICES)
def test_the_comment_of_a_key_tells_its_choices(key: str) -> None:
    line, _ = line_of(key)
    comment = TEXT.splitlines()[line].split(" # ", maxsplit=1)[1]
    assert set(CHOICES[key]) <= set(re.findall(r"\w+", comment))


def test_missing_section(path: Path) -> None:
    message = refusal(path, TEXT.replace("\nevaluate:", "\nevaluation:"))
    assert "  evaluate: this key is missing" in message
    assert "  evaluation: unknown key" in message


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
    ("backbone", "weights", "exists"),
    [
        *((b, "none", True) for b in ("tiny", "xception")),
        *(("tiny", "phantom", True), ("tiny", "imagenet", False)),
        *(("xception", "phantom", False), ("xception", "imagenet", True)),
    ],
)
def test_weights_that_a_backbone_has(path: Path, backbone: str, weights: str, exists: bool) -> None:
    changes: dict[str, str | None] = {"transfer.backbone": backbone, "transfer.weights": weights}
    if exists:
        assert read(path, changes).transfer.weights == weights
    else:
        message = refusal(path, edited(changes))
        assert f"transfer: backbone {backbone} has no weights {weights}" in message
        assert "set transfer.weights to" in message


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
    ids=lambda content: repr(content[:30]),
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
