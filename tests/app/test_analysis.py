"""Rows, similar tracks and figures of the page, in several threads."""

import threading

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from conftest import tones
from genrekeras import inference
from genrekeras.app import analysis, page
from genrekeras.models import presets, saving


@pytest.fixture(scope="module")
def saved(one_second_model, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("model") / "model.keras")
    one_second_model.save(path)
    return path


def test_rows_are_those_of_predict_files(saved, one_second_model, music, monkeypatch):
    monkeypatch.setattr(analysis, "MAX_MINUTES", 0.1)
    (music / "text.mp3").write_text("no music")
    paths = [str(music / name) for name in ("a.ogg", "text.mp3", "b/two.flac", "b/c/one.wav")]
    analyser = analysis.Analyser({"model": saved})
    table = analyser.table("model", list(analyser.predict("model", paths)))
    expected = one_second_model.predict_files(paths)
    assert list(table.columns) == list(expected.columns) and list(table["path"]) == paths
    processed = [0, 3]
    assert list(table["genre"][processed]) == list(expected["genre"][processed])
    np.testing.assert_allclose(table["probability"][processed], expected["probability"][processed], atol=1e-6)
    assert table["error"][1].startswith("not audio")
    assert table["error"][2] == "too long: 0 minutes, but the maximum is 0.1 minutes"


def test_similar_tracks(saved, music, tmp_path):
    (music / "text.mp3").write_text("no music")
    analyser = analysis.Analyser({"model": saved}, inference.find_files(music), str(music))
    assert list(analyser.errors["path"]) == [str(music / "text.mp3")] and analyser.has_index
    copy = tmp_path / "upload.flac"
    copy.write_bytes((music / "b" / "two.flac").read_bytes())
    table = analyser.similar(str(copy), 2)
    assert list(table.columns) == ["path", "genre", "similarity"] and len(table) == 2
    assert table["path"][0] == "b/two.flac" and table["similarity"][0] == pytest.approx(1.0, abs=1e-5)
    assert not analysis.Analyser({"model": saved}).has_index


def test_figures(saved, tmp_path, rng):
    path = str(tmp_path / "track.wav")
    soundfile.write(path, tones(rng, 1, 22050 * 90)[0] / 4, 22050)
    analyser = analysis.Analyser({"model": saved})
    [axes] = analyser.timeline("model", path).axes
    assert axes.get_xlim() == (0.0, 90.0)
    assert len(axes.collections[0].get_paths()[0].vertices) < 3 * analysis._MAX_TIMELINE_CLIPS
    assert analyser.spectrogram("model", path, 30.0).axes[0].get_xlim() == (14.5, 15.5)  # the middle of 30 s


def test_a_model_is_loaded_once_by_several_threads(saved, music, monkeypatch):
    loaded, load_model = [], saving.load_model
    monkeypatch.setattr(saving, "load_model", lambda path: loaded.append(path) or load_model(path))
    analyser = analysis.Analyser({"first": saved, "second": saved, "third": "missing.keras"})
    rows = []
    threads = [
        threading.Thread(target=lambda: rows.extend(analyser.predict("second", [str(music / "a.ogg")])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [saved] * 2 and [row["genre"] for row in rows] == [rows[0]["genre"]] * 4


@pytest.mark.parametrize("name", presets.PRESETS)
def test_descriptions_state_the_number_of_genres(name):
    kinds = inference.label_kinds(gk.GenreClassifier.from_preset(name))
    assert f" of {list(kinds.values()).count('genre')} genres" in page._DESCRIPTIONS[name]
