"""dvc.yaml says exactly what the stages are, import and read."""

import ast
from pathlib import Path

import pytest
from dvc_render import vega_templates

from cxr import paths
from cxr.common.files import read_yaml
from cxr.common.names import REGISTRY, TRAINED
from cxr.params import WITHOUT_RESULT
from cxr.tools.project_copy import PROJECT, script, stages

PIPELINE = read_yaml(PROJECT / "dvc.yaml")
STAGES = stages(PROJECT)
SOURCE = PROJECT / "src"
PACKAGE = SOURCE / "cxr"


def script_of(stage: str) -> str:
    return f"{script(stage)[1].replace('.', '/')}.py"


def modules_imported(script: Path) -> set[Path]:
    """Files of the package that a script imports directly."""
    found = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        files = [SOURCE / f"{name.replace('.', '/')}.py" for name in names]
        found.update(file for file in files if file.exists())
    return found


def subpackages_needed(script: Path) -> set[str]:
    """Subpackages of which a stage runs modules, also indirectly, as paths from the root.

    Those that stages/__init__.py needs count as well. Modules at the root of the package do not:
    what they give is declared in dvc.yaml (values, paths) or never part of a result (errors).
    """
    waiting = [script, PROJECT / "stages/__init__.py"]
    seen = set(waiting)
    while waiting:
        new = modules_imported(waiting.pop()) - seen
        seen |= new
        waiting += new
    inside = [file.relative_to(PACKAGE).parts for file in seen if file.is_relative_to(PACKAGE)]
    return {f"src/cxr/{parts[0]}" for parts in inside if len(parts) > 1}


def params_read(script: Path) -> set[str]:
    """Keys that a stage takes from `params`, such as `transfer.pooling` or all of `model`."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    keys, handed = set(), set()
    for node in filter(lambda node: isinstance(node, ast.Call), ast.walk(tree)):
        # These are given sections of which they take some keys.
        call = ast.unparse(node.func)
        if call == "split_backbone.configured_backbone":
            handed |= {id(argument) for argument in node.args}
            keys |= attributes_read(PACKAGE / "models/split_backbone.py", "configured_backbone")
        if call == "download.ensure_raw":
            handed |= {id(argument) for argument in node.args}
            module = ast.parse((PACKAGE / "data/download.py").read_text(encoding="utf-8"))
            keys |= {f"data.{key}" for key in dotted_names(module, "data", set())}
    return keys | dotted_names(tree, "params", handed)


def attributes_read(module: Path, function: str) -> set[str]:
    """Attributes that a function takes of its arguments, such as `transfer.backbone`."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    arguments = [argument.arg for argument in found.args.args]
    return {f"{name}.{key}" for name in arguments for key in dotted_names(found, name, set())}


