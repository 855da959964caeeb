"""Validation of params.yaml, and the error that lists all invalid values."""

import copy
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from pydantic import ValidationError

from cxr.common.files import read_yaml
from cxr.errors import CxrError
from cxr.params import Params, flat, leaves, read_params

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
TREE = read_yaml(ROOT / "params.yaml")
LEAVES = leaves(TREE)
REMOVED = object()


def edited(changes: dict[str, Any]) -> str:
    """The committed values with changes; `REMOVED` removes a key."""
    tree = copy.deepcopy(TREE)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section[part]
        section[name] = value
        if value is REMOVED:
            del section[name]
    return yaml.safe_dump(tree)


def with_literal(key: str, literal: str) -> str:
    """The committed values with one replaced by a YAML literal."""
    return edited({key: "LITERAL"}).replace("LITERAL", literal)


def read(path: Path, content: str) -> Params:
    path.write_text(content, encoding="utf-8")
    return read_params(path)


def errors(path: Path, content: str) -> list[str]:
    """The lines of the error for the content."""
    with pytest.raises(CxrError) as caught:
        read(path, content)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{path} has {len(lines)} invalid value(s):"
    assert last.startswith("Its comments explain each key; `git checkout ")
    return [line.removeprefix("  ") for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def comments(node: yaml.MappingNode, above: str = "") -> dict[str, str]:
    """The comment on the line of each key."""
    found: dict[str, str] = {}
    for key, value in node.value:
        name = above + key.value
        if isinstance(value, yaml.MappingNode):
            found |= comments(value, f"{name}.")
        else:
            found[name] = TEXT.splitlines()[key.start_mark.line].partition(" # ")[2]
    return found


COMMENTS = comments(yaml.compose(TEXT, Loader=yaml.SafeLoader))


def choices(key: str) -> tuple[str, ...]:
    """The allowed values of a key, if they are listed."""
    kind: Any = Params
    for part in key.split("."):
        kind = kind.model_fields[part].annotation
    return get_args(kind) if get_origin(kind) is Literal else ()


def test_committed_file_is_read_as_written() -> None:
    record = flat(params=read_params(ROOT / "params.yaml"))
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in record.items()}
    assert values == {f"params.{key}": value for key, value in LEAVES.items()}


def test_params_of_the_current_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_params() == read_params(ROOT / "params.yaml")


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_has_a_comment_with_its_choices(key: str) -> None:
    assert COMMENTS[key]
    assert set(choices(key)) <= set(re.findall(r"\w+", COMMENTS[key]))


def test_flat_gives_full_keys() -> None:
    params = read_params(ROOT / "params.yaml")
    found = flat(image=params.image, model=params.model)
    assert found["image.input_size"] == params.image.input_size
    assert found["model.filters"] == params.model.filters
    assert set(found) == {key for key in LEAVES if key.split(".")[0] in ("image", "model")}


def test_params_are_frozen() -> None:
    params = read_params(ROOT / "params.yaml")
    for section, key in ((params, "seed"), (params.model, "epochs")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)


@pytest.mark.parametrize(
    ("key", "literal", "value"),
    [
        *(("model.learning_rate", text, 1e-5) for text in ("1e-05", "1E-5", "0.00001", "1.0e-5")),
        ("model.learning_rate", "1", 1.0),
        ("model.filters", "[8]", (8,)),
        ("data.directory", '"/a b/ä"', "/a b/ä"),
        ("data.directory", "on", "on"),  # a boolean in YAML 1.1
        ("transfer.class_weights", "none", "none"),
        ("image.resize", '"stretch"', "stretch"),
        ("preprocess.dask_scheduler", "tls://host:1", "tls://host:1"),
        # Limits of ranges.
        ("seed", "0", 0),
        ("seed", "2147483648", 2**31),
        ("split.val_fraction", "0.5", 0.5),
        ("model.conv_dropout", "0", 0.0),
        ("evaluate.min_recall", "1", 1.0),
        ("evaluate.n_bootstrap", "20000", 20_000),
    ],
)
def test_allowed_value(path: Path, key: str, literal: str, value: Any) -> None:
    found = leaves(read(path, with_literal(key, literal)).model_dump())[key]
    assert (found, type(found)) == (value, type(value))


