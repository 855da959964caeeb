"""What params.yaml may contain, and the error that lists what is wrong in it."""

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
    """The committed values with some changed; `REMOVED` leaves a key out."""
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


def typed(key: str, literal: str) -> str:
    """The committed values with one as it would be typed."""
    return edited({key: "LITERAL"}).replace("LITERAL", literal)


def read(path: Path, content: str) -> Params:
    path.write_text(content, encoding="utf-8")
    return read_params(path)


def refusal(path: Path, content: str) -> list[str]:
    """The problems listed in the error with which the content is refused."""
    with pytest.raises(CxrError) as caught:
        read(path, content)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{path} has {len(lines)} wrong value(s):"
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
    """The values that a key may have, if they are listed."""
    kind: Any = Params
    for part in key.split("."):
        kind = kind.model_fields[part].annotation
    return get_args(kind) if get_origin(kind) is Literal else ()


def test_committed_file_is_read_as_written() -> None:
    record = flat(params=read_params(ROOT / "params.yaml"))
    found = {key: list(v) if isinstance(v, tuple) else v for key, v in record.items()}
    assert found == {f"params.{key}": value for key, value in LEAVES.items()}


def test_params_of_the_current_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_params() == read_params(ROOT / "params.yaml")


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_is_explained_with_its_choices(key: str) -> None:
    assert COMMENTS[key]
    assert set(choices(key)) <= set(re.findall(r"\w+", COMMENTS[key]))


def test_flat_names_keys_in_full() -> None:
    params = read_params(ROOT / "params.yaml")
    found = flat(image=params.image, model=params.model)
    assert found["image.input_size"] == params.image.input_size
    assert found["model.filters"] == params.model.filters
    assert set(found) == {key for key in LEAVES if key.split(".")[0] in ("image", "model")}


@pytest.mark.parametrize(
    ("section", "key"), [("", "seed"), ("image", "input_size"), ("model", "epochs")]
)
def test_record_is_frozen(section: str, key: str) -> None:
    params = read_params(ROOT / "params.yaml")
    record = getattr(params, section) if section else params
    before = getattr(record, key)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, key, before + 1)
    assert getattr(record, key) == before


@pytest.mark.parametrize(
    ("key", "literal", "value"),
    [
        *(("model.learning_rate", text, 1e-5) for text in ("1e-05", "1E-5", "0.00001", "1.0e-5")),
        ("model.learning_rate", "1", 1.0),
        ("model.filters", "[8]", (8,)),
        ("data.directory", '"/a b/ä"', "/a b/ä"),
        ("data.directory", "on", "on"),  # no boolean, as it would be in YAML 1.1
        ("transfer.class_weights", "none", "none"),
        ("image.resize", '"stretch"', "stretch"),
        ("preprocess.dask_scheduler", "tls://host:1", "tls://host:1"),
        # Ends of ranges.
        ("seed", "0", 0),
        ("seed", "2147483648", 2**31),
        ("split.val_fraction", "0.5", 0.5),
        ("model.conv_dropout", "0", 0.0),
        ("evaluate.min_recall", "1", 1.0),
        ("evaluate.n_bootstrap", "20000", 20_000),
    ],
)
def test_allowed_value(path: Path, key: str, literal: str, value: Any) -> None:
    found = leaves(read(path, typed(key, literal)).model_dump())[key]
    assert (found, type(found)) == (value, type(value))


NAN, INF = float("nan"), float("inf")
NO_NUMBER = ["20", "twenty", True, None, [1], {"a": 1}, NAN, INF, -INF, 10**10, -(10**10)]
WRONG: dict[type, list[Any]] = {
    bool: ["yes", 1, 0, None, "true", [True], {"a": True}],
    int: [*NO_NUMBER, 6.5, 1.0],
    float: NO_NUMBER,
    str: [1, 1.5, True, None, ["a"], {"a": "b"}],
    list: [[], 32, "text", None, True, {"a": 1}, [[]], [None], [True], ["other"], [NAN]],
}


@pytest.mark.parametrize("number", range(max(map(len, WRONG.values()))))
def test_every_wrong_kind_of_value_is_refused_by_its_key(path: Path, number: int) -> None:
    """Every key has a wrong value in each round, until each has had all that are wrong for it."""
    wrong = {key: WRONG[type(v)][number % len(WRONG[type(v)])] for key, v in LEAVES.items()}
    problems = refusal(path, edited(wrong))
    named = [re.sub(r"\.\d+$", "", line.split(": ")[0]) for line in problems]  # without the item
    assert sorted(named) == sorted(LEAVES)
    for key, line in zip(named, problems, strict=True):
        if not isinstance(wrong[key], list | dict):
            assert line.endswith(f"(got {wrong[key]!r})")


@pytest.mark.parametrize("key", filter(choices, LEAVES))
def test_other_choices_are_refused_with_those_that_there_are(path: Path, key: str) -> None:
    [line] = refusal(path, edited({key: "other"}))
    assert line.startswith(f"{key}: Input should be ")
    for choice in choices(key):
        assert f"'{choice}'" in line
    for literal in (choices(key)[0].upper(), '""'):
        assert refusal(path, typed(key, literal))[0].startswith(f"{key}: ")


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
def test_the_problem_names_key_and_value(path: Path, key: str, literal: str, problem: str) -> None:
    [line] = refusal(path, typed(re.sub(r"\.\d+$", "", key), literal))
    assert line.startswith(f"{key}: {problem}")


