"""The five experiments of 2023, mfcc_svm.py, musicnn_transfer.py, train_ensemble.py, and the output folder of a run."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import genrekeras as gk
import keras
import numpy as np
import processes
import pytest
import soundfile
from conftest import EXPERIMENTS, SMALL_EXPERIMENT, numpy, run_in_process, write_fma, write_sine

pytestmark = pytest.mark.experiments

SPLITS = ("validation", "test")
FILES = {"config.json", "metrics.json", "misclassified.csv", "report.html"}
FILES |= {f"{split}.json" for split in SPLITS} | {f"confusion_{split}.png" for split in SPLITS}
NETWORK_FILES = {*FILES, "model.keras", "history.csv", "learning_curves.png", "card.json", "model_card.md"}
NETWORK_FILES |= {f"{split}_tracks{kind}.json" for split in SPLITS for kind in ("", "_uncalibrated")}
NETWORK_FILES |= {f"confusion_{split}_tracks.png" for split in SPLITS}
SMALL = ["--smoke", "--pretrained", "none"]


def read_json(path):
    return json.loads(path.read_text())


class RecordingRun:
    """Replaces `Run` and its model, and records what an experiment asks for."""

    flags = types.SimpleNamespace(seed=3)

    def __init__(self):
        self.asked = {}

    def classifier(self, backbone, dropout, waveform_augmentation=(), image_augmentation=()):
        augmentation = [type(layer).__name__ for layer in (*waveform_augmentation, *image_augmentation)]
        self.asked |= {"backbone": backbone, "dropout": dropout, "augmentation": augmentation}
        return self

    def compile(self, optimizer, loss, metrics):
        self.asked["optimizer"] = type(optimizer).__name__

    def train(self, model, callbacks=()):
        self.asked["decay"] = [(callback.factor, callback.every) for callback in callbacks]

    def evaluate(self):
        pass


@pytest.mark.parametrize(
    "name, backbone, dropout, augmented, optimizer, decays",
    [
        ("resnet50_baseline", "resnet50", 0.0, False, "RMSprop", False),
        ("resnet50_augmented", "resnet50", 0.0, True, "Adam", True),
        ("efficientnet_augmented", "efficientnet_b0", 0.0, True, "Adam", True),
        ("efficientnet_dropout_augmented", "efficientnet_b0", 0.5, True, "Adam", True),
        ("efficientnet_dropout", "efficientnet_b0", 0.5, False, "Adam", True),
    ],
)
def test_settings_of_the_experiments_of_2023(name, backbone, dropout, augmented, optimizer, decays, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    run = RecordingRun()
    importlib.import_module(name).main(run)
    assert run.asked == {
        "backbone": backbone,
        "dropout": dropout,
        "augmentation": ["PowerGain", "ImageNoise"] if augmented else [],
        "optimizer": optimizer,
        "decay": [(0.1, 10)] if decays else [],
    }


def check_folder(folder, stdout, cache, tolerance=1e-5):
    """Check the output of a smoke test on the synthetic corpus."""
    assert "SYNTHETIC" in stdout.splitlines()[0] and "To do:   2 epochs of 2 steps" in stdout
    assert set(os.listdir(folder)) - {"wandb"} == NETWORK_FILES
    config = read_json(folder / "config.json")
    assert config["data"]["counts"]["broken"] == 2 and config["backend"] == "torch" and config["flags"]["seed"] == 0
    metrics = read_json(folder / "metrics.json")
    assert all(sum(row) > 0 for row in metrics["validation"]["confusion_matrix"])  # each genre has a clip
    assert metrics["validation"]["clips"] == 32 and metrics["validation"]["protocol"] == "official"
    model = keras.saving.load_model(folder / "model.keras")
    assert len(model.genres) == 8 and model.genres[0].startswith("Synthetic")
    card = model.card
    assert card["data"]["counts"]["broken"] == 2 and card["training"]["epochs"] == 2
    assert str(folder) not in json.dumps(dict(card))  # the card is published with the model
    accuracies = {(score["split"], score["input_coverage"]): score["accuracy"] for score in card["scores"]}
    assert accuracies["test", "first 1 s"] == metrics["test"]["accuracy"]
    assert accuracies["test", "3 crops of 1 s (even)"] == metrics["test_tracks"]["accuracy"]
    saved = read_json(folder / "test_tracks.json")
    data = gk.datasets.load_synthetic(cache_dir=cache).test
    split = data.select([list(data.track_ids).index(track_id) for track_id in saved["track_ids"]])
    report = gk.evaluation.evaluate(model, split, crop="even", crops=3)
    np.testing.assert_allclose(report.probabilities, saved["probabilities"], atol=tolerance)
    assert "accuracy on 32 test clips" in (folder / "report.html").read_text()
    return config


def test_output_folder(finished_run, synthetic_cache):
    assert finished_run.code == 0, finished_run.stderr
    config = check_folder(finished_run.folder, finished_run.stdout, synthetic_cache)
    assert config["finished"] and "inner_optimizer" not in config["optimizer"]


@pytest.mark.parametrize(
    "precision",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],  # slow on a CPU
)
def test_mixed_precision_and_wandb(precision, synthetic_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = [*SMALL, "--precision", precision, "--wandb", "--output", tmp_path / "r"]
    done = run_in_process(SMALL_EXPERIMENT, *flags, cache=synthetic_cache)
    assert done.code == 0, done.stderr
    assert f"The W&B run is in {tmp_path / 'r' / 'wandb'}" in done.stdout and (tmp_path / "r" / "wandb").is_dir()
    [logged] = (tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb")
    assert b"batch_size" in logged.read_bytes() and b"working_directory" not in logged.read_bytes()
    tolerance = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[precision]
    config = check_folder(tmp_path / "r", done.stdout, synthetic_cache, tolerance)
    assert ("inner_optimizer" in config["optimizer"]) == (precision == "mixed_float16")  # it scales the loss


def test_features_of_a_frozen_backbone_are_computed_once(synthetic_cache, tmp_path):
    flags = [*SMALL, "--fine-tune", "head", "--seed", "5", "--output"]  # no other test caches features of this seed
    first = run_in_process(SMALL_EXPERIMENT, *flags, tmp_path / "r", cache=synthetic_cache)
    assert first.code == 0, first.stderr
    assert "features of 4 augmented variants of each clip are computed once" in first.stdout
    assert "Features of train" in first.stderr and set(os.listdir(tmp_path / "r")) >= NETWORK_FILES
    second = run_in_process(SMALL_EXPERIMENT, *flags, tmp_path / "s", cache=synthetic_cache)
    assert second.code == 0 and "Features of" not in second.stderr
    histories = [(tmp_path / name / "history.csv").read_text() for name in "rs"]
    assert histories[0] == histories[1]


def test_fma_without_validation_clips(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (3, "Pop", "training"), (1000, "Folk", "training")])
    flags = ["--data-dir", folder, *SMALL, "--output", tmp_path / "r"]
    done = run_in_process(SMALL_EXPERIMENT, *flags, cache=tmp_path)
    assert done.code == 0, done.stderr
    assert "the validation split is empty" in done.stdout and "Nothing was scored" in done.stdout
    assert "SYNTHETIC" not in done.stdout
    model = keras.saving.load_model(tmp_path / "r" / "model.keras")
    assert model.genres == gk.GENRES
    assert numpy(model.optimizer.iterations) == 2  # of the last epoch


def test_music_in_one_folder_per_genre(tmp_path):
    for genre, count in (("Noise", 12), ("Sine", 5)):
        for i in range(count):
            path = tmp_path / "music" / genre / f"album {i}" / "one.wav"
            path.parent.mkdir(parents=True)
            write_sine(path, 300 + 50 * i + 7 * len(genre), seconds=2.5, rate=22050)
    flags = ["--data-dir", tmp_path / "music", *SMALL, "--output", tmp_path / "r"]
    done = run_in_process(SMALL_EXPERIMENT, *flags, cache=tmp_path / "cache")
    assert done.code == 0, done.stderr
    assert "music, 2 genres, protocol artist_album" in done.stdout and "SYNTHETIC" not in done.stdout
    assert "unequal numbers of clips (largest: Noise, 10; smallest: Sine, 3)" in done.stdout
    assert keras.saving.load_model(tmp_path / "r" / "model.keras").genres == ("Noise", "Sine")
    flags = ["--data-dir", tmp_path / "music", "--output", tmp_path / "s"]
    done = run_in_process(EXPERIMENTS / "mfcc_svm.py", *flags, cache=tmp_path / "cache")
    assert done.code == 0, done.stderr
    assert read_json(tmp_path / "s" / "metrics.json")["test"]["clips"] == 2


def test_mfcc_svm(synthetic_cache, tmp_path):
    flags = ["--smoke", "--output", tmp_path / "r"]
    done = run_in_process(EXPERIMENTS / "mfcc_svm.py", *flags, cache=synthetic_cache)
    assert done.code == 0, done.stderr
    assert read_json(tmp_path / "r" / "metrics.json")["validation"]["accuracy"] > 0.8  # the genres differ clearly
    assert set(os.listdir(tmp_path / "r")) == FILES


def test_musicnn_transfer(tmp_path, rng):
    for genre in ("Noise", "Sine"):
        (tmp_path / "music" / genre).mkdir(parents=True)
        for i in range(5):
            path = write_sine(tmp_path / "music" / genre / f"{i}.wav", 300 + 50 * i, seconds=3.1, rate=16000)
            if genre == "Noise":
                soundfile.write(path, rng.uniform(-0.5, 0.5, 49600), 16000)
    flags = ["--data-dir", tmp_path / "music", "--smoke", "--output", tmp_path / "model.keras"]
    done = run_in_process(EXPERIMENTS / "musicnn_transfer.py", *flags, cache=tmp_path / "cache")
    assert done.code == 0, done.stderr
    assert "not calibrated: 2 validation songs" in done.stdout
    assert "test (artist_album protocol, 2 clips, first 3.008 s): accuracy 100.0 %" in done.stdout
    model = gk.load_model(tmp_path / "model.keras")
    assert (model.genres, model.pretrained, model.sample_rate) == (("Noise", "Sine"), "msd", 16000)
    table = model.predict_files(tmp_path / "music")
    assert [pathlib.Path(path).parent.name for path in table["path"]] == table["genre"].tolist()


@pytest.mark.slow
def test_musicnn_transfer_on_the_synthetic_corpus(synthetic_cache, tmp_path):
    flags = ["--output", tmp_path / "model.keras"]
    done = run_in_process(EXPERIMENTS / "musicnn_transfer.py", *flags, cache=synthetic_cache)
    assert done.code == 0, done.stderr
    accuracy = float(done.stdout.split("40 clips, first 3.008 s): accuracy ")[1].split()[0])
    thresholds = gk.load_model(tmp_path / "model.keras").thresholds
    assert accuracy > 90 and thresholds.better_than_chance and thresholds.max_ood_score


def test_learning_curves(monkeypatch, rng):
    """The accuracy rises with the number of training clips, and is at chance if the features are random."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "ablations")
    script = importlib.import_module("learning_curves")
    labels = np.repeat(np.arange(3), 26)
    noise = rng.normal(size=(78, 20))
    means = script.learning_curves(noise + 3 * np.eye(3, 20)[labels], labels, draws=10).mean(axis=0)
    assert means.shape == (5,) and means[0] < 0.8 and means[-1] > 0.9
    assert abs(script.learning_curves(noise, labels, draws=10).mean() - 1 / 3) < 0.15


