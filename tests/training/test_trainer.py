import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from cxr.common import saving
from cxr.errors import CxrError
from cxr.models.networks import transfer_head
from cxr.params import TransferParams, read_params
from cxr.tools.project_copy import PROJECT
from cxr.training import trainer
from cxr.training.batches import ArrayDataset, class_weights


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def params() -> TransferParams:
    transfer = read_params(PROJECT / "params.yaml").transfer
    return transfer.model_copy(update={"epochs": 2, "dense_units": 4, "learning_rate": 0.05})


def data(seed: int = 0) -> tuple[ArrayDataset, ArrayDataset]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    rows = (rng.standard_normal((80, 6)) + 2 * labels[:, None]).astype(np.float32)
    return ArrayDataset(rows[:60], labels[:60], 16, seed), ArrayDataset(rows[60:], labels[60:], 16)


def trained(params: TransferParams, seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = transfer_head((6,), params)
    batches, val = data(seed)
    weights = class_weights(batches.labels, params.class_weights)
    trainer.train("unit", model, batches, val, params, weights)
    return model


def history() -> pd.DataFrame:
    return pd.read_csv("plots/history/unit.csv")


def val_loss(model: keras.Model) -> float:
    val = data()[1]
    labels = val.labels[:, None].astype(float)
    return float(keras.losses.BinaryCrossentropy()(labels, model.predict(val, verbose=0)))


def test_history_has_a_row_per_epoch(params: TransferParams) -> None:
    model = trained(params)
    table = history()
    assert list(table) == trainer.HISTORY_COLUMNS
    assert list(table["epoch"]) == [1, 2]
    assert list(table["kept"]) == [0, 1]
    assert (table["seconds"] >= 0).all()
    assert table["val_loss"].iloc[-1] == pytest.approx(val_loss(model), abs=1e-4)


@pytest.mark.parametrize("terminal", [False, True])
def test_each_epoch_prints_a_line(
    params: TransferParams,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    trained(params)
    printed, progress = capsys.readouterr()
    table = history()
    for number, (line, row) in enumerate(
        zip(printed.splitlines(), table.itertuples(), strict=True)
    ):
        assert line.startswith(f"epoch {number + 1}/2: loss {row.loss:.4f}, ")
        assert f", val_loss {row.val_loss:.4f}, " in line
    assert "left" in printed.splitlines()[0]
    assert ("unit: " in progress) == terminal  # the progress bar


@pytest.mark.parametrize(("epochs", "patience"), [(50, 1), (50, 3), (6, 6)])
def test_early_stopping_keeps_the_best_epoch(
    params: TransferParams, epochs: int, patience: int
) -> None:
    """Also if the last epoch comes first."""
    # A learning rate so high that the validation loss soon rises.
    changes = {"epochs": epochs, "early_stopping": patience, "learning_rate": 0.5}
    model = trained(params.model_copy(update=changes))
    table = history()
    best = table["val_loss"].idxmin()
    assert best < 5
    assert len(table) == min(best + 1 + patience, epochs)
    assert list(table.index[table["kept"] == 1]) == [best]
    assert table["val_loss"].min() == pytest.approx(val_loss(model), abs=1e-4)


def test_training_learns(params: TransferParams) -> None:
    trained(params.model_copy(update={"epochs": 15}))
    assert history()["val_accuracy"].iloc[-1] > 0.9


def test_class_weights_change_the_loss(params: TransferParams) -> None:
    losses = {}
    for mode in ("balanced", "none"):
        trained(params.model_copy(update={"class_weights": mode}))
        losses[mode] = history()["loss"].iloc[0]
    assert losses["balanced"] != losses["none"]


def test_default_optimizer_is_adam(params: TransferParams) -> None:
    found = trainer.optimizer(params, 100)
    assert isinstance(found, keras.optimizers.Adam)
    assert float(found.learning_rate) == pytest.approx(0.05)
    assert not found.use_ema
    assert not found.weight_decay


def test_cosine_schedule_warms_up_and_decays(params: TransferParams) -> None:
    found = trainer.optimizer(params.model_copy(update={"schedule": "cosine"}), 100)
    rates = [float(found._learning_rate(step)) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.05)
    assert np.argmax(rates) == 10
    assert rates[55] == pytest.approx(0.025, rel=0.05)
    assert rates[100] == pytest.approx(0, abs=1e-6)


def test_weight_decay_is_passed_to_the_optimizer(params: TransferParams) -> None:
    found = trainer.optimizer(params.model_copy(update={"weight_decay": 0.02}), 100)
    assert found.weight_decay == 0.02  # test_fast_layers.py compares it with AdamW


def test_averaged_weights_are_saved_and_validated(params: TransferParams) -> None:
    changes = {"ema_decay": 0.9, "learning_rate": 0.3, "dropout": 0.0}
    averaged = trained(params.model_copy(update=changes))
    assert history()["val_loss"].iloc[-1] == pytest.approx(val_loss(averaged), abs=1e-4)
    last = trained(params.model_copy(update=changes | {"ema_decay": 0.0}))
    assert not np.allclose(averaged.get_weights()[0], last.get_weights()[0], atol=1e-3)


@pytest.mark.slow
def test_label_smoothing_limits_confidence(params: TransferParams) -> None:
    changes = {"epochs": 40, "dropout": 0.0, "dense_units": 32}
    confidence = {}
    for smoothing in (0.0, 0.3):
        model = trained(params.model_copy(update=changes | {"label_smoothing": smoothing}))
        confidence[smoothing] = np.abs(model.predict(data()[0], verbose=0) - 0.5).max()
    assert confidence[0.3] < 0.42 < 0.49 < confidence[0.0]


def test_nan_loss_is_an_error_without_history(params: TransferParams) -> None:
    train, val = data()
    # NaN in the targets: on some CPUs, ReLU turns a NaN in the inputs into 0.
    train.labels = np.full(len(train.labels), np.nan)
    with pytest.raises(CxrError, match="learning_rate"):
        trainer.train("unit", transfer_head((6,), params), train, val, params)
    assert not Path("plots").exists()


@pytest.mark.slow
def test_saved_models_are_bit_identical(params: TransferParams) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        keras.backend.clear_session()
        saving.save_model(trained(params, seed), Path(f"{name}.keras"))
    first, second, third = (Path(f"{name}.keras").read_bytes() for name in "abc")
    assert first == second
    assert first != third


def test_saved_model_loads_in_safe_mode_and_predicts_the_same(params: TransferParams) -> None:
    model = transfer_head((6,), params)
    saving.save_model(model, Path("m.keras"))
    loaded = keras.saving.load_model("m.keras", safe_mode=True)
    rows = data()[1].rows
    np.testing.assert_array_equal(loaded(rows), model(rows))
    assert not loaded.compiled  # the optimizer would triple the size
    with zipfile.ZipFile("m.keras") as archive:
        assert archive.testzip() is None


def test_interrupted_save_keeps_the_previous_model(
    params: TransferParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(b"old")

    def interrupted(part: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "_members", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saving.save_model(transfer_head((6,), params), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