NAN, INF = float("nan"), float("inf")
NOT_A_NUMBER = ["20", "twenty", True, None, [1], {"a": 1}, NAN, INF, -INF, 10**10, -(10**10)]
WRONG: dict[type, list[Any]] = {
    bool: ["yes", 1, 0, None, "true", [True], {"a": True}],
    int: [*NOT_A_NUMBER, 6.5, 1.0],
    float: NOT_A_NUMBER,
    str: [1, 1.5, True, None, ["a"], {"a": "b"}],
    list: [[], 32, "text", None, True, {"a": 1}, [[]], [None], [True], ["other"], [NAN]],
}


@pytest.mark.parametrize("number", range(max(map(len, WRONG.values()))))
def test_every_value_of_wrong_type_is_listed(path: Path, number: int) -> None:
    """Each run gives all keys a wrong value; together the runs try all wrong values of a type."""
    wrong = {key: WRONG[type(v)][number % len(WRONG[type(v)])] for key, v in LEAVES.items()}
    problems = errors(path, edited(wrong))
    named = [re.sub(r"\.\d+$", "", line.split(": ")[0]) for line in problems]  # without the item
    assert sorted(named) == sorted(LEAVES)
    for key, line in zip(named, problems, strict=True):
        if not isinstance(wrong[key], list | dict):
            assert line.endswith(f"(got {wrong[key]!r})")


@pytest.mark.parametrize("key", filter(choices, LEAVES))
def test_invalid_choice_lists_the_valid_ones(path: Path, key: str) -> None:
    [line] = errors(path, edited({key: "other"}))
    assert line.startswith(f"{key}: Input should be ")
    for choice in choices(key):
        assert f"'{choice}'" in line
    for literal in (choices(key)[0].upper(), '""'):
        assert errors(path, with_literal(key, literal))[0].startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("key", "literal", "problem"),
    [
        ("model.epochs", "'20'", "Input should be a valid integer (got '20')"),
        ("model.epochs", "0", "Input should be greater than or equal to 1 (got 0)"),
        ("model.epochs", "0x1F", "Input should be a valid integer (got '0x1F')"),
        ("seed", "2147483649", "Input should be less than or equal to 2147483648"),
        ("split.val_fraction", "0", "Input should be greater than 0 (got 0)"),
        ("augment.zoom", "1", "Input should be less than 1 (got 1)"),
        ("evaluate.n_bootstrap", "20001", "Input should be less than or equal to 20000"),
        ("model.batch_norm", "yes", "Input should be a valid boolean (got 'yes')"),
        ("transfer.class_weights", "off", "Input should be 'balanced' or 'none' (got 'off')"),
        ("finetune.trainable_from", '""', "String should have at least 1 character (got '')"),
        ("data.patients", '""', "String should have at least 1 character (got '')"),
        ("model.filters", "[]", "List should not be empty (got [])"),
        ("model.filters.1", "[32, true]", "Input should be a valid integer (got True)"),
        ("evaluate.ensemble", "[transfer, transfer]", "Variants should be different (got "),
        *(
            ("preprocess.dask_scheduler", text, "String should match pattern")
            for text in ("10.0.0.1", "tcp://10.0.0.1")
        ),
    ],
)
def test_error_names_key_and_value(path: Path, key: str, literal: str, problem: str) -> None:
    [line] = errors(path, with_literal(re.sub(r"\.\d+$", "", key), literal))
    assert line.startswith(f"{key}: {problem}")


def test_long_values_are_shortened(path: Path) -> None:
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep, deep]
    for value in ("x" * 10_000, [[0] * 10_000], deep):
        [line] = errors(path, edited({"seed": value}))
        assert line.startswith("seed: ")
        assert len(line) < 500


def test_every_missing_key_is_listed(path: Path) -> None:
    problems = errors(path, edited(dict.fromkeys(LEAVES, REMOVED)))
    assert sorted(problems) == sorted(f"{key}: Field required" for key in LEAVES)


def test_every_unknown_key_is_listed_with_a_suggestion(path: Path) -> None:
    unknown = {f"{key}x": f"{key}x: Unknown key, did you mean {key}? (got 1)" for key in LEAVES}
    problems = errors(path, edited(dict.fromkeys(unknown, 1)))
    assert sorted(problems) == sorted(unknown.values())