@pytest.mark.slow
def test_learning_curves_of_the_synthetic_corpus(synthetic_cache):
    done = run_in_process(EXPERIMENTS / "ablations" / "learning_curves.py", "--draws", "2", cache=synthetic_cache)
    assert done.code == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| musicnn", "| efficientnet"))]
    assert len(rows) == 5 and all("100.0 [" in row for row in rows[:2])


def test_each_artist_is_in_one_fold(synthetic_cache, tmp_path):
    flags = ["--smoke", "--protocol", "artist_folds", "--output", tmp_path / "r"]
    done = run_in_process(EXPERIMENTS / "mfcc_svm.py", *flags, cache=synthetic_cache)
    assert done.code == 0, done.stderr
    folder = tmp_path / "r"
    pooled = json.loads((folder / "test_tracks.json").read_text())
    folds = [json.loads((folder / f"fold-{fold}" / "test.json").read_text()) for fold in range(5)]
    assert pooled["split"] == "cross-validation" and pooled["protocol"] == "artist_folds"
    assert pooled["track_ids"] == [track_id for fold in folds for track_id in fold["track_ids"]]
    assert pooled["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in folds]))  # 32 clips each
    artists = [set(fold["groups"]) for fold in folds]
    assert sum(map(len, artists)) == len(set.union(*artists))
    assert "cross-validation" in (folder / "report.html").read_text() and "cross-validation" in done.stdout

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "finished": False}))
    shutil.rmtree(folder / "fold-3")
    resumed = run_in_process(EXPERIMENTS / "mfcc_svm.py", "--resume", folder, cache=synthetic_cache)
    assert resumed.code == 0, resumed.stderr
    assert "Fold 4 of 5" in resumed.stdout and "Fold 3 of 5" not in resumed.stdout
    assert json.loads((folder / "test_tracks.json").read_text()) == pooled


