"""What the report says: recommendation, comparison, errors, alikeness of the splits, data."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr import charts, paths, scores, shortcuts, tables
from cxr.arrays import Split, open_split
from cxr.document import Block, Chart, Document, Radiograph, Section, Table, code
from cxr.labels import LABELS, SPLITS
from cxr.params import EvaluateParams
from cxr.recommendation import recommend, signed
from cxr.styles import named_groups
from cxr.tables import TITLES
from cxr.variants import EVALUATED, TRAINED, VARIANTS

SMALLEST_GROUP = 10  # images; the share of a smaller one says little
SYNTHETIC = (
    "**Synthetic images, not medical data:** the figures say that the pipeline runs, not how good "
    "it is."
)
MISTAKES = 6  # shown for each variant and kind
SETTINGS = [  # told at the top; those of the networks stand with the training
    *("data.source", "split.test", "split.group_by", "image.size", "image.resize"),
    *("transfer.backbone", "transfer.weights", "transfer.scaling", "seed"),
]
PATHOGENS_TOLD = (
    "`finetuned` learns to tell bacteria from virus as well: its loss and accuracy here are of "
    "three classes, and not to be compared with those of the others."
)


@dataclass(frozen=True)
class Results:
    """What the report is made of.

    Attributes:
        settings: the parameters of the run by their full names; those of `SETTINGS` and of the
            sections model, augment and transfer are told.
        evaluate: the parameters of the evaluation.
        splits: images and index of train, val and test.
        predictions: content of data/predictions.csv.
        unlikeness: content of data/unlikeness.csv.
        groups: content of plots/groups.csv.
        evaluation: content of metrics/evaluation.json.
        guards: content of metrics/guards.json.
        intervals: content of metrics/intervals.json.
        shift: content of metrics/shift.json.
        confusions: content of plots/confusion.csv.
        histories: training history of each variant.
        experiments: content of docs/experiments.csv.
    """

    settings: dict[str, Any]
    evaluate: EvaluateParams
    splits: dict[str, Split]
    predictions: pd.DataFrame
    unlikeness: pd.DataFrame
    groups: pd.DataFrame
    evaluation: dict[str, Any]
    guards: dict[str, Any]
    intervals: dict[str, Any]
    shift: dict[str, Any]
    confusions: pd.DataFrame
    histories: dict[str, pd.DataFrame]
    experiments: pd.DataFrame

    @property
    def test(self) -> pd.DataFrame:
        """Predictions of the test images with the size of their files, in pixels."""
        index = self.splits["test"].index
        sizes = shortcuts.sizes(index)[["size"]].assign(path=index["path"])
        return self.predictions[self.predictions["split"] == "test"].merge(sizes, on="path")

    @property
    def files(self) -> pd.DataFrame:
        """All images: split, label, patient, and the columns of `shortcuts.sizes`."""
        return pd.concat(
            [
                shortcuts.sizes(split.index)
                .join(split.index[["label", "patient"]])
                .assign(split=name)
                for name, split in self.splits.items()
            ]
        )

    @property
    def thresholds(self) -> dict[str, dict[str, float]]:
        """{name of the threshold: {variant: threshold}}."""
        operating = {v: self.evaluation[v]["operating_point"]["threshold"] for v in VARIANTS}
        return {"at 0.5": dict.fromkeys(VARIANTS, scores.HALF), "operating point": operating}


def read_results(settings: dict[str, Any], evaluate: EvaluateParams) -> Results:
    """Read what the stages before have written."""
    evaluation, guards, intervals, shift = (
        json.loads(path.read_text())
        for path in (paths.EVALUATION, paths.GUARDS, paths.INTERVALS, paths.SHIFT)
    )
    return Results(
        settings=settings,
        evaluate=evaluate,
        splits={name: open_split(paths.ARRAYS / name) for name in SPLITS},
        predictions=pd.read_csv(paths.PREDICTIONS, keep_default_na=False),
        unlikeness=pd.read_csv(paths.UNLIKENESS),
        groups=pd.read_csv(paths.GROUPS, dtype={"group": str}),
        evaluation=evaluation,
        guards=guards,
        intervals=intervals,
        shift=shift,
        confusions=pd.read_csv(paths.PLOTS / "confusion.csv"),
        histories={variant: pd.read_csv(paths.history(variant)) for variant in TRAINED},
        experiments=pd.read_csv(paths.EXPERIMENTS, keep_default_na=False, dtype={"commit": str}),
    )


def report(results: Results) -> Document:
    """The whole report; the same results give the same document."""
    return Document(
        "Chest X-ray pneumonia: comparison of the variants",
        [
            _recommendation(results),
            _comparison(results),
            _stress(results),
            _thresholds(results),
            _calibration(results),
            _training(results),
            _errors(results),
            _mistakes(results),
            _shift(results),
            _data(results),
        ],
    )


def figures(results: Results) -> dict[str, str]:
    """Charts that pages in docs/ show, as SVG text by file name; none shows an image."""
    found = {
        "stress.svg": charts.stress(results.evaluation),
        "label_alone.svg": charts.label_alone(results.shift),
    }
    right = named_groups(results.groups)
    return found if right.empty else found | {"groups.svg": charts.groups(right)}


def _recommendation(results: Results) -> Section:
    minimum = results.evaluate.min_recall
    found = recommend(results.evaluation, results.intervals, minimum)
    settings = ", ".join(f"`{key}` {results.settings[key]}" for key in SETTINGS)
    return Section(
        "Recommendation",
        [
            *([SYNTHETIC] if results.settings["data.source"] == "phantom" else []),
            " ".join(found.sentences),
            f"**Not for clinical use.** Measured with {settings}. Every interval is the 95 % "
            f"interval of a bootstrap over patients ({results.evaluate.resamples} draws)."
            + _one_image_each(results),
        ],
    )


def _one_image_each(results: Results) -> str:
    if results.files["patient"].duplicated().any():
        return ""
    return (
        " Every patient has one image here: if the file names do not tell the patients, images of "
        "one patient count as several patients, and the intervals are too narrow."
    )


def _comparison(results: Results) -> Section:
    of_test = results.intervals["test"]["columns"]
    operating = results.thresholds["operating point"]
    return Section(
        "The variants side by side",
        [
            "Test images at threshold 0.5, value and 95 % interval:",
            Table(tables.metrics(of_test, "at_half")),
            "Validation images at threshold 0.5:",
            Table(tables.metrics(results.intervals["val"]["columns"], "at_half")),
            "Test images at the operating point, the threshold of the highest precision on plain "
            "and stressed validation with recall of at least "
            f"{results.evaluate.min_recall:g} there ("
            + ", ".join(f"{v} {operating[v]:.3f}" for v in VARIANTS)
            + "):",
            Table(tables.metrics(of_test, "operating_point")),
            "Differences on test between pairs of variants on the same draws of patients; one is "
            "more than chance in the choice of patients where its interval leaves out 0 (bold), "
            "and `=` where it rounds to 0:",
            Table(tables.differences(results.intervals["test"]["differences"])),
            [
                Chart(
                    "Metrics on test at 0.5",
                    charts.metric_intervals(tables.pictured(of_test, "at_half")),
                    "Points with intervals of the variants, the values of the first table",
                ),
                Chart(
                    "ROC curves (dashed: validation)",
                    charts.roc(results.predictions),
                    "ROC curves of the variants on validation and test",
                ),
                Chart(
                    "Precision-recall curves (dashed: validation)",
                    charts.precision_recall(results.predictions),
                    "Precision-recall curves of the variants on validation and test",
                ),
            ],
        ],
    )


def _stress(results: Results) -> Section:
    found = {variant: results.evaluation[variant]["stress"] for variant in VARIANTS}
    names = {"roc_auc": "ROC AUC", "recall": "recall", "specificity": "specificity"}
    tables = {
        title: pd.DataFrame(
            [
                {"condition": condition}
                | {v: f"{found[v][condition][metric]:.3f}" for v in VARIANTS}
                for condition in found[VARIANTS[0]]
            ]
        )
        for metric, title in names.items()
    }
    return Section(
        "Stress validation",
        [
            "The validation images as other machines and people might have made them; each "
            "condition changes both classes alike and leaves the disease as it is. What every "
            "choice is made on is plain and stressed validation together. ROC AUC:",
            Table(tables["ROC AUC"]),
            [
                Chart(
                    "Plain validation, stress validation, test",
                    charts.stress(results.evaluation),
                    "ROC AUC of each variant, the values of the table above between those of "
                    "plain validation and test",
                ),
            ],
            "Recall at the operating point:",
            Table(tables["recall"]),
            "Specificity at the operating point:",
            Table(tables["specificity"]),
            "**Groups of images.** Accuracy at the operating point, by pathogen, by series of the "
            "file names and by style, clusters of the frozen backbone's features; the worst group "
            "of each class:",
            Table(_worst_groups(results.groups)),
            *_named_groups(results.groups),
        ],
    )


def _worst_groups(groups: pd.DataFrame) -> pd.DataFrame:
    """The smallest share of each variant by split, kind and class; small groups do not count."""
    large = groups[groups["images"] >= SMALLEST_GROUP]
    names = ["split", "kind", "label"]
    worst = large.pivot_table("right", names, "variant", aggfunc="min")
    return worst.reindex(columns=list(VARIANTS)).map("{:.3f}".format).reset_index()


def _named_groups(groups: pd.DataFrame) -> list[Block]:
    """Table and chart; nothing where the data set is another one."""
    table = named_groups(groups)
    if table.empty:
        return []
    shares = table[list(VARIANTS)].map("{:.3f}".format)
    return [
        "Groups of test images that were told apart by eye or by file name, share of right calls "
        "at the operating point:",
        Table(shares.assign(images=table["images"]).rename_axis("group").reset_index()),
        [
            Chart(
                "Right calls on test by group",
                charts.groups(table),
                "Share of right calls of each variant, the values of the table above",
            ),
        ],
    ]


def _thresholds(results: Results) -> Section:
    return Section(
        "Confusion and thresholds",
        [
            "Test images by actual and predicted class:",
            Table(tables.confusion(results.confusions)),
            [
                Chart(
                    "Confusion on test (images)",
                    charts.confusions(results.confusions),
                    "Confusion matrices, the counts of the table",
                ),
                Chart(
                    "Recall and precision by threshold (dashed: validation)",
                    charts.thresholds(results.predictions, results.thresholds["operating point"]),
                    "Recall and precision of each variant at every threshold",
                ),
            ],
        ],
    )


def _calibration(results: Results) -> Section:
    prevalence = results.evaluate.prevalence
    share = (results.test["label"] == "PNEUMONIA").mean()
    errors = {variant: results.evaluation[variant]["test"]["ece"] for variant in VARIANTS}
    table = tables.calibration(results.intervals["test"]["columns"], errors)
    return Section(
        "Calibration and prevalence",
        [
            f"{100 * share:.3g} % of the test images show pneumonia; in the clinic, "
            f"{100 * prevalence:.3g} % of the patients are taken to be ill "
            "(`evaluate.prevalence`). The predictive values say how often a call is right there, "
            "with recall and specificity as on test. Brier score and calibration error do not "
            "depend on the threshold; 0 is best. The calibration error has no interval: drawing "
            "images with replacement makes it larger.",
            Table(table),
            [
                Chart(
                    "Calibration on test",
                    charts.calibration(results.predictions),
                    "Share of pneumonia against mean probability in ten bins for each variant",
                ),
            ],
        ],
    )


def _training(results: Results) -> Section:
    rows = []
    for variant, history in results.histories.items():
        kept = history[history["kept"] == 1].iloc[0]
        rows.append(
            {
                "variant": variant,
                "epochs": len(history),
                "epoch kept": int(kept["epoch"]),
                "loss there": f"{kept['loss']:.4f}",
                "validation loss there": f"{kept['val_loss']:.4f}",
                "validation accuracy there": f"{kept['val_accuracy']:.4f}",
            }
        )
    return Section(
        "Training",
        [
            _networks(results.settings),
            *([PATHOGENS_TOLD] if results.settings["finetune.targets"] == "pathogen" else []),
            Table(pd.DataFrame(rows)),
            [
                Chart(
                    f"{name.capitalize()} by epoch",
                    charts.training(results.histories, name, axis),
                    f"Training and validation {name} of each variant by epoch",
                )
                for name, axis in (("loss", "cross-entropy"), ("accuracy", "accuracy"))
            ],
        ],
    )


def _networks(settings: dict[str, Any]) -> str:
    """The parameters of the networks, one line of a list for each section."""
    titles = {
        "model": "the small CNN of baseline and augmented",
        "augment": "what augmented adds",
        "transfer": "the frozen backbone and its head",
        "finetune": "the same backbone, its last layers trained",
        "perturb": "what finetuned adds to its training images",
    }
    lines = []
    for section, title in titles.items():
        keys = [key for key in settings if key.startswith(f"{section}.")]
        told = [f"{key.split('.')[1]} {_value(settings[key])}" for key in keys]
        lines.append(f"- `{section}`, {title}: {', '.join(told)}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value).lower()


def _errors(results: Results) -> Section:
    test = results.test
    pathogens = test["pathogen"][test["label"] == "PNEUMONIA"].sort_values()
    by_pathogen: list[Block] = [
        "Recall on test by pathogen, as the file names tell it:",
        Table(_shares(results, pathogens, "pathogen", "PNEUMONIA")),
    ]
    are_named = set(pathogens) != {"none"}
    sizes = _thirds(test["size"].sort_values())
    return Section(
        f"Errors by {'pathogen and ' if are_named else ''}image size",
        [
            *(by_pathogen if are_named else []),
            "By size in thirds of the test images, as the square root of width times height. "
            + _size_is_shape(results.files)
            + "Recall:",
            Table(_shares(results, sizes, "size", "PNEUMONIA")),
            "Specificity:",
            Table(_shares(results, sizes, "size", "NORMAL")),
        ],
    )


def _size_is_shape(files: pd.DataFrame) -> str:
    if files["shorter"].nunique() > 1 or files["size"].nunique() == 1:
        return ""
    return (
        f"The shorter side of every image has {files['shorter'].iloc[0]:.0f} pixels, so here and "
        "below size, width and height say no more than the aspect ratio. "
    )


def _thirds(sizes: pd.Series) -> pd.Series:
    """The third of the images that each one belongs to by size, as `256 to 298 pixels`.

    Images whose sizes are equal in whole pixels stay together, so that no two thirds have one name.
    """
    pixels = sizes.round().astype(int)
    third = np.ceil(3 * pixels.rank() / len(pixels))
    groups = pixels.groupby(third)
    first, last = groups.transform("min"), groups.transform("max")
    names = first.astype(str).where(first == last, first.astype(str) + " to " + last.astype(str))
    return names + " pixels"


def _shares(results: Results, groups: pd.Series, title: str, label: str) -> pd.DataFrame:
    """Share of a class's images that are called right, by group (in their order), variant and
    threshold.
    """
    rows = []
    test = results.test[results.test["label"] == label]
    for group in groups[groups.index.isin(test.index)].drop_duplicates():
        images = test[groups[test.index] == group]
        row = {title: group, "images": len(images)}
        for name, thresholds in results.thresholds.items():
            for variant in VARIANTS:
                is_ill = images[variant] >= thresholds[variant]
                share = is_ill.mean() if label == "PNEUMONIA" else 1 - is_ill.mean()
                row[f"{variant}, {name}"] = f"{share:.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _mistakes(results: Results) -> Section:
    blocks: list[Block] = [
        "The test images on which each variant is most sure of the wrong class, with its "
        "probability of PNEUMONIA:"
    ]
    for variant in VARIANTS:
        worst = _most_confident(results.test, variant)
        if worst.empty:
            blocks.append(f"{variant} makes none.")
            continue
        listed = worst[["path", "label", variant]].rename(columns={variant: "probability"})
        listed["probability"] = listed["probability"].map("{:.4f}".format)
        pictures = [
            _picture(results, row.path, f"p = {row.probability}") for row in listed.itertuples()
        ]
        named = listed.assign(path=listed["path"].map(code))
        blocks += [f"**{variant}**", Table(named), pictures]
    return Section("Most confident mistakes", blocks)


def _picture(results: Results, path: str, remark: str) -> Radiograph:
    test = results.splits["test"]
    row = int(np.flatnonzero(test.index["path"] == path)[0])
    return Radiograph(test.images[row], f"{path}, {remark}")


def _most_confident(test: pd.DataFrame, variant: str) -> pd.DataFrame:
    is_ill = test["label"] == "PNEUMONIA"
    false_positives = test[~is_ill & (test[variant] >= scores.HALF)]
    false_negatives = test[is_ill & (test[variant] < scores.HALF)]
    return pd.concat(
        [
            false_positives.sort_values([variant, "path"], ascending=False).head(MISTAKES),
            false_negatives.sort_values([variant, "path"]).head(MISTAKES),
        ]
    )


def _shift(results: Results) -> Section:
    found = results.shift
    return Section(
        "Is test like validation?",
        [
            _origin(results) + " Recall is the share of PNEUMONIA images called right, specificity "
            "that of NORMAL, at 0.5. A class that loses from validation to test may be one whose "
            "images differ, which the next table measures.",
            Table(_losses(results)),
            "**Are the splits alike?** ROC AUC of a linear classifier on the frozen backbone's "
            "features that tells a split's images from training images of the same class, "
            "cross-validated by patient: 0.5 where they are alike, 1 where every image is told.",
            Table(_told(found)),
            *_least_alike(results),
            "**What tells the label by itself?** ROC AUC of one plain number each, read in the "
            "direction that fits train; edges are those in a corner, as of a side marker. Where it "
            "is far from 0.5 in train, a network may learn the number in place of the lung; where "
            "it falls in test, that does not pay any more.",
            Table(_label_alone(found)),
            [
                Chart(
                    "Plain numbers that tell the label",
                    charts.label_alone(found),
                    "ROC AUC of each number in each split, the values of the table above",
                ),
            ],
            *_redrawn(results),
        ],
    )


def _origin(results: Results) -> str:
    if _is_redrawn(results):
        return (
            "Validation and test are both drawn from all images (`split.test` redrawn), so they "
            "should differ by chance alone."
        )
    return (
        "Test is the data set's own (`split.test` official); validation is drawn from the other "
        "images, like train."
    )


def _is_redrawn(results: Results) -> bool:
    return bool(results.settings["split.test"] == "redrawn")


def _losses(results: Results) -> pd.DataFrame:
    rows = []
    for variant in VARIANTS:
        row = {"variant": variant}
        for name in ("recall", "specificity"):
            val, test = (results.evaluation[variant][split][name] for split in EVALUATED)
            row |= {f"{name}: val": f"{val:.3f}", f"{name}: test": f"{test:.3f}"}
            row[f"{name}: change"] = signed(test - val)
        rows.append(row)
    return pd.DataFrame(rows)


def _told(shift: dict[str, Any]) -> pd.DataFrame:
    told = shift["told_from_train"]
    return pd.DataFrame(
        {"split": split} | {label: _number(told[split].get(label)) for label in LABELS}
        for split in EVALUATED
    )


def _number(value: float | None) -> str:
    return "too few patients" if value is None else f"{value:.3f}"


def _least_alike(results: Results) -> list[Block]:
    """Table and pictures; nothing where every class has too few patients."""
    rows = []
    for label, found in results.shift["least_alike_test_images"].items():
        for group in ("least_alike", "rest"):
            shares = {variant: f"{found[variant][group]:.3f}" for variant in VARIANTS}
            images = f" ({found['images']} images)" if group == "least_alike" else ""
            rows.append({"class": label, "group": group.replace("_", " ") + images} | shares)
    if not rows:
        return []
    text = (
        "**The least alike test images**: the quarter of each class that this classifier is "
        "surest of, against the rest. Share of right calls at 0.5 (specificity for NORMAL, "
        "recall for PNEUMONIA):"
    )
    return [text, Table(pd.DataFrame(rows)), *_least_alike_pictures(results)]


def _least_alike_pictures(results: Results) -> list[list[Radiograph]]:
    least = results.unlikeness.sort_values(["unlikeness", "path"], ascending=False)
    return [
        [
            _picture(results, row.path, f"unlikeness {row.unlikeness:.3f}")
            for row in least[least["label"] == label].head(MISTAKES).itertuples()
        ]
        for label in LABELS
        if (least["label"] == label).any()
    ]


def _label_alone(shift: dict[str, Any]) -> pd.DataFrame:
    rows = [
        {"number": name.replace("_", " ")} | {split: f"{aucs[split]:.3f}" for split in SPLITS}
        for name, aucs in shift["label_alone"].items()
    ]
    return pd.DataFrame(rows)


def _redrawn(results: Results) -> list[Block]:
    """What a test of the same distribution gives, from the recorded experiment."""
    if _is_redrawn(results):
        return []
    asked = "**And if test were drawn like validation?** `dvc exp run --temp -S split.test=redrawn`"
    known = results.experiments
    is_same = (known["changed"] == "split.test=redrawn") & (
        known["seed"] == results.settings["seed"]
    )
    if results.settings["data.source"] != "kaggle" or not is_same.any():
        return [asked + " splits all images anew and trains on them; compare with `dvc exp show`."]
    rows = known[is_same]
    metrics = ["recall", "precision", "accuracy", "specificity", "roc_auc"]
    table = rows[["commit", "changed", "variant"]].assign(
        **{name: rows[f"test_{name}"].map("{:.3f}".format) for name in metrics}
    )
    for name in ("commit", "changed"):
        table[name] = table[name].map(code)
    gives = (
        f"{asked}, as recorded in `{paths.EXPERIMENTS}`, gives on test at 0.5, with all other "
        "parameters as committed there:"
    )
    return [gives, Table(table.rename(columns=TITLES))]


def _data(results: Results) -> Section:
    images = results.files
    rows = [
        {
            "split": name,
            **{label: int((rows["label"] == label).sum()) for label in LABELS},
            "images": len(rows),
            "share of PNEUMONIA": f"{(rows['label'] == 'PNEUMONIA').mean():.3f}",
            "patients": rows["patient"].nunique(),
        }
        for name, rows in images.groupby("split", sort=False)
    ]
    return Section(
        "The data at a glance",
        [
            Table(pd.DataFrame(rows)),
            _leaks(results.guards["leaks"]),
            [
                Chart("Images by split and class", charts.counts(images), "The counts above"),
                Chart(
                    "Aspect ratio by split and class",
                    charts.distributions(images, "aspect_ratio", "width / height"),
                    "Histograms of width by height for both classes in each split",
                ),
                Chart(
                    "Size by split and class",
                    charts.distributions(images, "size", "square root of width x height (pixels)"),
                    "Histograms of the image size for both classes in each split",
                ),
            ],
        ],
    )


def _leaks(counts: dict[str, int | None]) -> str:
    """What `leaks.guard` counted."""
    if counts["patient"] is None:
        compared = {name: n for name, n in counts.items() if name != "patient"}
        return _leaks(compared | {"patient": 0}) + " Patients were not compared (split by image)."
    left_out = counts["dropped"]
    kinds = {name.replace("_", " "): n for name, n in counts.items() if n and name != "dropped"}
    asked = "Patients or copies of images on two sides, and copies under two labels: "
    if not kinds:
        return asked + "none."
    listed = ", ".join(f"{name} {n}" for name, n in kinds.items())
    return asked + f"{listed} image(s); {left_out} left out."
