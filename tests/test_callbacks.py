"""StepDecay, BestCheckpoint, WandbLogger."""

import json
import os
import subprocess
import sys
import warnings

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy
from genrekeras.evaluation import Report


@pytest.fixture
def dense():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def data(rng):
    x = rng.standard_normal((32, 4)).astype("float32")
    return x, x[:, :3].argmax(axis=1)


class Rates(keras.callbacks.Callback):
    """The learning rate and the number of steps, as each epoch ends."""

    def __init__(self):
        super().__init__()
        self.rates, self.steps = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(numpy(self.model.optimizer.learning_rate)))
        self.steps.append(int(numpy(self.model.optimizer.iterations)))


def test_step_decay_divides_and_keeps_the_optimizer(dense, data):
    seen = Rates()
    optimizer = dense.optimizer
    history = dense.fit(
        *data, epochs=6, batch_size=16, verbose=0, callbacks=[gk.callbacks.StepDecay(0.1, every=2), seen]
    ).history
    np.testing.assert_allclose(seen.rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], seen.rates, rtol=1e-6)
    assert dense.optimizer is optimizer and seen.steps == [2, 4, 6, 8, 10, 12]


def test_step_decay_of_a_resumed_run_does_not_decay_twice(dense, data):
    callback = gk.callbacks.StepDecay(0.1, every=2)
    dense.fit(*data, epochs=3, verbose=0, callbacks=[callback])
    resumed = dense.fit(*data, initial_epoch=3, epochs=5, verbose=0, callbacks=[callback]).history
    np.testing.assert_allclose(resumed["learning_rate"], [0.01, 0.001], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"factor": 0}, {"factor": 2}, {"every": 0}, {"every": 1.5}])