@pytest.fixture
def ensemble_flags(spectrograms, tmp_path):
    """The flags of train_ensemble.py for 48 tracks of 24 artists, with embeddings."""
    artists, embeddings = tmp_path / "artists.csv", tmp_path / "vggish.npz"
    artists.write_text(
        "track_id,artist_id\n" + "".join(f"{track},{track // 16 * 8 + track % 8}\n" for track in range(48))
    )
    values = np.random.default_rng(0).normal(np.arange(48)[:, None] % 8, 0.1, (48, 4))
    np.savez(embeddings, track_id=np.arange(48), vggish=values.astype("float32"))
    return ["--spectrograms", spectrograms, "--groups", artists, "--vggish", embeddings]


def test_train_ensemble(ensemble_flags, tmp_path):
    script, folder = EXPERIMENTS / "train_ensemble.py", tmp_path / "r"
    done = run_in_process(script, *ensemble_flags, "--smoke", "--output", folder)
    assert done.code == 0, done.stderr
    assert "artist_folds protocol, 48 clips, 128 frames of each" in done.stdout
    assert str(tmp_path) not in (folder / "card.json").read_text()
    model = keras.saving.load_model(folder / "model.keras")
    assert model.backbone == ("mel_cnn", "mel_resnet") and model.input_shape == (None, 1_321_967)
    [score] = model.card["scores"]
    assert score["split"] == "cross-validation" and score["input_coverage"] == "128 frames of each"
    assert model.card["calibration"]["on"]["clips"] == 48
    files = {"report.html", "model_card.md", "mel_cnn.keras", "mel_resnet.keras", "model_half.keras"}
    assert files < set(os.listdir(folder))
    half = keras.saving.load_model(folder / "model_half.keras")
    assert dict(half.card) == dict(model.card) and "for research" in half.card["about"]
    assert half.card["training"]["epochs"] == {"mel_cnn": 2, "mel_resnet": 2} and half.card["training"]["epochs_fixed"]
    text = (folder / "model_card.md").read_text()
    assert "The calibration was chosen on the other folds" in text and "penalty" not in text


