"""Hub, trackers and tuners, as docs/guide/integrations.md shows them. None of them needs TensorFlow."""

import os
import pathlib
import signal
import sys
import time
import zipfile

import genrekeras as gk
import keras
import keras_tuner
import mlflow
import numpy as np
import optuna
import processes
import pytest
import soundfile
from conftest import small_model, tones
from hub import local_hub
from huggingface_hub import HfApi, hf_hub_download
from optuna_integration import KerasPruningCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_docs import ROOT, blocks
from torch.utils.tensorboard import SummaryWriter

PAGE = ROOT / "docs" / "guide" / "integrations.md"
PARTS = {"config.json", "metadata.json", "model.weights.h5"}
REPO = "USER/genres"


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    """TensorFlow cannot be imported, except as the backend."""
    if keras.backend.backend() != "tensorflow":
        monkeypatch.setitem(sys.modules, "tensorflow", None)


@pytest.fixture
def hub(tmp_path):
    with local_hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def clips(rng):
    return tones(rng, 12, 22050)


@pytest.fixture
def music(tmp_path, rng):
    """A folder with two genres of 8 artists each, in the current folder."""
    for number, clip in enumerate(tones(rng, 16, 3 * 22050)):
        path = tmp_path / "MUSIC" / ("Folk", "Rock")[number % 2] / f"Artist {number}" / "Album" / "1.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, clip / 4, 22050)


def compiled_model(**kwargs):
    model = small_model(genres=["Folk", "Rock"], **kwargs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, clips, *callbacks, epochs=2):
    """Train with `model.fit`; return the history."""
    labels = np.arange(len(clips)) % 2
    options = {"validation_data": (clips, labels), "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(clips, labels, epochs=epochs, **options).history


def load_parts(path):
    """Pack the files that Keras saved to the hub into a file, and load it with the checks of `gk.load_model`."""
    with zipfile.ZipFile(path, "w") as file:
        for part in PARTS:
            file.write(hf_hub_download(REPO, part), part)
    return gk.load_model(path)


def test_a_model_file_on_the_hub(hub, one_second_model, clips, tmp_path):
    one_second_model.save(tmp_path / "model.keras")
    HfApi().create_repo(REPO)
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=tmp_path / "model.keras", path_in_repo="model.keras")
    loaded = gk.load_model(hf_hub_download(REPO, "model.keras"))
    np.testing.assert_array_equal(loaded.predict(clips, verbose=0), one_second_model.predict(clips, verbose=0))
    first, _ = hub.last_commit(REPO)
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"no model", path_in_repo="model.keras")
    with pytest.raises(gk.ModelFileError, match="cannot be loaded"):
        gk.load_model(hf_hub_download(REPO, "model.keras"))
    gk.load_model(hf_hub_download(REPO, "model.keras", revision=first))


def test_keras_saves_to_the_hub(hub, one_second_model, clips, tmp_path):
    one_second_model.save(f"hf://{REPO}")
    assert set(hub.last_commit(REPO)[1]) == {*PARTS, "README.md"}
    loaded = load_parts(tmp_path / "downloaded.keras")
    assert isinstance(loaded, gk.GenreClassifier) and loaded.genres == one_second_model.genres
    np.testing.assert_array_equal(loaded.predict(clips, verbose=0), one_second_model.predict(clips, verbose=0))
    with pytest.raises(FileNotFoundError, match=rf"hf://{REPO}\. Download the file, and pass its path"):
        gk.load_model(f"hf://{REPO}")


def test_another_model_on_the_hub_is_refused(hub, tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(f"hf://{REPO}")
    with pytest.raises(gk.ModelFileError, match="contains a Sequential, not a GenreClassifier"):
        load_parts(tmp_path / "downloaded.keras")


def test_keras_loads_from_the_hub_with_tensorflow_only(hub):
    """If this test fails, Keras has changed: correct docs/guide/integrations.md."""
    with pytest.raises(ValueError, match="requires installing TensorFlow"):
        keras.saving.load_model(f"hf://{REPO}")


LOAD = """
import json, genrekeras as gk, keras, numpy as np
model = keras.saving.load_model("hf://USER/genres")
clips = np.load("clips.npy")
print(json.dumps([type(model) is gk.GenreClassifier, model.predict(clips, verbose=0).tolist()]))
"""


@pytest.mark.slow
def test_keras_loads_from_the_hub(hub, one_second_model, clips, tmp_path, monkeypatch):
    """In a separate process, which finds the hub by the environment variables."""
    monkeypatch.delitem(sys.modules, "tensorflow")
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    np.save("clips.npy", clips)
    one_second_model.save(f"hf://{REPO}")
    is_genre_classifier, probabilities = processes.python(LOAD, KERAS_BACKEND="torch")
    expected = one_second_model.predict(clips, verbose=0)
    assert is_genre_classifier
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)


