"""The command line, as a user calls it."""

import csv
import dataclasses
import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile

import filelock
import genrekeras as gk
import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import add_all_genres, calibrate, small_model, tones, write_fma, write_sine
from genrekeras import __main__, inference, tags
from genrekeras.cli import main
from genrekeras.datasets.fma.download import BASE_URL, DownloadError
from genrekeras.evaluation import Calibration, MultiLabelReport, Report
from genrekeras.inference import predict
from genrekeras.models.presets import preset_file


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def folder(tmp_path):
    return write_fma(
        tmp_path / "my fma", [(2, "Rock", "training"), (1001, "Pop", "validation"), (1002, "Folk", "test")]
    )


def test_download(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("genrekeras.datasets.fma.download", lambda *arguments: calls.append(arguments))
    folder = str(tmp_path / "my fma")
    first = run("fma", "download", folder, "--base-url", "http://mirror", "--only", "metadata")
    assert f"fma_metadata is complete. Next: genrekeras fma check '{folder}'" in first.stdout
    second = run("fma", "download", folder, "--subset", "large", "--remove-archives")
    assert "fma_large is complete." in second.stdout
    assert calls == [
        (folder, "small", ["metadata"], "http://mirror", False),
        (folder, "large", ["metadata", "audio"], BASE_URL, True),
    ]

    def fail(*arguments):
        raise DownloadError("http://mirror cannot be reached")

    monkeypatch.setattr("genrekeras.datasets.fma.download", fail)
    assert "Error: http://mirror cannot be reached" in run("fma", "download", folder, code=1).stderr


def test_check(folder, tmp_path):
    os.remove(folder / "fma_small" / "001" / "001001.mp3")
    write_sine(folder / "fma_small" / "000" / "000004.mp3", 440)
    result = run("fma", "check", folder, "--csv", tmp_path / "clips.csv", code=1)
    assert "NOT A COMPLETE fma_small: 1 clips are missing" in result.stdout
    assert "Note: " in result.stdout and "1 files have no row" in result.stdout
    table = pd.read_csv(tmp_path / "clips.csv", index_col="track_id")
    assert table["state"].to_dict() == {2: "ok", 1001: "missing", 1002: "ok"}
    assert table.loc[2, "seconds"] == pytest.approx(3, abs=0.1)


def test_build(folder, tmp_path):
    result = run("fma", "build", folder, "--sample-rate", 16000, "--prepared-dir", tmp_path / "p")
    assert "1 training, 1 validation, 1 test clips at 16000 Hz" in result.stdout
    assert "Artists, albums and sounds that splits share" in result.stdout and (tmp_path / "p").is_dir()
    (tmp_path / "file").write_text("in the way")
    assert "Error: " in run("fma", "build", folder, "--prepared-dir", tmp_path / "file" / "p", code=1).stderr


def test_build_with_beam(folder, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam (extra `beam`) is not installed")
    result = run("fma", "build", folder, "--prepared-dir", tmp_path / "p", "--beam", "--runner=DirectRunner")
    assert "1 training, 1 validation, 1 test clips" in result.stdout


def test_warnings_are_notes(folder):
    (folder / "fma_small" / "001" / "001001.mp3").write_bytes(b"")
    result = run("fma", "build", folder)
    assert "Note: " in result.stderr and "1 cannot be read: fma_small/001/001001.mp3 (empty" in result.stderr


def test_interrupt(folder, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("genrekeras.datasets.fma.check", interrupt)
    result = run("fma", "check", folder, code=1)
    assert "Error: interrupted. Output that was already written is kept" in result.stderr


def test_help_and_version():
    commands = run("--help").stdout
    assert re.search(r"\n  fma +Download and prepare the FMA dataset", commands)
    assert re.search(r"\n  predict +Predict the genre of audio files", commands)
    for command in ("download", "check", "build", "spectrograms"):
        assert "FOLDER" in run("fma", command, "--help").stdout
    assert "genrekeras, version 0" in run("--version").stdout
    assert "No such command" in run("spoon", code=2).stderr


@pytest.mark.slow
def test_predict_without_standard_streams(saved, music, tmp_path):
    """A service may start with closed streams."""
    call = f"{shlex.quote(sys.executable)} -m genrekeras predict {shlex.quote(str(music))} -m {shlex.quote(str(saved))}"
    subprocess.run(f"{call} -o {tmp_path}/g.csv <&- >&- 2>&-", shell=True, check=True)
    assert len(pd.read_csv(tmp_path / "g.csv")) == 3
    done = subprocess.run(f"{call} --json 2>&-", shell=True, check=True, capture_output=True, text=True)
    assert len(json.loads(done.stdout)) == 3


@pytest.mark.slow
def test_module_in_a_process(tmp_path):
    """Exit code, and an error without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "genrekeras", "fma", "check", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: `data_dir` is not a folder")  # after messages of TensorFlow


@pytest.fixture(scope="module")
def saved(one_second_model, tmp_path_factory):
    """The file of `one_second_model`."""
    path = tmp_path_factory.mktemp("model") / "genre.keras"
    one_second_model.save(path)
    return path


def test_predict(saved, music):
    done = run("predict", music, "--model", saved, "--top", 2)
    lines = done.stdout.splitlines()
    assert len(lines) == 9 and lines[0] == f"{music / 'a.ogg'}   (4 s)" and "█" in lines[1]
    genre, share, *_ = lines[1].split()
    assert genre in gk.GENRES and share.endswith("%")

    table = pd.read_csv(io.StringIO(run("predict", music, "-m", saved, "--csv").stdout))
    rows = json.loads(run("predict", music, "-m", saved, "--json").stdout)
    assert [row["path"] for row in rows] == list(table["path"])
    expected = keras.saving.load_model(saved).predict_files(music)
    assert list(expected["path"]) == list(table["path"])
    for genre in gk.GENRES:
        column = f"probability_{genre}"
        np.testing.assert_allclose(table[column], expected[column], rtol=1e-5)
        np.testing.assert_allclose([row[column] for row in rows], expected[column], rtol=1e-5)
    assert table["genre"][0] == lines[1].split()[0] and rows[0]["error"] is None
    assert list(rows[0]) == list(table.columns) == list(expected.columns)
    assert "--csv and --json exclude each other" in run("predict", music, "--csv", "--json", code=2).stderr


def test_predict_reports_unreadable_files(saved, music):
    (music / "text.mp3").write_text("no music")
    done = run("predict", music, "-m", saved, code=1)
    assert "could not be read: not audio" in done.stdout and "1 of 4 files could not be read." in done.stderr
    done = run("predict", music, "-m", saved, "--csv", code=1)
    assert "text.mp3: not audio" in done.stderr and len(done.stdout.splitlines()) == 5
    rows = json.loads(run("predict", music, "-m", saved, "--json", code=1).stdout)
    assert rows[3]["genre"] is None and rows[3]["probability"] is None and "not audio" in rows[3]["error"]


def test_predict_a_file_name_that_is_not_utf8(saved, music):
    name = os.path.join(os.fsencode(music), b"latin-1 \xe9.ogg")
    with open(name, "wb") as file:
        file.write((music / "a.ogg").read_bytes())
    options = [os.fsdecode(name), "-m", saved]
    assert b"latin-1 \\xe9.ogg" in run("predict", *options).stdout_bytes
    assert b"latin-1 \xe9.ogg" in run("predict", *options, "--csv").stdout_bytes
    assert b"latin-1 \\udce9.ogg" in run("predict", *options, "--json").stdout_bytes


def test_entry_point_without_standard_streams(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["genrekeras", "--version"])
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as stopped:
        __main__.run()
    for stream in (sys.stdout, sys.stderr):
        assert stream.name == os.devnull
        stream.close()
    assert stopped.value.code == 0


def test_predict_to_a_file_processes_only_what_is_new(saved, music, tmp_path, monkeypatch):
    """After an interrupt, and after a call that was finished."""
    output, read = tmp_path / "genres.csv", []
    original = predict.predict_each
    monkeypatch.setattr(
        predict, "predict_each", lambda m, paths, *args: read.extend(paths) or original(m, paths, *args)
    )
    keras.saving.load_model(saved).predict_files(music / "a.ogg", journal=f"{output}.journal")
    run("predict", music, "-m", saved, "-o", output)
    assert read == inference.find_files(music)
    whole = pd.read_csv(output)
    read.clear()
    run("predict", music, "-m", saved, "-o", output)
    assert not read and pd.read_csv(output).equals(whole)
    (music / "new.ogg").write_bytes((music / "a.ogg").read_bytes())
    run("predict", music, "-m", saved, "-o", output)
    assert read == [str(music / "new.ogg")] and len(pd.read_csv(output)) == 4
    done = run("predict", music, "-m", saved, "-o", output, "--max-clips", 1)
    assert "Note: " in done.stderr and "All of its rows are removed" in done.stderr
    assert pd.read_csv(output)["seconds"].tolist() == [1.0] * 4
    (tmp_path / "genres.csv.journal").write_bytes(b"\x00\xff")
    done = run("predict", music, "-m", saved, "-o", output, code=1)
    assert f"{output}.journal is not a journal of predictions" in done.stderr
    with filelock.FileLock(f"{output}.journal.lock"):
        done = run("predict", music, "-m", saved, "-o", output, code=1)
    assert f"Error: Another process is using {output}.journal" in done.stderr


def test_predict_with_a_wrong_output(saved, music, tmp_path, monkeypatch):
    assert "must end in .csv or .json" in run("predict", music, "-m", saved, "-o", "x.txt", code=2).stderr
    assert "does not exist" in run("predict", music, "-m", saved, "-o", tmp_path / "no" / "x.csv", code=2).stderr
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert "is not writable" in run("predict", music, "-m", saved, "-o", tmp_path / "x.csv", code=2).stderr


def test_predict_with_a_wrong_call(saved, music, tmp_path):
    (tmp_path / "texts").mkdir()
    assert "contains no audio files (0 other files)" in run("predict", tmp_path / "texts", "-m", saved, code=1).stderr
    assert "Missing argument" in run("predict", "-m", saved, code=2).stderr
    wrong = run("predict", music, "-m", tmp_path / "x.keras", code=2).stderr
    assert "There is no model file" in wrong and "(musicnn_msd, musicnn_mtt, fma_small), a .keras, .onnx" in wrong
    assert "or the output folder of a training run" in wrong
    assert f"There is no model file {tmp_path}/model.keras" in run("info", tmp_path, code=2).stderr
    (tmp_path / "text.keras").write_text("no model")
    assert "cannot be loaded as a model" in run("predict", music, "-m", tmp_path / "text.keras", code=1).stderr
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as file:
        file.writestr("config.json", "{}")
    assert "cannot be loaded as a model" in run("predict", music, "-m", tmp_path / "zip.keras", code=1).stderr
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    assert "contains a Sequential, not a GenreClassifier" in run("info", tmp_path / "other.keras", code=1).stderr


def test_info(saved, tmp_path):
    shown = run("info", saved, "--card", tmp_path / "card.md").stdout
    for part in ("MiB", "mel_cnn", "1 s at 22050 Hz", "MelSpectrogram(sample_rate=22050", "Hip-Hop, Pop, Folk"):
        assert part in shown
    lines = shown.splitlines()[1:]
    assert max(map(len, lines)) <= 80
    [column] = {
        line.index(text) for line in lines for text in ("mel_cnn", "PowerToDecibels", "Hip-Hop") if text in line
    }
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
    assert "were not saved with the model" in shown
    assert "The model was not calibrated" in (tmp_path / "card.md").read_text()


def test_model_is_a_preset_a_file_or_the_folder_of_a_run(saved, one_second_model, music, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_bytes(saved.read_bytes())
    (tmp_path / "fma_small").mkdir()  # the preset comes first
    monkeypatch.chdir(tmp_path)
    by_folder, by_file = (run("predict", music, "-m", model).stdout for model in ("run", saved))
    assert by_folder == by_file
    assert run("info", "run").stdout.startswith("run/model.keras: ")
    preset = run("info").stdout
    assert preset.startswith(preset_file("musicnn_msd")) and "Million Song Dataset" in preset
    assert max(map(len, preset.splitlines()[1:])) <= 80
    monkeypatch.setattr("genrekeras.cli.models.load_model", lambda path: one_second_model)
    assert run("info", "fma_small").stdout.startswith(preset_file("fma_small"))


def test_tracks_of_low_confidence(music, tmp_path):
    """Each format has the reason."""
    small_model(thresholds={"min_confidence": 1.01}).save(tmp_path / "m.keras")  # above any probability
    options = [music / "a.ogg", "-m", tmp_path / "m.keras"]
    done = run("predict", *options)
    assert "a.ogg   (4 s, low confidence: low probability)\n" in done.stdout
    [row] = json.loads(run("predict", *options, "--json").stdout)
    table = pd.read_csv(io.StringIO(run("predict", *options, "--csv").stdout))
    for low_confidence, reason in ((row["low_confidence"], row["reason"]), *table[["low_confidence", "reason"]].values):
        assert low_confidence is True and reason == "low probability"


def test_warnings_about_a_file_are_shown(saved, music, monkeypatch):
    original = predict.decode_tracks

    def decode_with_warnings(*arguments):
        for track in original(*arguments):
            yield dataclasses.replace(track, warning="only 4 of 9 s could be\x1b decoded")

    monkeypatch.setattr(predict, "decode_tracks", decode_with_warnings)
    done = run("predict", music / "a.ogg", "-m", saved)
    assert done.stdout.splitlines()[1] == r"  warning: only 4 of 9 s could be\x1b decoded"
    [row] = json.loads(run("predict", music / "a.ogg", "-m", saved, "--json").stdout)
    assert row["warning"] == "only 4 of 9 s could be\x1b decoded" and row["error"] is None
    found = keras.saving.load_model(saved).embed_files(music / "a.ogg")
    assert found.files["warning"].tolist() == [row["warning"]]


def test_control_characters_in_names_and_genres(music, tmp_path):
    """Text has them escaped; CSV has one row per file with any reader; JSON has them unchanged."""
    genres = ("\x1b[31mred\n", 'a,"b";\r\nc', "<b>bold</b>", "'=1+1")
    calibrate(small_model(genres=genres), tones(np.random.default_rng(3), 8, 22050)).save(tmp_path / "m.keras")
    names = ["a $x_$.ogg", "b \r.ogg", "c \x1b]0;title\x07.ogg", 'd\n"e", f.ogg', "g \x9b31m.ogg"]
    (tmp_path / "odd").mkdir()
    for name in names:
        (tmp_path / "odd" / name).write_bytes((music / "a.ogg").read_bytes())
    (tmp_path / "odd" / "no\x1b[2J.mp3").write_text("no music")
    paths = [str(tmp_path / "odd" / name) for name in sorted([*names, "no\x1b[2J.mp3"])]
    options = [tmp_path / "odd", "-m", tmp_path / "m.keras"]
    texts = run("predict", *options, code=1)
    printed = [
        texts.stdout,
        run("similar", paths[0], *options, code=1).stdout,
        run("info", tmp_path / "m.keras").stdout,
    ]
    printed += [run("timeline", paths[0], "-m", tmp_path / "m.keras").stdout]
    for text in printed:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert len(texts.stdout.splitlines()) == 5 * 4 + 2 and r"b \r.ogg   (4 s)" in texts.stdout
    done = run("predict", *options, "--csv", code=1)
    assert r"no\x1b[2J.mp3: not audio" in done.stderr and "\x1b" not in done.stderr
    text = done.stdout_bytes.decode()  # as it was printed
    table = pd.read_csv(io.StringIO(text, newline=""))
    with_csv = list(csv.DictReader(io.StringIO(text, newline="")))
    rows = json.loads(run("predict", *options, "--json", code=1).stdout)
    assert table["path"].tolist() == [row["path"] for row in with_csv] == [row["path"] for row in rows] == paths
    assert list(table.columns)[-4:] == list(rows[0])[-4:] == [f"probability_{genre}" for genre in genres]
    wrong = run("predict", "x.mp3", "--\x1b[31m", code=2).stderr
    assert r"\x1b[31m" in wrong and "\x1b" not in wrong


def test_similar(saved, music):
    (music / "copy.ogg").write_bytes((music / "a.ogg").read_bytes())
    done = run("similar", music / "a.ogg", music, "-m", saved, "--count", 2)
    first, second = done.stdout.splitlines()
    assert first.startswith(f" 1.000  {music / 'copy.ogg'}   (") and float(second.split()[0]) < 1
    (music / "text.mp3").write_text("no music")
    done = run("similar", music / "text.mp3", music, "-m", saved, code=1)
    assert "text.mp3: not audio" in done.stderr and f"Error: {music / 'text.mp3'} cannot be read." in done.stderr
    alone = run("similar", music / "a.ogg", music / "a.ogg", "-m", saved, code=1)
    assert "FILES contain no other audio file" in alone.stderr


def test_compare_and_report(tmp_path, rng):
    labels = np.arange(40) % 2
    for name, right in (("a", 0.9), ("b", 0.3)):
        folder = tmp_path / name
        folder.mkdir()
        config = {"command": [], "flags": {"seed": 0}, "backend": "torch", "versions": {}}
        counts = dict.fromkeys(("tracks", "missing", "broken", "train", "validation", "test"), 1)
        config["data"] = {"name": "mine", "protocol": "official", "counts": counts}
        (folder / "config.json").write_text(json.dumps(config))
        hit = (rng.uniform(size=40) < right)[:, None]
        probabilities = np.where(hit == np.eye(2, dtype=bool)[labels], 0.8, 0.2)
        Report(("x", "y"), "test", "official", np.arange(40), labels, probabilities).to_json(folder / "test.json")
        assert run("report", folder).stdout.strip() == str(folder / "report.html")
        assert "accuracy on 40 test clips" in (folder / "report.html").read_text()
    done = run("compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c.csv")
    table = pd.read_csv(tmp_path / "c.csv", index_col="run")
    assert list(table.index) == ["a", "b"] and table.loc["b", "difference_high"] < 0
    assert f"{table.loc['b', 'difference']:+.1%}" in done.stdout.splitlines()[-1]
    run("compare", tmp_path / "b" / "test.json", tmp_path / "a", "-o", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    for arguments, message in (
        ([tmp_path / "a"], "two or more"),
        ([tmp_path / "a", tmp_path / "a"], "one run is given twice"),
        ([tmp_path / "a", tmp_path], "is not the folder of a run"),
        ([tmp_path / "a", tmp_path / "a" / "config.json"], "cannot be read as a report"),
        (
            [tmp_path / "a", tmp_path / "b", "--split", "validation"],
            "no scores of the split validation. It contains: test",
        ),
    ):
        assert message in run("compare", *arguments, code=1).stderr


def test_compare_fits_80_columns(tmp_path, rng):
    labels = np.arange(40) % 2
    names = ["a", "a_run_whose_name_says_all_that_was_changed-20260101-120000", f"{'long' * 30}\r"]
    for same in (True, False):
        for name in names:
            coverage = "3 crops of 29.9766 s (even)" if same else f"crops of {name[:10]}"
            probabilities = rng.dirichlet([1, 1], 40)
            report = Report(("x", "y"), "test", "artist_album", np.arange(40), labels, probabilities, coverage)
            report.to_json(tmp_path / f"{name}.json")
        paths = [tmp_path / f"{name}.json" for name in names]
        lines = run("compare", *paths, "-o", tmp_path / "c.csv").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        whole = "".join(lines)
        for name in names[:2]:
            assert f"{name}.json" in whole
        assert "\r" not in whole and ("long" * 30 + "\\r.json") in whole
        assert whole.count("3 crops of 29.9766 s (even)") == same
        assert len(pd.read_csv(tmp_path / "c.csv")) == 3


def test_figures_of_files(saved, music, tmp_path):
    track = music / "b" / "two.flac"
    done = run("spectrogram", track, "-m", saved, "--offset", 2, "-o", tmp_path / "s.png")
    assert "128 bands, 44 frames of 1 s" in done.stdout
    assert "13 clips of" in run("timeline", track, "-m", saved, "-o", tmp_path / "t.png").stdout
    run("timeline", track, "-m", saved, "-o", tmp_path / "t.csv", "--hop-seconds", 2)
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["start"].tolist() == [0, 2, 4, 6]
    lines = run("timeline", track, "-m", saved, "--hop-seconds", 2).stdout.splitlines()
    shares = table.filter(like="probability_")
    for line, start, best, share in zip(lines, (0, 2, 4, 6), shares.idxmax(axis=1), shares.max(axis=1), strict=True):
        times, genre, percent, *_ = line.split()
        assert times == f"0:{start:02d}-0:{start + 1:02d}" and f"probability_{genre}" == best
        assert percent == f"{share:.1%}" and ("█" in line) == (share > 1 / 30)
    (music / "text.mp3").write_text("no music")
    done = run("map", music, "-m", saved, "-o", tmp_path / "m.png", code=1)
    assert "3 files" in done.stdout and "text.mp3: not audio" in done.stderr
    for name in ("s", "t", "m"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    options = ["-m", saved, "-o", tmp_path / "x.png"]
    assert "not audio" in run("spectrogram", music / "text.mp3", *options, code=1).stderr
    assert "at 100 s" in run("spectrogram", track, "--offset", 100, *options, code=1).stderr
    wrong = run("timeline", track, "-m", saved, "-o", tmp_path / "x.xyz", code=2).stderr
    assert "must end in .png, .pdf, .svg or .csv" in wrong
    assert not (tmp_path / "x.png").exists()


def test_evaluate_and_calibrate(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    genres, folder = ("high", "low"), tmp_path / "sounds"
    for genre, hz in zip(genres, (2000, 200), strict=True):
        (folder / genre).mkdir(parents=True)
        for place in range(20):
            write_sine(folder / genre / f"{place}.wav", hz + 20 * place, rate=22050)
    model = small_model(genres=genres)
    calibrate(model, tones(np.random.default_rng(3), 32, 22050)).save(tmp_path / "m.keras")
    options = ["-m", tmp_path / "m.keras", "--protocol", "random"]
    done = run("evaluate", folder, *options, "-o", tmp_path / "r.json", "--picture", tmp_path / "c.png")
    figures = json.loads((tmp_path / "r.json").read_text())
    assert f"accuracy {100 * figures['accuracy']:.1f} %" in done.stdout and "\nhigh " in done.stdout
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    done = run("calibrate", folder, *options, "-o", tmp_path / "n.keras", "--picture", tmp_path / "rel.png")
    assert "Temperature" in done.stdout and "before: validation" in done.stdout
    first, second = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in "mn")
    temperature = float(done.stdout.split()[1])
    ratio = first.head.get_weights()[0] / second.head.get_weights()[0]
    np.testing.assert_allclose(ratio, temperature, rtol=1e-2)
    assert "must end in .keras" in run("calibrate", folder, *options, "-o", tmp_path / "n", code=2).stderr
    tracks = [(i, gk.GENRES[i % 8], ("training", "validation", "test")[i % 3]) for i in range(2, 17)]
    small_model().save(tmp_path / "m.keras")
    done = run("evaluate", write_fma(tmp_path / "fma", tracks), "-m", tmp_path / "m.keras", "--split", "validation")
    assert "validation (official protocol, 5 clips" in done.stdout


def test_multi_label_reports(tmp_path, monkeypatch, rng):
    """The model and its reports are replaced, so that only the output of the commands is tested."""
    labels = rng.random((40, 3)) < 0.4
    arguments = ("x", "y", "z\x1b"), "test", "official", np.arange(40), labels
    probabilities = [np.clip(0.3 + x * labels + rng.normal(0, 0.2, (40, 3)), 0, 1) for x in (0.1, 0.4)]
    first = MultiLabelReport(*arguments, probabilities[0], groups=np.arange(40))
    second = MultiLabelReport(*arguments, probabilities[1], groups=np.arange(40) % 6)
    model = small_model(genres=first.genres, multi_label=True)
    monkeypatch.setattr("genrekeras.cli.models.load_data", lambda *arguments: ("40 clips", None))
    monkeypatch.setattr("genrekeras.evaluation.evaluate", lambda *arguments, **options: first)
    done = run("evaluate", tmp_path, "-m", "musicnn_msd", "-o", tmp_path / "a.json", "--picture", tmp_path / "a.png")
    low, high = first.genre_roc_auc_interval["x"]
    assert f"mAP {100 * first.score:.1f} %" in done.stdout and "ROC-AUC       95 %" in done.stdout
    assert f"{first.genre_roc_auc['x']:6.1%}  {low:5.0%} to {high:4.0%}" in done.stdout and "\x1b" not in done.stdout
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    second.to_json(tmp_path / "b.json")
    done = run("compare", tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "c.png")
    assert "mAP [95 %]" in done.stdout and f"{second.score - first.score:+.1%} [+" in done.stdout.splitlines()[-1]
    assert f"{second.score:.1%} (too few artists)" in done.stdout
    run("compare", tmp_path / "a.json", tmp_path / "b.json", "-o", tmp_path / "c.csv")
    scores = pd.read_csv(tmp_path / "c.csv")["mean_average_precision"].tolist()
    assert scores == pytest.approx([first.score, second.score])

    def fake_calibrate(given, clips, crops, rejection_rate, precision):
        given.thresholds = gk.models.Thresholds(1.5, 0.2, None, True, (0.25, precision, 1.0))
        return Calibration(1.5, given.thresholds, {"correct": 0.05}, first, first)

    monkeypatch.setattr("genrekeras.cli.models.load_model", lambda path: model)
    monkeypatch.setattr("genrekeras.evaluation.calibrate", fake_calibrate)
    command = ["calibrate", tmp_path, "-m", "musicnn_msd", "-o", tmp_path / "n.keras"]
    done = run(*command, "--precision", 0.8, "--picture", tmp_path / "r.png")
    assert "A genre is predicted above these probabilities: x 0.250, y 0.800; never predicted: z\\x1b" in done.stdout
    assert keras.saving.load_model(tmp_path / "n.keras").thresholds.class_thresholds == (0.25, 0.8, 1.0)
    for precision in (0, 1):
        assert "0<x<1" in run(*command, "--precision", precision, code=2).stderr
    for arguments in ("evaluate", tmp_path), ("calibrate", tmp_path, "-o", tmp_path / "n.keras"):
        assert "Missing option '-m' / '--model'" in run(*arguments, code=2).stderr  # There is no default model.


def test_multi_label_models_use_genres_in_tags(tmp_path, monkeypatch, rng):
    """Each file has one genre, and only two of the three genres are labels of the model."""
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "music").mkdir()
    for number in range(17):
        path = write_sine(tmp_path / "music" / f"{number}.flac", 200 + 40 * number, 2.5, rate=22050)
        tags.write_genres(path, [("Low" if number < 6 else "HIGH") if number < 12 else "Polka"])
    model = small_model(genres=("Jazz", "high", "low"), multi_label=True)
    calibrate(model, tones(rng, 16, 22050)).save(tmp_path / "m.keras")
    options = ["-m", tmp_path / "m.keras", "--split", "all", "--protocol", "random", "--crops", 1]
    done = run("evaluate", tmp_path / "music", *options, "-o", tmp_path / "scores.json")
    assert "The all split has 1 genres that the model does not have. They are left out: Polka (5)." in done.stderr
    assert "12 clips, 1 crops of 1 s (even), 2 of 3 labels of the model" in done.stdout and "\nJazz" not in done.stdout
    assert json.loads((tmp_path / "scores.json").read_text())["genre_counts"] == [6, 6]
    done = run("calibrate", tmp_path / "music", *options, "-o", tmp_path / "n.keras")
    assert " (6 clips), low " in done.stdout and "never predicted: Jazz\n" in done.stdout
    assert "high" in run("info", tmp_path / "n.keras").stdout
    done = run("calibrate", tmp_path / "music", *options[:2], *options[4:], "-o", tmp_path / "n.keras", code=1)
    assert "must have a genre of the model that at least 5 clips have" in done.stderr
    tracks = [(i, ("Rock", "Folk", "Pop")[i % 3], ("validation", "test")[i % 2]) for i in range(2, 32)]
    folder = write_fma(tmp_path / "fma", tracks)
    add_all_genres(folder, {i: [25] for i in range(2, 32, 2)})  # Punk
    small_model(genres=("Punk", "folk", "Jazz"), multi_label=True).save(tmp_path / "m.keras")
    done = run("evaluate", folder, *options[:3], "all")
    assert "Pop (10), Rock (10). Of 30 clips, 10 have no other genre." in done.stderr
    assert "2 of 3 labels of the model" in done.stdout


def test_evaluate_music_with_some_genres_in_another_order(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    small_model(genres=["pop", "Jazz", "Hip-Hop"]).save(tmp_path / "m.keras")
    for name in ("Hip-Hop/a.wav", "Hip-Hop/b.wav", "POP/c.wav"):
        (tmp_path / "music" / name).parent.mkdir(parents=True, exist_ok=True)
        write_sine(tmp_path / "music" / name, 110 + ord(name[-5]), rate=22050)
    options = ["-m", tmp_path / "m.keras", "--protocol", "random"]
    done = run("evaluate", tmp_path / "music", *options, "--split", "all", "-o", tmp_path / "r.json")
    report = Report.from_dict(json.loads((tmp_path / "r.json").read_text()))
    assert "all (random protocol, 3 clips" in done.stdout and "\nJazz" not in done.stdout
    assert report.genres == ("pop", "Jazz", "Hip-Hop") and sorted(report.labels) == [0, 2, 2]
    assert report.groups is None and "(Wilson, clips taken as independent)" in done.stdout
    (tmp_path / "music" / "POP" / "an artist" / "an album").mkdir(parents=True)
    (tmp_path / "music" / "POP" / "c.wav").rename(tmp_path / "music" / "POP" / "an artist" / "an album" / "c.wav")
    done = run("evaluate", tmp_path / "music", *options, "--split", "all")
    assert "too few artists for an interval: 3" in done.stdout and "0.0%  too few artists" in done.stdout
    for name in ("a.json", "b.json"):
        dataclasses.replace(report, groups=np.arange(3)).to_json(tmp_path / name)
    compared = run("compare", tmp_path / "a.json", tmp_path / "b.json").stdout
    assert compared.count("(too few artists)") == 3 and "nan" not in compared
    done = run("calibrate", tmp_path / "music", *options, "-o", tmp_path / "n.keras", code=1)
    assert "the validation split has no clips under the protocol random" in done.stderr

    (tmp_path / "music" / "POP").rename(tmp_path / "music" / "Polka")
    write_sine(tmp_path / "music" / "Polka" / "d.wav", 300)
    for command in (["evaluate"], ["calibrate", "-o", tmp_path / "n.keras"]):
        done = run(*command, tmp_path / "music", *options, code=1)
        assert "genres that the model does not have: 'Polka'" in done.stderr
        assert "The decoded clips" not in done.stderr


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_export(saved, music, tmp_path):
    done = run("export", saved, "--to", "torch", "-o", tmp_path / "m.pt2", "--clips", music)
    assert f"{tmp_path / 'm.pt2'}: probabilities equal those of" in done.stdout


def test_arguments_of_export(saved, music, monkeypatch):
    calls = []

    def export(model, path, target, clips, quantize, runtime):
        calls.append((os.path.basename(path), target, None if clips is None else clips.shape, quantize, runtime))
        return 3e-6

    monkeypatch.setattr("genrekeras.export.export", export)
    done = run("export", saved, "--to", "onnx", "-o", "m.onnx", "--clips", music)
    assert done.stdout == f"m.onnx: probabilities equal those of {saved} within 3e-06\n"
    run("export", saved, "--to", "litert", "--quantize", "int8", "--clips", music / "a.ogg")
    run("export", saved, "--to", "saved_model")
    run("export", saved, "--to", "web", "--runtime", "ort.tgz")
    assert calls == [
        ("m.onnx", "onnx", (3, 22050), None, None),
        ("genre.tflite", "litert", (2, 22050), "int8", None),
        ("genre_saved_model", "saved_model", None, None, None),
        ("genre_web", "web", None, None, "ort.tgz"),
    ]
    assert "must end in .onnx" in run("export", saved, "--to", "onnx", "-o", "x", code=2).stderr


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_export_on_another_backend(saved):
    assert "KERAS_BACKEND=tensorflow" in run("export", saved, "--to", "litert", code=1).stderr
    assert os.listdir(os.path.dirname(saved)) == ["genre.keras"]


def test_preset_is_exported_to_the_working_directory(monkeypatch):
    paths = []
    monkeypatch.setattr("genrekeras.cli.models.load_model", lambda path: None)
    monkeypatch.setattr("genrekeras.export.export", lambda model, path, *arguments, **options: paths.append(path) or 0)
    run("export", "--to", "torch")
    assert paths == ["musicnn_msd.pt2"]


def test_a_missing_package_names_its_extra(folder, monkeypatch):
    def fail(*arguments):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx.helper")

    monkeypatch.setattr("genrekeras.datasets.fma.check", fail)
    result = run("fma", "check", folder, code=1)
    assert "Error: No module named 'onnx'. Install genrekeras with the extra export" in result.stderr