def test_text_about_the_recipe_of_the_preset(monkeypatch):
    """The scores on the card are those of fold 5 in the stored results."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.syspath_prepend(EXPERIMENTS / "ablations")
    table, script = importlib.import_module("cross_validation_table"), importlib.import_module("train_ensemble")
    [result] = table.read_all(table.RESULTS)["ensemble_teacher", "artist_folds"]
    assert "On the 1,432 tracks of fold 5" in script.about_the_recipe(result)
    assert script.about_the_recipe(result) in gk.GenreClassifier.from_preset("fma_small").card["about"]


@pytest.mark.slow
def test_train_ensemble_keeps_finished_folds(ensemble_flags, tmp_path):
    script, folder = EXPERIMENTS / "train_ensemble.py", tmp_path / "r"
    done = run_in_process(script, *ensemble_flags[:4], "--smoke", "--output", folder)
    assert done.code == 0, done.stderr
    config, scores = read_json(folder / "config.json"), (folder / "test_tracks.json").read_text()
    assert not any(network["teacher"] for network in config["networks"])
    (folder / "config.json").write_text(json.dumps({**config, "finished": False}))
    os.remove(folder / "folds" / "mel_cnn" / "fold-2.json")
    resumed = run_in_process(script, "--resume", folder)
    assert resumed.code == 0, resumed.stderr
    assert "Fold 3 of 5" in resumed.stderr and "Fold 2 of 5" not in resumed.stderr
    assert (folder / "test_tracks.json").read_text() == scores


def test_train_ensemble_refuses_files(ensemble_flags, tmp_path):
    script, output = EXPERIMENTS / "train_ensemble.py", ["--output", tmp_path / "r"]
    wrong = run_in_process(script, *output)
    assert wrong.code == 2 and "--spectrograms is required" in wrong.stderr
    wrong = run_in_process(script, "--spectrograms", ensemble_flags[3], *output)
    assert wrong.code == 1 and "must be an npz file" in wrong.stderr and "Traceback" not in wrong.stderr
    np.savez(tmp_path / "few.npz", track_id=np.arange(40), vggish=np.zeros((40, 4)))
    wrong = run_in_process(script, *ensemble_flags[:4], "--vggish", tmp_path / "few.npz", *output)
    assert wrong.code == 1 and "few.npz has no embeddings of 8 tracks, such as 40" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["efficientnet_dropout", "efficientnet_augmented", "resnet50_augmented", "resnet50_baseline"]
)
def test_experiment_of_2023_in_a_process(name, synthetic_cache, tmp_path):
    command = [sys.executable, EXPERIMENTS / f"{name}.py", *SMALL, "--output", tmp_path / "r"]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "GENREKERAS_CACHE": str(synthetic_cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    check_folder(tmp_path / "r", done.stdout, synthetic_cache)


@pytest.mark.slow
def test_a_seed_gives_the_same_history_with_new_and_with_existing_data(synthetic_cache, tmp_path):
    """In two processes, bit for bit, on torch."""
    shutil.copytree(
        synthetic_cache / "synthetic-2", tmp_path / "synthetic-2", ignore=shutil.ignore_patterns("prepared")
    )
    flags = [*SMALL, "--seed", "7", "--output"]
    histories = []
    for name in ("new", "existing"):
        script = EXPERIMENTS / "efficientnet_dropout.py"
        done = processes.run(script, *flags, tmp_path / name, GENREKERAS_CACHE=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert ("Decoding clips" in done.stderr) == (name == "new")
        histories.append((tmp_path / name / "history.csv").read_text())
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_without_imagenet_weights(synthetic_cache, tmp_path):
    """With an empty cache of Keras, and a proxy that does not exist."""
    proxy = "http://127.0.0.1:9"
    environment = {"KERAS_HOME": str(tmp_path / "keras"), "https_proxy": proxy, "http_proxy": proxy}
    environment["GENREKERAS_CACHE"] = str(synthetic_cache)
    script = EXPERIMENTS / "efficientnet_dropout.py"
    done = processes.run(script, "--smoke", "--output", tmp_path / "r", **environment)
    assert done.returncode == 0, done.stderr
    assert "WITHOUT PRETRAINED WEIGHTS: all layers of efficientnet_b0 are trained from random weights" in done.stdout
    config = read_json(tmp_path / "r" / "config.json")
    assert config["model"]["pretrained"] is None and config["model"]["fine_tune"] == "all"

    flags = ["--smoke", "--pretrained", "imagenet", "--output", tmp_path / "s"]
    failed = processes.run(script, *flags, **environment)
    assert failed.returncode == 1 and "imagenet" in failed.stderr and "Traceback" not in failed.stderr