@pytest.mark.backends
def test_tensorboard(clips, tmp_path):
    with SummaryWriter(tmp_path) as writer:
        log = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: [writer.add_scalar(name, value, epoch) for name, value in logs.items()]
        )
        history = fit(compiled_model(), clips, log)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    for name, values in history.items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (epoch, np.float32(value)) for epoch, value in enumerate(values)
        ]


@pytest.mark.slow  # the creation of the database takes seconds
def test_mlflow(clips, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("genres")
    model = compiled_model()
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: mlflow.log_metrics(logs, step=epoch))
    with mlflow.start_run() as run:
        history = fit(model, clips, log)
        model.save("model.keras")
        mlflow.log_artifact("model.keras")
    client = mlflow.MlflowClient()
    for name, values in history.items():
        logged = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in logged] == list(enumerate(values))
    os.remove("model.keras")
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model.keras")
    np.testing.assert_array_equal(gk.load_model(path).predict(clips, verbose=0), model.predict(clips, verbose=0))


@pytest.mark.backends
def test_optuna_prunes(clips):
    """After the first epoch, a trial with a large loss is stopped."""

    def objective(trial):
        return fit(compiled_model(), clips, KerasPruningCallback(trial, "val_loss"))["val_loss"][-1]

    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.0))
    study.optimize(objective, n_trials=1)
    [trial] = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED and list(trial.intermediate_values) == [0]


def script_of_the_study():
    """Return the code of the page: data, objective, and study."""
    code = [code for language, _, code, _ in blocks(PAGE) if language == "python"]
    objective, study = (next(part for part in code if text in part) for text in ("def objective", "study.optimize("))
    assert study.count("heartbeat_interval=60") == 1
    return [code[0], objective, study.replace("heartbeat_interval=60", "heartbeat_interval=1")]


def start_study(folder):
    return processes.start(folder / "study.py", stdout=folder / "stdout", stderr=folder / "stderr")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_trial_resumes(number, music, tmp_path, monkeypatch):
    """The second trial is interrupted in its third epoch. Its result is that of an uninterrupted trial."""
    monkeypatch.delitem(sys.modules, "tensorflow")  # else TFDS takes TensorFlow for imported
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    data, objective, study = script_of_the_study()
    (tmp_path / "study.py").write_text("\n".join([data, objective, study]), encoding="utf-8")
    printed = tmp_path / "stdout"

    process = start_study(tmp_path)
    deadline = time.monotonic() + 300
    while not printed.exists() or printed.read_text().count("Epoch 3/3") < 2:
        assert process.exitcode is None and time.monotonic() < deadline, (tmp_path / "stderr").read_text()
        time.sleep(0.001)
    os.kill(process.pid, number)
    processes.wait(process, 300)
    time.sleep(3.5)  # more than two heartbeats

    assert processes.wait(start_study(tmp_path), 300) == 0, (tmp_path / "stderr").read_text()
    assert "Epoch 2/3" not in printed.read_text() and printed.read_text().count("Epoch 3/3") == 1
    trials = optuna.load_study(study_name="genres", storage="sqlite:///study/study.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    _, interrupted, resumed = trials
    assert resumed.user_attrs == {"first": 1} and resumed.params == interrupted.params
    assert sorted(resumed.intermediate_values) == [0, 1, 2]

    uninterrupted = tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    (uninterrupted / "MUSIC").symlink_to(tmp_path / "MUSIC")
    monkeypatch.chdir(uninterrupted)
    names = {}
    exec(data, names)
    exec(objective, names)
    assert names["objective"](optuna.trial.FixedTrial(resumed.params, number=1)) == resumed.value


@pytest.mark.backends
@pytest.mark.filterwarnings("ignore:With `pretrained=None, fine_tune=")
def test_keras_tuner_on_the_head(rng, tmp_path):
    """The features of a frozen backbone are computed once; each trial trains the last layer on them."""

    class Head(keras_tuner.HyperModel):
        def build(self, hp):
            model = small_model(genres=["Folk", "Rock"], fine_tune="head", dropout=hp.Float("dropout", 0.0, 0.6))
            rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
            model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
            return model

        def fit(self, hp, model, train, validation, callbacks=None, **options):
            return gk.training.fit_head(model, train, validation, epochs=2, **options)

    rows = np.arange(12)
    features = gk.training.Features(rng.normal(size=(12, 256)).astype("float32"), rows % 2, rows)
    options = {"directory": tmp_path, "project_name": "head"}
    tuner = keras_tuner.RandomSearch(Head(), objective="val_loss", max_trials=2, **options)
    tuner.search(features, features, verbose=0)
    [best] = tuner.get_best_hyperparameters()
    assert 0 <= best["dropout"] <= 0.6 and 1e-4 <= best["learning_rate"] <= 1e-2
    again = keras_tuner.RandomSearch(Head(), objective="val_loss", max_trials=2, **options)
    assert again.get_best_hyperparameters()[0].values == best.values and pathlib.Path(tmp_path, "head").is_dir()