def test_a_value_of_any_length_takes_one_short_line(path: Path) -> None:
    deep: list[Any] = []
    for _ in range(20):
        deep = [deep, deep]
    for value in ("x" * 10_000, [[0] * 10_000], deep):
        [line] = refusal(path, edited({"seed": value}))
        assert line.startswith("seed: ")
        assert len(line) < 500


def test_every_missing_key_is_listed(path: Path) -> None:
    problems = refusal(path, edited(dict.fromkeys(LEAVES, REMOVED)))
    assert sorted(problems) == sorted(f"{key}: Field required" for key in LEAVES)


def test_every_unknown_key_is_listed_with_a_similar_one(path: Path) -> None:
    unknown = {f"{key}x": f"{key}x: Unknown key, did you mean {key}? (got 1)" for key in LEAVES}
    problems = refusal(path, edited(dict.fromkeys(unknown, 1)))
    assert sorted(problems) == sorted(unknown.values())


def test_unknown_key_that_is_similar_to_none(path: Path) -> None:
    assert refusal(path, edited({"zzz": 1})) == ["zzz: Unknown key (got 1)"]
    assert refusal(path, edited({"zzz": {"size": 1}})) == ["zzz: Unknown key"]
    assert refusal(path, TEXT + "1: 2\n")[0].startswith("1: ")


@pytest.mark.parametrize("value", [3, "text", ["a"], True])
def test_a_section_that_is_none(path: Path, value: Any) -> None:
    [line] = refusal(path, edited({"image": value}))
    assert line.startswith("image: Input should be a valid dictionary")


def test_a_section_without_keys_lacks_each_of_them(path: Path) -> None:
    problems = refusal(path, edited({"image": None}))
    keys = [key for key in LEAVES if key.startswith("image.")]
    assert problems == [f"{key}: Field required" for key in keys]


def test_all_problems_are_in_one_error(path: Path) -> None:
    wrong = {"seed": "one", "data.phantom.patients": 2, "model.epochs": 6.5}
    problems = refusal(path, edited({**wrong, "image.input_size": REMOVED, "evaluat": 1}))
    assert [line.split(": ")[0] for line in problems] == [
        *("seed", "data.phantom.patients", "image.input_size", "model.epochs", "evaluat")
    ]
    assert problems[-1] == "evaluat: Unknown key, did you mean evaluate? (got 1)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.filters": [1, 1, 1, 1]}, "4 blocks"),
        ({"model.kernel_size": 10}, "model.kernel_size 10"),
        ({"model.pool_size": 8}, "model.pool_size 8"),
    ],
)
def test_image_too_small_for_the_network(path: Path, changes: dict[str, Any], said: str) -> None:
    [line] = refusal(path, edited({"image.input_size": 16, **changes}))
    assert line.startswith("image.input_size 16 is too small")
    assert said in line


def test_smallest_image_that_the_network_takes(path: Path) -> None:
    """Two blocks of kernel 3 and pooling 3: 17 -> 5 -> 1, 16 -> 4 -> 0."""
    changes = {"model.filters": [8, 8], "model.kernel_size": 3, "model.pool_size": 3}
    assert read(path, edited({**changes, "image.input_size": 17})).image.input_size == 17
    assert "too small" in refusal(path, edited({**changes, "image.input_size": 16}))[0]


@pytest.mark.parametrize(
    ("backbone", "weights", "exist"),
    [
        *((backbone, "none", True) for backbone in ("tiny", "xception")),
        *(("tiny", "phantom", True), ("tiny", "imagenet", False)),
        *(("xception", "phantom", False), ("xception", "imagenet", True)),
    ],
)
def test_weights_that_a_backbone_has(path: Path, backbone: str, weights: str, exist: bool) -> None:
    content = edited({"transfer.backbone": backbone, "transfer.weights": weights})
    if exist:
        assert read(path, content).transfer.weights == weights
    else:
        [line] = refusal(path, content)
        assert line.startswith(f"transfer: backbone {backbone} has no weights {weights}")
        assert "set transfer.weights to" in line


@pytest.mark.parametrize("section", ["model", "transfer", "finetune"])
def test_early_stopping_and_the_average_of_weights_exclude_each_other(
    path: Path, section: str
) -> None:
    both = {f"{section}.early_stopping": 3, f"{section}.ema_decay": 0.9}
    [line] = refusal(path, edited(both))
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


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("model.epochs=twenty", "model.epochs: Input should be a valid integer (got 'twenty')"),
        ("model.learning_rate=nan", "model.learning_rate: Input should be a finite number"),
        ("+model.dropout=0.1", "model.dropout: Unknown key, did you mean model."),
        ("model.filters=[8,0]", "model.filters.1: Input should be greater than or equal to 1"),
        ("image.resize=null", "image.resize: Input should be "),
    ],
)
def test_a_wrong_setting_of_an_experiment(path: Path, setting: str, problem: str) -> None:
    path.write_text(TEXT, encoding="utf-8")
    apply_overrides(path, [setting])
    [line] = refusal(path, path.read_text(encoding="utf-8"))
    assert line.startswith(problem)


@pytest.mark.parametrize(
    "content", ["", "# only a comment\n", "- seed: 1\n", "seed: [1\n", f"{TEXT}\nseed: 2\n"]
)
def test_a_damaged_file_is_one_error_with_a_remedy(path: Path, content: str) -> None:
    with pytest.raises(CxrError) as caught:
        read(path, content)
    assert re.fullmatch(rf"{path} .+; `git checkout {path}` restores .+", str(caught.value))


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(CxrError, match=f"^{path} cannot be read: "):
        read_params(path)