def test_step_decay_refuses(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`.*Received"):
        gk.callbacks.StepDecay(0.1, **arguments)
    with pytest.raises(ValueError, match="`initial_learning_rate`"):
        gk.callbacks.StepDecay(0)


def run_epochs(callback, model, values, monitor="val_accuracy"):
    callback.set_model(model)
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {monitor: value})


def test_best_checkpoint_keeps_the_best(dense, tmp_path):
    path = tmp_path / "best.keras"
    callback = gk.callbacks.BestCheckpoint(path)
    callback.set_model(dense)
    weights = []
    for epoch, accuracy in enumerate([0.2, 0.6, 0.6, 0.5, float("nan")]):
        dense.layers[-1].bias.assign(np.full(3, epoch, "float32"))
        callback.on_epoch_end(epoch, {"val_accuracy": accuracy})
        weights.append(keras.saving.load_model(path).layers[-1].get_weights()[1][0])
    assert weights == [0, 1, 1, 1, 1]  # an equal figure does not replace the first
    assert (callback.best, callback.best_epoch) == (0.6, 1)
    assert os.listdir(tmp_path) == ["best.keras"]


def test_best_checkpoint_of_a_loss_looks_for_the_lowest(dense, tmp_path):
    callback = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", monitor="val_loss")
    run_epochs(callback, dense, [3.0, 1.0, 2.0], "val_loss")
    assert (callback.best, callback.best_epoch) == (1.0, 1)


def test_a_checkpoint_that_fails_loses_nothing(dense, tmp_path, monkeypatch):
    path = tmp_path / "best.keras"
    callback = gk.callbacks.BestCheckpoint(path)
    run_epochs(callback, dense, [0.3])
    before = path.read_bytes()

    def full_disk(self, target, **kwargs):
        with open(target, "wb") as file:
            file.write(b"half of a model")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(dense), "save", full_disk)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.on_epoch_end(1, {"val_accuracy": 0.9})
    assert any("No space left on device" in str(w.message) for w in caught)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["best.keras"]
    assert callback.best == 0.3  # so that the next epoch tries again


def test_best_checkpoint_refuses(dense, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.keras"):
        gk.callbacks.BestCheckpoint("model.h5")
    with pytest.raises(ValueError, match="`mode`"):
        gk.callbacks.BestCheckpoint("model.keras", mode="best")


def test_validation_need_not_come_with_each_epoch(dense, data, tmp_path):
    callback = gk.callbacks.BestCheckpoint(tmp_path / "new" / "folder" / "best.keras")
    dense.fit(*data, validation_data=data, validation_freq=2, epochs=4, verbose=0, callbacks=[callback])
    assert callback.best_epoch in (1, 3) and (tmp_path / "new" / "folder" / "best.keras").is_file()


def test_a_figure_that_never_comes_is_named_and_the_training_is_saved(dense, data, tmp_path):
    callback = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", monitor="val_acc")
    with pytest.raises(ValueError, match=r"`monitor` must be one of \['accuracy', 'loss'\].*'val_acc'"):
        dense.fit(*data, epochs=2, verbose=0, callbacks=[callback])
    saved = keras.saving.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(saved.predict(data[0], verbose=0), dense.predict(data[0], verbose=0))


def test_best_checkpoint_writes_nothing_if_no_epoch_runs(dense, data, tmp_path):
    path = tmp_path / "best.keras"
    for written in (False, True):
        if written:
            dense.fit(*data, validation_data=data, verbose=0, callbacks=[gk.callbacks.BestCheckpoint(path)])
            before = path.read_bytes()
            dense.layers[-1].bias.assign(np.full(3, 9, "float32"))
        dense.fit(*data, initial_epoch=2, epochs=2, verbose=0, callbacks=[gk.callbacks.BestCheckpoint(path)])
        assert path.exists() == written
    assert path.read_bytes() == before


class FakeRun:
    def __init__(self, **arguments):
        self.arguments, self.logged, self.finished, self.id = arguments, [], False, "abc"

    def log(self, figures):
        self.logged.append(figures)

    def finish(self):
        self.finished = True


@pytest.fixture
def clean_environment(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_wandb_logger_logs_each_epoch(dense, data, monkeypatch, tmp_path, clean_environment):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **arguments: FakeRun(**arguments))
    logger = gk.callbacks.WandbLogger(config={"seed": 3}, name="a run", folder=tmp_path)
    dense.fit(
        *data, validation_data=data, epochs=2, verbose=0, callbacks=[gk.callbacks.StepDecay(0.1, every=1), logger]
    )
    assert logger.run.arguments["mode"] == "offline" and logger.run.arguments["config"] == {"seed": 3}
    assert [figures["epoch"] for figures in logger.run.logged] == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= set(logger.run.logged[0])
    np.testing.assert_allclose([figures["learning_rate"] for figures in logger.run.logged], [0.1, 0.01], rtol=1e-6)

    report = Report(("a", "b", "c"), "test", "official", np.arange(32), data[1], dense.predict(data[0], verbose=0))
    logger.log_report(report)
    logged = logger.run.logged[-1]
    assert logged["test/accuracy"] == report.accuracy and "test/confusion_matrix" in logged
    run = logger.run
    logger.finish()
    assert run.finished


def test_a_training_that_goes_on_goes_on_with_its_wandb_run(dense, monkeypatch, clean_environment):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **arguments: FakeRun(**arguments))
    first, later = gk.callbacks.WandbLogger(), gk.callbacks.WandbLogger()
    first.start()
    assert first.run.arguments["id"] is None and first.run.arguments["resume"] is None
    assert gk.callbacks.WandbLogger.state_attributes == ("run_id",)  # by `training.fit`
    later.run_id = first.run_id
    later.start()
    assert later.run.arguments["id"] == "abc" and later.run.arguments["resume"] == "allow"


def test_wandb_logger_takes_figures_that_are_arrays(dense, monkeypatch, clean_environment):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **arguments: FakeRun(**arguments))
    logger = gk.callbacks.WandbLogger()
    logger.set_model(dense)
    logger.start()
    logger.on_epoch_end(0, {"loss": np.float32(0.5), "f1_score": np.array([0.25, 0.75])})
    assert logger.run.logged[0]["loss"] == 0.5 and logger.run.logged[0]["f1_score"] == [0.25, 0.75]


@pytest.mark.parametrize(
    "environment, netrc, mode",
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "x" * 40}, "", "online"),
        ({}, "machine api.wandb.ai login user password secret", "online"),
        ({}, "machine elsewhere.example login user password secret", "offline"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "disabled"}, "", "disabled"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_MODE": "online"}, "", "offline"),  # wandb would ask for the key
    ],
)
def test_wandb_is_online_only_where_a_key_is(environment, netrc, mode, monkeypatch, clean_environment):
    clean_environment.write_text(netrc)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert gk.callbacks._wandb_mode() == mode


def test_wandb_offline_for_real_asks_nothing_and_imports_no_tensorflow(tmp_path):
    """In a process of its own, without a terminal: it would end if it asked."""
    script = (
        "import sys, json, numpy as np, genrekeras as gk, keras\n"
        "model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation='softmax')])\n"
        "model.compile('sgd', 'sparse_categorical_crossentropy', metrics=['accuracy'])\n"
        f"logger = gk.callbacks.WandbLogger(folder={str(tmp_path)!r})\n"
        "model.fit(np.ones((4, 2)), np.zeros(4), verbose=0, callbacks=[logger])\n"
        "logger.finish()\n"
        "print(json.dumps('tensorflow' in sys.modules))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "torch", "WANDB_API_KEY": "", "NETRC": str(tmp_path / "none")}
    environment.pop("WANDB_MODE", None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) is False
    assert [name for name in os.listdir(tmp_path / "wandb") if name.startswith("offline-run")]
