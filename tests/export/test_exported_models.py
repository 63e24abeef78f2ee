"""Exported models predict the same rows as the Keras model, without importing Keras."""

import dataclasses
import json
import subprocess
import sys

import genrekeras as gk
import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import calibrate, small_model, tones
from genrekeras import cli, export

pytestmark = [
    pytest.mark.export,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="ONNX is exported with torch"),
]
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


def with_limits(model, clips):
    """Set limits of low confidence that some of the clips exceed, and fit the out-of-distribution score."""
    features = model.for_inference("features").predict(clips, verbose=0)
    model.ood_score.set_weights([features.mean(0), 1 / (features.std(0) + 0.1), model.ood_score.get_weights()[2]])
    probabilities, scores = model.inference_function("probabilities", "ood_score")(clips)
    classes = np.median(probabilities, axis=0).tolist() if model.multi_label else None
    limits = {"min_confidence": np.median(probabilities.max(1)).item(), "max_ood_score": np.median(scores).item()}
    model.thresholds = {**limits, "class_thresholds": classes, "better_than_chance": True}
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A Keras model with limits, and the path of its export."""
    clips = tones(np.random.default_rng(3), 32, 22050)
    model = with_limits(calibrate(small_model(card={"calibration": {"precision": 0.9}}), clips), clips)
    path = tmp_path_factory.mktemp("exported") / "genre.onnx"
    export.export(model, path, "onnx", clips[:3])
    return model, path


def assert_same(result, expected):
    """Compare tables, or rows, whose numbers agree within 1e-3."""
    compare = pd.testing.assert_frame_equal if isinstance(result, pd.DataFrame) else pd.testing.assert_series_equal
    compare(result, expected, check_exact=False, rtol=1e-3, atol=1e-3)


def assert_same_predictions(model, exported, paths):
    rows = model.predict_files(paths, max_clips=6)
    assert_same(exported.predict_files(paths, max_clips=6), rows)
    timelines = [each.predict_timeline(paths[0], hop_seconds=10.0) for each in (exported, model)]
    assert_same(*timelines)
    y = gk.audio.load(paths[0], duration=30)
    assert_same(exported.predict_waveform(y, 22050), model.predict_waveform(y, 22050))
    embeddings, expected = exported.embed_files(paths, max_clips=2), model.embed_files(paths, max_clips=2)
    assert_same(embeddings.files, expected.files)
    np.testing.assert_allclose(embeddings.vectors, expected.vectors, rtol=1e-3, atol=1e-3)
    return rows


def test_the_same_rows(pair, music):
    model, path = pair
    exported = gk.load_model(path)
    rows = assert_same_predictions(model, exported, [*gk.inference.find_files(music), str(music / "b" / "cover.jpg")])
    assert rows["low_confidence"].any() and rows["error"].notna().sum() == 1
    assert exported.thresholds == model.thresholds and exported.card["calibration"] == model.card["calibration"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fma_small", "musicnn_msd"])
def test_the_same_rows_of_real_songs(preset, real_songs, tmp_path):
    """One and many labels, with limits."""
    model = gk.GenreClassifier.from_preset(preset)
    clips = [gk.audio.load(path, model.sample_rate, 40, model.clip_seconds) for path in real_songs]
    model = with_limits(model, np.stack([gk.audio.to_length(clip, model.input_shape[1]) for clip in clips]))
    rows, limits = model.predict_files(real_songs, max_clips=6), dataclasses.asdict(model.thresholds)
    limits["min_confidence"], limits["max_ood_score"] = rows["probability"].median(), rows["ood_score"].quantile(0.7)
    model.thresholds = limits
    export.export(model, tmp_path / "m.onnx", "onnx")
    rows = assert_same_predictions(model, gk.load_model(tmp_path / "m.onnx"), list(map(str, real_songs)))
    assert rows["low_confidence"].nunique() == 2 and rows["reason"].nunique() > 1 and rows["genre"].nunique() > 1


HEAVY = ("keras", "torch", "tensorflow", "jax", "sklearn", "scipy", "matplotlib", "librosa", "tensorflow_datasets")
COMMAND = "from genrekeras.cli import main; main([{}, '--model', model, song], standalone_mode=False)"
SCRIPTS = {
    "predict": COMMAND.format("'predict', '--json'"),
    "timeline": COMMAND.format("'timeline'"),
    "tag": COMMAND.format("'tag', '--dry-run'"),
    "library": "import genrekeras as gk; print(gk.load_model(model).predict_files(song).to_json(orient='records'))",
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_keras_is_not_imported(kind, pair, music):
    model, path = pair
    code = f"import sys; _, model, song = sys.argv; {SCRIPTS[kind]}; print([m for m in {HEAVY} if m in sys.modules])"
    command = [sys.executable, "-c", code, str(path), str(music / "a.ogg")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output, _, heavy = done.stdout.rstrip().rpartition("\n")
    assert heavy == "[]"
    if kind in ("predict", "library"):
        assert json.loads(output)[0]["genre"] == model.predict_files(music / "a.ogg")["genre"][0]


def test_the_journal_belongs_to_a_file(pair, music, tmp_path, capsys):
    model, path = pair
    exported, journal = gk.load_model(path), tmp_path / "rows.journal"
    table = exported.predict_files(music, journal=journal)
    pd.testing.assert_frame_equal(gk.load_model(path).predict_files(music, journal=journal), table)
    with pytest.warns(UserWarning, match="belongs to another model"):
        model.predict_files(music, journal=journal)


def test_similar_and_map(pair, music, tmp_path):
    _, path = pair
    song = str(music / "b" / "two.flac")
    for call in (["similar", song, str(music)], ["map", str(music), "-o", str(tmp_path / "map.png")]):
        done = CliRunner().invoke(cli.main, [*call, "--model", str(path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["info", "spectrogram", "evaluate", "calibrate", "export", "app"])
def test_commands_that_need_a_keras_file(command, tmp_path):
    path, output = tmp_path / "m.onnx", str(tmp_path / "out")
    path.touch()
    arguments = {
        "info": [str(path)],
        "spectrogram": ["song.mp3", "-m", str(path), "-o", f"{output}.png"],
        "evaluate": ["music", "-m", str(path)],
        "calibrate": ["music", "-m", str(path), "-o", f"{output}.keras"],
        "export": [str(path), "--to", "onnx"],
        "app": ["-m", str(path)],
    }
    done = CliRunner().invoke(cli.main, [command, *arguments[command]])
    assert done.exit_code == 2 and f"{path} is an exported model. This command needs a .keras file." in done.output


def test_files_that_cannot_be_used(pair, tmp_path, monkeypatch):
    import onnx

    _, path = pair
    content, bad = path.read_bytes(), tmp_path / "bad.onnx"
    with pytest.raises(FileNotFoundError, match=r"bad\.onnx does not exist"):
        gk.load_model(bad)
    bad.write_bytes(content[: len(content) // 2])
    with pytest.raises(export.ExportError, match=r"bad\.onnx cannot be loaded as onnx, because it is damaged"):
        gk.load_model(bad)
    proto = onnx.load(path)
    for card, reason in ((None, "contains no genrekeras.json"), ("{}", "Export the model again")):
        del proto.metadata_props[:]
        if card is not None:
            onnx.helper.set_model_props(proto, {export.CARD: card})
        onnx.save(proto, bad)
        with pytest.raises(export.ExportError, match=rf"bad\.onnx {reason}|bad\.onnx contains .* {reason}"):
            gk.load_model(bad)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"genre\.onnx cannot be loaded, .* the extra export"):
        gk.load_model(path)
    done = CliRunner().invoke(cli.main, ["predict", "--model", str(path), "song.mp3"])
    assert done.exit_code == 1 and done.output.count("extra export") == 1
