"""`genrekeras train` and `genrekeras audit` on small collections: output, cache, interruption, bad input."""

import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import time

import genrekeras as gk
import numpy as np
import pandas as pd
import processes
import pytest
import soundfile
from click.testing import CliRunner
from genrekeras import cli
from genrekeras.inference import features
from genrekeras.runs import collection, fine_tuning, head_scores
from genrekeras.utils.progress import printable
from mutagen.easyid3 import EasyID3
from small_training import small_network

MISLABELLED = os.fsdecode(b"Noise/Noise 3/Album/wrong \xff.mp3")  # not UTF-8


def write_track(path, kind, rng, genres=()):
    """Write 3.1 s of noise or of a chord, with tags."""
    time = np.arange(round(3.1 * 22050)) / 22050
    waveform = rng.standard_normal(len(time)) * rng.uniform(0.05, 0.2)
    if kind == "Chord":
        root = rng.uniform(150, 300)
        waveform = 0.02 * waveform + sum(0.1 * np.sin(2 * np.pi * root * ratio * time) for ratio in (1, 1.25, 1.5, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("new.mp3")  # soundfile cannot write a name that is not UTF-8
    soundfile.write(temporary, waveform, 22050, format="MP3", subtype="MPEG_LAYER_III")
    tags = EasyID3()
    tags.update(artist=path.parts[-3], album=f"{path.parts[-3]} album", genre=list(genres) or [path.parts[-4]])
    tags.save(temporary)
    temporary.rename(path)


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """A collection of two genres with 6 artists each, and a cache folder that later contains its features.

    A chord has the genre Noise. Two files cannot be read, and a third genre is rare.
    """
    folder, rng = tmp_path_factory.mktemp("collection"), np.random.default_rng(0)
    music = folder / "music"
    for kind in ("Chord", "Noise"):
        for artist in range(6):
            for track in range(2):
                genres = [kind, "Loud"] if artist % 3 == 0 else [kind]
                write_track(music / kind / f"{kind} {artist}" / "Album" / f"{track}.mp3", kind, rng, genres)
    write_track(music / MISLABELLED, "Chord", rng)
    write_track(music / "Ska" / "Ska 0" / "Album" / "0.mp3", "Chord", rng)
    (music / "Chord" / "Chord 0" / "Album" / "broken.mp3").write_bytes(b"no music" * 99)
    return music, folder / "cache"


@pytest.fixture
def music(materials, monkeypatch):
    monkeypatch.setenv("GENREKERAS_CACHE", str(materials[1]))
    return materials[0]


@pytest.fixture
def computed(monkeypatch):
    """List of the files whose features are computed."""
    paths, decode_tracks = [], features.decode_tracks

    def record(model, selected, *arguments):
        paths.extend(selected)
        return decode_tracks(model, selected, *arguments)

    monkeypatch.setattr(features, "decode_tracks", record)
    return paths


def call(*arguments, code=0):
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert result.exit_code == code and "Traceback" not in result.output, (result.output, result.exception)
    return result


def test_train(music, tmp_path):
    result = call("train", music, "-o", tmp_path / "run", "--min-tracks", 5, code=1)  # a file cannot be read
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"On artists not in training: 96 % \[\d\d, 99\], 25 tracks, 12 artists", lines[0])
    assert "Would more music help? Share of the artists in training, and accuracy:" in lines
    assert "Left out, with fewer than 5 tracks or only one artist: Ska (1 track)" in lines
    assert max(map(len, lines[:-2])) <= 80
    assert "Of 26 tracks, 1 cannot be read and are left out: Chord/Chord 0/Album/broken.mp3 (" in result.stderr

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["finished"] and config["collection"]["headline"] == lines[0]
    assert config["data"]["broken"].keys() == {"Chord/Chord 0/Album/broken.mp3"}
    page = (tmp_path / "run" / "report.html").read_text()
    for text in (lines[0], "Would more music help?", "Ska (1 track)", "broken.mp3", "cross-validation"):
        assert text in page
    assert str(music) not in (tmp_path / "run" / "card.json").read_text()
    assert "trained on other artists" in (tmp_path / "run" / "model_card.md").read_text()
    run = gk.reports.load_run(tmp_path / "run")
    assert run.reports["test_tracks"].accuracy == pytest.approx(24 / 25)
    assert [row["title"] for row in run.misclassified] == ["Noise 3: wrong \ufffd"]
    assert "wrong" in call("report", tmp_path / "run").stdout or (tmp_path / "run" / "report.html").exists()

    model = gk.load_model(tmp_path / "run" / "model.keras")
    assert model.thresholds.better_than_chance and model.thresholds.min_confidence
    table = model.predict_files([music / "Noise" / "Noise 1", music / "Chord" / "Chord 1"])
    assert table["genre"].tolist() == ["Noise"] * 2 + ["Chord"] * 2


def test_the_saved_model_predicts_as_the_scored_heads(music, tmp_path, monkeypatch):
    """The scores are those of mean probabilities of clips, as `predict_files` computes them."""
    heads, fit = [], collection.fit_linear_head
    monkeypatch.setattr(collection, "fit_linear_head", lambda *arguments: heads.append(fit(*arguments)) or heads[-1])
    with pytest.warns(UserWarning, match="1 cannot be read"):
        loaded = collection.load_collection(music, min_tracks=5)
    with pytest.warns(UserWarning, match="1 cannot be read"):
        result = collection.train_collection(music, tmp_path / "run", min_tracks=5)
    table = result.model.predict_files(list(loaded.split.tracks["path"]))
    logits = heads[0].logits(loaded.split.features) / result.model.thresholds.temperature
    expected = head_scores.mean_probabilities(logits, False)
    np.testing.assert_allclose(table[["probability_Chord", "probability_Noise"]], expected, atol=1e-4)


def test_later_calls_compute_only_new_files(music, tmp_path, computed):
    with pytest.warns(UserWarning, match="1 cannot be read"):
        collection.load_collection(music, min_tracks=5)
    computed.clear()
    new = music / "Noise" / "Noise 9" / "Album" / "new.mp3"
    try:
        write_track(new, "Noise", np.random.default_rng(5))
        with pytest.warns(UserWarning, match="1 cannot be read"):
            loaded = collection.load_collection(music, min_tracks=5)
    finally:
        shutil.rmtree(new.parents[1])
    assert {path.rpartition("/")[2] for path in computed} == {"broken.mp3", "new.mp3"}
    assert len(loaded.split) == 26


@pytest.mark.filterwarnings("ignore:Of 26 tracks")
def test_an_interrupted_run_and_other_folders(music, tmp_path, monkeypatch):
    output, function = tmp_path / "run", collection.cross_validate_head

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(collection, "cross_validate_head", interrupt)
    result = call("train", music, "-o", output, "--min-tracks", 5, code=1)
    assert "interrupted" in result.stderr and (output / "config.json").exists()
    monkeypatch.setattr(collection, "cross_validate_head", function)
    call("train", music, "-o", output, "--min-tracks", 5, code=1)
    assert json.loads((output / "config.json").read_text())["resumed"] == 1
    again = call("train", music, "-o", output, "--min-tracks", 5, code=1)
    assert f"must be a new or empty folder, but {output} contains files" in again.stderr
    failed = call("train", music, "-o", tmp_path / "other", "--min-tracks", 99, code=1)
    assert "at least two genres" in failed.stderr and not list((tmp_path / "other").glob("*.*"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--pretrained", "imagenet"], "The features of musicnn need pretrained weights"),
        (["--labels", "none.csv"], "`labels` must be"),
        (["--min-tracks", "99"], "Received: no such genre. Left out: Chord (13 tracks), Noise (13 tracks)"),
    ],
)
def test_bad_input(music, tmp_path, options, message):
    assert message in call("train", music, "-o", tmp_path / "run", *options, code=1).stderr
    assert message in call("audit", music, *options, code=1).stderr


@pytest.mark.filterwarnings("ignore:Of 26 tracks")
def test_audit(music, tmp_path):
    result = call("audit", music, "--min-tracks", 5, code=1)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("On artists not in training: 96 %")
    assert lines[1] == "1 of 25 tracks may have a wrong genre."
    assert (
        lines[2].startswith("   1. Noise (")
        and " -> Chord (" in lines[2]
        and lines[3].strip() == printable(MISLABELLED)
    )
    assert len(lines) == 4

    call("audit", music, "--min-tracks", 5, "-o", tmp_path / "audit.csv", code=1)
    table = pd.read_csv(tmp_path / "audit.csv", encoding_errors="surrogateescape", dtype={"path": object})
    assert len(table) == 25 and table["suspicious"].sum() == 1 and table["probability"].is_monotonic_increasing
    assert table.loc[0, ["path", "genre", "suggested"]].tolist() == [str(music / MISLABELLED), "Noise", "Chord"]

    call("audit", music, "--min-tracks", 5, "-o", tmp_path / "audit.html", code=1)
    page = (tmp_path / "audit.html").read_text()
    assert page.count("<audio ") == 1 and "../" in page and "Noise%203/Album/wrong%20%FF.mp3" in page


@pytest.mark.filterwarnings("ignore:Of 24 tracks")
def test_audit_of_random_genres(music, tmp_path):
    """Each artist has one track of each genre."""
    paths = [
        f"{kind}/{kind} {artist}/Album/{track}.mp3"
        for kind in ("Chord", "Noise")
        for artist in range(6)
        for track in (0, 1)
    ]
    (tmp_path / "genres.csv").write_text("path,genre\n" + "".join(f"{path},{'AB'[int(path[-5])]}\n" for path in paths))
    result = call("audit", music, "--labels", tmp_path / "genres.csv", "--min-tracks", 5)
    assert "Note: The model is not better than chance" in result.stderr
    assert "the suspicious tracks need not have a wrong genre" in result.stderr


@pytest.mark.filterwarnings("ignore:Of 26 tracks")
def test_genres_in_tags(music, tmp_path):
    result = call("train", music, "--labels", "tags", "-o", tmp_path / "run", "--min-tracks", 5)
    assert "% mAP [" in result.stdout.splitlines()[0] and "Loud" in result.stdout
    model = gk.load_model(tmp_path / "run" / "model.keras")
    assert model.multi_label and model.genres == ("Chord", "Loud", "Noise") and model.thresholds.class_thresholds
    page = (tmp_path / "run" / "report.html").read_text()
    assert "mAP is the mean average precision" in page
    listed = call("audit", music, "--labels", "tags", "--min-tracks", 5)
    assert "1. Noise (" in listed.stdout


@pytest.fixture
def small_training(monkeypatch):
    """`train` trains a small network for few epochs."""
    monkeypatch.setattr(collection, "_make_model", small_network)
    monkeypatch.setattr(fine_tuning, "EPOCHS", 2)


@pytest.mark.filterwarnings("ignore:Of 26 tracks", "ignore:The model is not better")
def test_all_layers(music, tmp_path, small_training):
    folder = tmp_path / "run"
    result = call("train", music, "-o", folder, "--min-tracks", 5, "--fine-tune", "all", code=1)
    lines = result.stdout.splitlines()
    assert re.match(r"On artists not in training: \d+ %.*, [3-7] tracks, [2-4] artists", lines[0])
    assert re.search(r"trained on 1\d tracks, and the epoch was chosen on [1-4] other tracks", " ".join(lines))
    assert "a model whose last layer only was trained has" in " ".join(lines) and "Epoch" not in result.stdout
    assert "Would more music help" not in result.stdout and max(map(len, lines[:-2])) <= 80
    assert not list(folder.glob("training.*"))
    page = (folder / "report.html").read_text()
    assert lines[0] in page and "The epoch was chosen on the validation clips" in page

    run = gk.reports.load_run(folder)
    assert run.config["finished"] and run.config["data"]["protocol"] == "artist_folds"
    assert not any(row["artists"] or row["albums"] or row["duplicates"] for row in run.config["data"]["leakage"])
    assert len(run.history["val_loss"]) == 2
    assert str(music) not in (folder / "card.json").read_text()
    report, paths = run.reports["test_tracks"], gk.datasets.load_folder(music, protocol="random").all.tracks["path"]
    model = gk.load_model(folder / "model.keras")
    assert not model.compiled and "optimizer" not in result.stderr
    table = model.predict_files(paths)
    predicted = dict(zip(table["path"], table["probability_Chord"], strict=True))
    tracks = collection.find_collection(music, min_tracks=5).tracks
    expected = [predicted[path] for path in tracks["path"].loc[report.track_ids]]
    np.testing.assert_allclose(report.probabilities[:, 0], expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Of 26 tracks", "ignore:The model is not better", "ignore:Genres with few clips")
def test_all_layers_with_several_genres(music, tmp_path, small_training):
    more = shutil.copytree(music, tmp_path / "more")
    for kind, artist in itertools.product(("Chord", "Noise"), range(6, 14)):
        genres = [kind, "Loud"] if artist % 2 else [kind]
        write_track(more / kind / f"{kind} {artist}" / "Album" / "0.mp3", kind, np.random.default_rng(artist), genres)
    options = ["--min-tracks", 5, "--labels", "tags", "--fine-tune", "all"]
    result = call("train", more, "-o", tmp_path / "run", *options)
    assert "% mAP" in result.stdout.splitlines()[0]
    assert gk.load_model(tmp_path / "run" / "model.keras").thresholds.class_thresholds


def test_too_few_artists_to_train_all_layers(music, tmp_path, small_training):
    few = tmp_path / "few"
    for kind in ("Chord", "Noise"):
        for artist in range(2):
            shutil.copytree(music / kind / f"{kind} {artist + 1}", few / kind / f"{kind} {artist + 1}")
    options = ["--min-tracks", 2, "--fine-tune", "all"]
    error = call("train", few, "-o", tmp_path / "run", *options, code=1).stderr
    assert "there are too few artists for a training, a validation and a test split" in error


def test_all_layers_killed_and_resumed(music, tmp_path):
    """By SIGKILL within an epoch; bit for bit, on torch."""

    def start(folder):
        flags = ["train", music, "-o", folder, "--min-tracks", "5", "--fine-tune", "all"]
        log.write_text("")
        return processes.start(pathlib.Path(__file__).parent / "small_training.py", *flags, stdout=log, stderr=log)

    log, folders = tmp_path / "log", [tmp_path / "uninterrupted", tmp_path / "killed"]
    assert processes.wait(start(folders[0]), 300) == 1, log.read_text()  # a file cannot be read
    process = start(folders[1])
    while process.exitcode is None and "Epoch 2/3" not in log.read_text():
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert processes.wait(process, 300) == -signal.SIGKILL, log.read_text()
    assert (folders[1] / "training.state.npz").exists() and not (folders[1] / "model.keras").exists()
    assert processes.wait(start(folders[1]), 300) == 1 and "Epoch 1/3" not in log.read_text(), log.read_text()
    assert set(os.listdir(folders[0])) == set(os.listdir(folders[1]))
    for name in ("history.csv", "test_tracks.json", "misclassified.csv"):
        assert (folders[0] / name).read_text() == (folders[1] / name).read_text()
    weights = [gk.load_model(folder / "model.keras").get_weights() for folder in folders]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