def dotted_names(tree: ast.AST, root: str, without: set[int]) -> set[str]:
    """What is taken of a variable, as `transfer.pooling` of `params.transfer.pooling`."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keys = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner | without:
            continue
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == root:
            keys.add(".".join(reversed(parts)))
    return keys


def outputs(stage: str) -> set[str]:
    kinds = ("outs", "metrics", "plots")
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def data_deps(stage: str) -> set[str]:
    return {dep for dep in STAGES[stage]["deps"] if not dep.startswith(("src/", "stages/"))}


def made_by(stage: str, needed: set[str]) -> bool:
    """Whether a stage makes one of some files, the folder of it, or a file in it."""
    return any(
        Path(dep).is_relative_to(out) or Path(out).is_relative_to(dep)
        for dep in needed
        for out in outputs(stage)
    )


def test_stages_are_the_scripts() -> None:
    scripts = {script.stem for script in (PROJECT / "stages").glob("[!_]*.py")}
    assert {f"stages/{name}.py" for name in scripts} == {script_of(stage) for stage in STAGES}


def test_every_trained_variant_is_predicted() -> None:
    assert {stage for stage in STAGES if "@" in stage} == {f"predict@{v}" for v in TRAINED}
    for variant in TRAINED:
        if cached := REGISTRY[variant].cached:
            assert str(cached.path("").parent) in data_deps(f"predict@{variant}")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_every_subpackage_that_is_imported(stage: str) -> None:
    script = script_of(stage)
    declared = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("src/", "stages/"))]
    assert sorted(declared) == sorted({script, *subpackages_needed(PROJECT / script)})


def leaves(key: str) -> set[str]:
    """The keys of params.yaml that a key or section stands for; KeyError if there is none."""
    value = read_yaml(PROJECT / "params.yaml")
    for part in key.split("."):
        value = value[part]
    if not isinstance(value, dict):
        return {key}
    return set().union(*(leaves(f"{key}.{name}") for name in value))


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_ones_read(stage: str) -> None:
    declared = set().union(*map(leaves, STAGES[stage].get("params", [])))
    read = set().union(*map(leaves, params_read(PROJECT / script_of(stage))))
    assert declared == read - WITHOUT_RESULT


@pytest.mark.parametrize("stage", STAGES)
def test_no_section_hides_a_key_from_the_run_cache(stage: str) -> None:
    """DVC's run cache leaves keys of these names out when it compares sections."""
    hidden = {"size", "nfiles"}
    for entry in STAGES[stage].get("params", []):
        below = leaves(entry) - {entry}
        assert not {key for key in below if key.split(".")[-1] in hidden}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_described_and_short(stage: str) -> None:
    assert STAGES[stage]["desc"]
    assert STAGES[stage]["cmd"] == " ".join(["python", *script(stage)])
    text = (PROJECT / script_of(stage)).read_text(encoding="utf-8")
    main = next(
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert main.end_lineno - main.lineno < 20


@pytest.mark.parametrize("stage", [f"train_{v}" for v in TRAINED])
def test_training_cannot_see_test_images(stage: str) -> None:
    assert not {dep for dep in data_deps(stage) if "test" in dep}
    assert {"data/arrays/train", "data/arrays/val"} <= data_deps(stage)


def test_epochs_of_the_small_network_leave_the_rest_alone() -> None:
    using = {stage for stage in STAGES if "model" in STAGES[stage].get("params", [])}
    assert using == {"train_baseline", "train_augmented", "report"}  # the report tells them


def test_paths_are_the_declared_ones() -> None:
    weights = str(paths.weights("${transfer.backbone}", "${transfer.weights}"))
    made = set().union(*(outputs(stage) for stage in STAGES))
    expected = {
        str(paths.raw("${data.source}")),
        weights,
        *(str(paths.model(v)) for v in TRAINED),
        *(str(paths.history(v)) for v in TRAINED),
        *map(str, (paths.FEATURES, paths.ACTIVATIONS)),
        *(str(paths.ARRAYS / split) for split in ("train", "val", "stress", "test")),
        *map(str, (paths.MANIFEST, paths.REJECTS, paths.LEAKS)),
        *map(str, (paths.PREDICTIONS, paths.DOMAIN_SCORES, paths.SUBGROUPS, paths.GUARDS)),
        *(str(paths.network(v).parent) for v in TRAINED),
        *(str(paths.predictions(v)) for v in TRAINED),
        *map(str, (paths.OOD, paths.EXPORTED, paths.EXPORT)),
        *map(str, (paths.DATA_METRICS, paths.EVALUATION, paths.INTERVALS, paths.SHIFT)),
        str(paths.SUMMARY),
        *map(str, (paths.REPORT, paths.REPORT_PAGE, paths.FIGURES, paths.CARD)),
    }
    plots = {
        f"plots/{name}.csv"
        for name in ("classes", "roc", "precision_recall", "confusion", "groups")
    }
    assert made == expected | plots
    needed = set().union(*(data_deps(stage) for stage in STAGES))
    given = {str(paths.EXPERIMENTS), str(paths.OTHER_ACQUISITION), "${data.patients}"}
    assert {dep for dep in needed - given if not any(made_by(s, {dep}) for s in STAGES)} == set()


def test_raw_images_and_weights_are_never_removed_by_dvc() -> None:
    for stage in ("fetch", "fetch_weights"):
        entry = next(out for out in STAGES[stage]["outs"] if isinstance(out, dict))
        assert next(iter(entry.values()))["persist"] is True


def test_small_results_are_for_git_and_large_ones_for_dvc() -> None:
    for stage in STAGES:
        for kind in ("metrics", "plots"):
            for entry in STAGES[stage].get(kind, []):
                assert next(iter(entry.values()))["cache"] is False
    # A plain output outside the cache switches off DVC's run cache, so only a quick stage has one.
    uncached = {
        stage
        for stage in STAGES
        for entry in STAGES[stage].get("outs", [])
        if isinstance(entry, dict) and "cache" in next(iter(entry.values()))
    }
    assert uncached == {"report"}


def test_one_file_has_the_metrics_of_dvc() -> None:
    assert "metrics" not in PIPELINE
    entries = [entry for stage in STAGES.values() for entry in stage.get("metrics", [])]
    assert [set(entry) for entry in entries] == [{str(paths.SUMMARY)}]


def test_the_artifact_is_what_prediction_needs() -> None:
    artifacts = {name: entry["path"] for name, entry in PIPELINE["artifacts"].items()}
    assert artifacts == {"recommended": str(paths.EXPORTED)}


def test_plot_templates_exist() -> None:
    """Each is built into DVC or a file, and each file is used."""
    used = set()
    entries = [item for plots in PIPELINE["plots"] for item in plots.items()]
    for stage in STAGES.values():
        entries += [item for entry in stage.get("plots", []) for item in entry.items()]
    for path, entry in entries:
        if path.endswith(".json"):  # nothing to draw, see the head of dvc.yaml
            assert entry == {"cache": False}
            continue
        used.add(entry.get("template", "simple"))
    built_in = {template.DEFAULT_NAME for template in vega_templates.TEMPLATES}
    assert used - built_in == {file.stem for file in (PROJECT / ".dvc/plots").glob("*.json")}