def test_unknown_key_without_a_suggestion(path: Path) -> None:
    assert errors(path, edited({"zzz": 1})) == ["zzz: Unknown key (got 1)"]
    assert errors(path, edited({"zzz": {"size": 1}})) == ["zzz: Unknown key"]
    assert errors(path, TEXT + "1: 2\n")[0].startswith("1: ")


@pytest.mark.parametrize("value", [3, "text", ["a"], True])
def test_section_that_is_not_a_mapping(path: Path, value: Any) -> None:
    [line] = errors(path, edited({"image": value}))
    assert line.startswith("image: Input should be a valid dictionary")


def test_section_without_keys_lists_each_of_them(path: Path) -> None:
    problems = errors(path, edited({"image": None}))
    keys = [key for key in LEAVES if key.startswith("image.")]
    assert problems == [f"{key}: Field required" for key in keys]


def test_all_mistakes_are_in_one_error(path: Path) -> None:
    wrong = {"seed": "one", "data.phantom.patients": 2, "model.epochs": 6.5}
    problems = errors(path, edited({**wrong, "image.input_size": REMOVED, "evaluat": 1}))
    assert [line.split(": ")[0] for line in problems] == [
        *("seed", "data.phantom.patients", "image.input_size", "model.epochs", "evaluat")
    ]
    assert problems[-1] == "evaluat: Unknown key, did you mean evaluate? (got 1)"


def test_smallest_image_for_the_network(path: Path) -> None:
    """Two blocks of kernel 3 and pooling 3: 17 -> 5 -> 1, 16 -> 4 -> 0."""
    changes = {"model.filters": [8, 8], "model.kernel_size": 3, "model.pool_size": 3}
    assert read(path, edited({**changes, "image.input_size": 17})).image.input_size == 17
    [line] = errors(path, edited({**changes, "image.input_size": 16}))
    assert line.startswith("image.input_size 16 is too small for 2 blocks of model.kernel_size 3")
    assert "model.pool_size 3" in line


@pytest.mark.parametrize(
    ("backbone", "available", "missing"),
    [("tiny", "phantom", "imagenet"), ("xception", "imagenet", "phantom")],
)
def test_weights_available_for_a_backbone(
    path: Path, backbone: str, available: str, missing: str
) -> None:
    for weights in (available, "none"):
        content = edited({"transfer.backbone": backbone, "transfer.weights": weights})
        assert read(path, content).transfer.weights == weights
    [line] = errors(path, edited({"transfer.backbone": backbone, "transfer.weights": missing}))
    assert line.startswith(f"transfer: backbone {backbone} has no weights {missing}")
    assert f"set transfer.weights to {available} or none" in line


@pytest.mark.parametrize("section", ["model", "transfer", "finetune"])
def test_early_stopping_and_ema_exclude_each_other(path: Path, section: str) -> None:
    both = {f"{section}.early_stopping": 3, f"{section}.ema_decay": 0.9}
    [line] = errors(path, edited(both))
    assert line.startswith(f"{section}: early_stopping 3 ")
    assert "ema_decay 0.9" in line
    for key in both:
        assert read(path, edited({**both, key: 0}))


def test_numbers_and_lists_that_dvc_writes_for_experiments(path: Path) -> None:
    """`dvc exp run -S` sets keys by this function; it writes 0.00001 as 1e-05."""
    path.write_text(TEXT, encoding="utf-8")
    settings = {
        **dict.fromkeys(("model.learning_rate", "finetune.weight_decay"), "0.00001"),
        **{"model.epochs": "20", "model.filters": "[8,16]", "perturb.flip": "false"},
        **{"image.resize": "letterbox", "evaluate.ensemble": "[baseline]"},
    }
    apply_overrides(path, [f"{key}={value}" for key, value in settings.items()])
    assert "learning_rate: 1e-05" in path.read_text(encoding="utf-8")
    params = read_params(path)
    assert params.model.learning_rate == params.finetune.weight_decay == 1e-5
    assert (params.model.epochs, params.model.filters) == (20, (8, 16))
    assert params.perturb.flip is False
    assert (params.image.resize, params.evaluate.ensemble) == ("letterbox", ("baseline",))
