"""StepDecay, BestCheckpoint, WandbLogger."""

import os
import warnings

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy
from genrekeras.evaluation import MultiLabelReport, Report


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


class Recorder(keras.callbacks.Callback):
    """Record the learning rate and the number of steps at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.rates, self.steps = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(numpy(self.model.optimizer.learning_rate)))
        self.steps.append(int(numpy(self.model.optimizer.iterations)))


@pytest.mark.backends
def test_step_decay_keeps_the_optimizer(dense, data):
    recorder = Recorder()
    optimizer = dense.optimizer
    history = dense.fit(
        *data, epochs=6, batch_size=16, verbose=0, callbacks=[gk.callbacks.StepDecay(0.1, every=2), recorder]
    ).history
    np.testing.assert_allclose(recorder.rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], recorder.rates, rtol=1e-6)
    assert dense.optimizer is optimizer and recorder.steps == [2, 4, 6, 8, 10, 12]


def test_step_decay_of_a_resumed_run_does_not_decay_twice(dense, data):
    callback = gk.callbacks.StepDecay(0.1, every=2)
    dense.fit(*data, epochs=3, verbose=0, callbacks=[callback])
    resumed = dense.fit(*data, initial_epoch=3, epochs=5, verbose=0, callbacks=[callback]).history
    np.testing.assert_allclose(resumed["learning_rate"], [0.01, 0.001], rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"factor": 0}, {"factor": 2}, {"every": 0}, {"every": 1.5}])
def test_invalid_arguments_of_step_decay(arguments):
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
    assert weights == [0, 1, 1, 1, 1]  # an equal value does not replace the first
    assert (callback.best, callback.best_epoch) == (0.6, 1)
    assert os.listdir(tmp_path) == ["best.keras"]


def test_best_checkpoint_minimizes_a_loss(dense, tmp_path):
    callback = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", monitor="val_loss")
    run_epochs(callback, dense, [3.0, 1.0, 2.0], "val_loss")
    assert (callback.best, callback.best_epoch) == (1.0, 1)


def test_a_checkpoint_that_cannot_be_written(dense, tmp_path, monkeypatch):
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
    assert any("No space left on device" in str(warning.message) for warning in caught)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["best.keras"]
    assert callback.best == 0.3


def test_a_checkpoint_that_was_deleted(dense, tmp_path):
    path = tmp_path / "best.keras"
    callback = gk.callbacks.BestCheckpoint(path)
    run_epochs(callback, dense, [0.8])
    path.unlink()
    with pytest.warns(UserWarning, match=r"best\.keras does not exist any more"):
        callback.on_epoch_end(1, {"val_accuracy": 0.5})
    assert (callback.best, callback.best_epoch) == (0.5, 1) and path.exists()


def test_invalid_arguments_of_best_checkpoint():
    with pytest.raises(ValueError, match=r"must end in \.keras"):
        gk.callbacks.BestCheckpoint("model.h5")
    with pytest.raises(ValueError, match="`mode`"):
        gk.callbacks.BestCheckpoint("model.keras", mode="best")


def test_epochs_without_validation(dense, data, tmp_path):
    callback = gk.callbacks.BestCheckpoint(tmp_path / "new" / "folder" / "best.keras")
    dense.fit(*data, validation_data=data, validation_freq=2, epochs=4, verbose=0, callbacks=[callback])
    assert callback.best_epoch in (1, 3) and (tmp_path / "new" / "folder" / "best.keras").is_file()


def test_a_metric_that_is_never_logged(dense, data, tmp_path):
    callback = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", monitor="val_acc")
    with pytest.raises(ValueError, match=r"`monitor` must be one of \['accuracy', 'loss'\].*'val_acc'"):
        dense.fit(*data, epochs=2, verbose=0, callbacks=[callback])
    saved = keras.saving.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(saved.predict(data[0], verbose=0), dense.predict(data[0], verbose=0))


def test_best_checkpoint_writes_nothing_if_no_epoch_runs(dense, data, tmp_path):
    path = tmp_path / "best.keras"
    for exists in (False, True):
        if exists:
            dense.fit(*data, validation_data=data, verbose=0, callbacks=[gk.callbacks.BestCheckpoint(path)])
            before = path.read_bytes()
            dense.layers[-1].bias.assign(np.full(3, 9, "float32"))
        dense.fit(*data, initial_epoch=2, epochs=2, verbose=0, callbacks=[gk.callbacks.BestCheckpoint(path)])
        assert path.exists() == exists
    assert path.read_bytes() == before


class FakeRun:
    def __init__(self, **arguments):
        self.arguments, self.logged, self.finished, self.id = arguments, [], False, "abc"

    def log(self, metrics):
        self.logged.append(metrics)

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
    assert [metrics["epoch"] for metrics in logger.run.logged] == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= set(logger.run.logged[0])
    np.testing.assert_allclose([metrics["learning_rate"] for metrics in logger.run.logged], [0.1, 0.01], rtol=1e-6)

    report = Report(("a", "b", "c"), "test", "official", np.arange(32), data[1], dense.predict(data[0], verbose=0))
    logger.log_report(report)
    logged = logger.run.logged[-1]
    assert logged["test/accuracy"] == report.accuracy and "test/confusion_matrix" in logged
    multi_label = MultiLabelReport(("a", "b"), "test", "official", np.arange(4), np.eye(4, 2), np.eye(4, 2))
    logger.log_report(multi_label)
    assert logger.run.logged[-1] == {
        "test/mean_average_precision": 1,
        "test/macro_f1": 1,
        "test/log_loss": pytest.approx(0, abs=1e-6),
    }
    run = logger.run
    logger.finish()
    assert run.finished


def test_a_resumed_training_resumes_its_wandb_run(monkeypatch, clean_environment):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **arguments: FakeRun(**arguments))
    first, later = gk.callbacks.WandbLogger(), gk.callbacks.WandbLogger()
    first.start()
    assert first.run.arguments["id"] is None and first.run.arguments["resume"] is None
    assert gk.callbacks.WandbLogger.state_attributes == ("run_id",)  # used by `training.fit`
    later.run_id = first.run_id
    later.start()
    assert later.run.arguments["id"] == "abc" and later.run.arguments["resume"] == "allow"


def test_wandb_logger_with_metrics_that_are_arrays(dense, monkeypatch, clean_environment):
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
        ({"WANDB_MODE": "online"}, "", "offline"),  # W&B would prompt for the key
        ({}, "not a netrc file", "offline"),
    ],
)
def test_wandb_is_online_only_with_a_key(environment, netrc, mode, monkeypatch, clean_environment):
    clean_environment.write_text(netrc)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert gk.callbacks._wandb_mode() == mode


def test_wandb_goes_offline_if_the_server_cannot_be_reached(monkeypatch, clean_environment):
    import wandb

    def init(**arguments):
        if arguments["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return FakeRun(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    environment, logger = dict(os.environ), gk.callbacks.WandbLogger()
    with pytest.warns(UserWarning, match=r"W&B cannot be reached \(timed out\)\. The run is logged offline"):
        logger.start()
    assert logger.run.arguments["mode"] == "offline" and dict(os.environ) == environment
