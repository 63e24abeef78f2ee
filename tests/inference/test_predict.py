"""Predictions for files: positions of clips, means over clips, unreadable files, journals, timelines."""

import os

import genrekeras as gk
import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import small_model, tones, write_sine
from genrekeras import audio, inference
from genrekeras.inference import clips, predict
from genrekeras.inference.journal import Journal

RATE = 22050
PROBABILITIES = [f"probability_{genre}" for genre in gk.GENRES]


@pytest.mark.parametrize(
    "seconds, most, expected",
    [
        (30.0, 30, [0, 10, 20]),
        (35.0, 30, [0, 12.5, 25]),
        (29.98, 30, [0, 9.99, 19.98]),
        (29.4, 30, [0, 19.4]),
        (4.0, 30, [0]),
        (10800.0, 3, [0, 5395, 10790]),
    ],
)
def test_clip_starts(seconds, most, expected):
    np.testing.assert_allclose(inference.clip_starts(seconds, 10.0, most), expected, atol=1e-9)


def test_clips_equal_parts_of_the_decoded_file(tmp_path, rng, monkeypatch):
    """Whether the file is decoded as a whole, in blocks, or clip by clip."""
    path = tmp_path / "x.wav"
    soundfile.write(path, rng.uniform(-0.5, 0.5, 20 * 8000), 8000, subtype="FLOAT")
    whole = audio.load(path, RATE)
    reads = []
    read = audio.AudioFile.read
    monkeypatch.setattr(audio.AudioFile, "read", lambda self, *args: reads.append(args) or read(self, *args))
    for starts, block, calls in (
        ([0, 1, 2, 19], 300.0, 2),
        ([0, 1.5, 3, 4.5, 6], 2.0, 3),
        ([2.25, 9, 18.9, 19], 300.0, 3),
    ):
        reads.clear()
        monkeypatch.setattr(clips, "_BLOCK_SECONDS", block)
        with audio.AudioFile(path, RATE) as file:
            loaded = list(inference.load_clips(file, 1.0, starts))
        assert len(reads) == calls
        for clip, start in zip(loaded, starts, strict=True):
            np.testing.assert_allclose(clip, whole[round(start * RATE) :][:RATE], atol=1e-5)


def test_files_of_a_folder(one_second_model, music):
    table = one_second_model.predict_files(music)
    names = ["a.ogg", os.path.join("b", "c", "one.wav"), os.path.join("b", "two.flac")]
    assert [os.path.relpath(path, music) for path in table["path"]] == names
    assert list(table.columns) == [
        "path",
        "genre",
        "genres",
        "probability",
        "low_confidence",
        "reason",
        "ood_score",
        "seconds",
        "warning",
        "error",
        *PROBABILITIES,
    ]
    assert table["error"].isna().all() and table["seconds"].tolist() == [4.0, 2.0, 7.0]
    probabilities = table[PROBABILITIES].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert table["genre"].tolist() == [gk.GENRES[i] for i in probabilities.argmax(axis=1)]
    np.testing.assert_allclose(table["probability"], probabilities.max(axis=1))
    for path, row in zip(table["path"], probabilities, strict=True):
        waveform = audio.load(path, RATE)
        starts = np.linspace(0, len(waveform) - RATE, len(waveform) // RATE).round().astype(int)
        of_clips = one_second_model.predict(np.stack([waveform[start : start + RATE] for start in starts]), verbose=0)
        np.testing.assert_allclose(row, of_clips.mean(axis=0), atol=1e-4)
        of_waveform = one_second_model.predict_waveform(waveform, RATE)
        np.testing.assert_allclose(of_waveform[PROBABILITIES].astype(float), row, atol=1e-4)
        assert list(of_waveform.index) == list(table.columns) and of_waveform["error"] is None
    assert np.ptp(probabilities, axis=0).max() > 1e-2  # the tracks differ
    for missing in ("low_confidence", "reason", "ood_score", "warning"):  # the model is not calibrated
        assert table[missing].isna().all()


def test_low_confidence_has_a_reason(music):
    """For files and for waveforms, by the thresholds of the model."""
    model = small_model(thresholds={"min_confidence": 0.126})
    table = model.predict_files(music)
    assert table["low_confidence"].tolist() == [False] * 3 and table["reason"].isna().all()
    limit = float(table["probability"].sort_values().iloc[1])
    is_low = (table["probability"] < limit).tolist()
    assert any(is_low)
    model.thresholds = {"min_confidence": limit}
    table = model.predict_files([*inference.find_files(music), "missing.ogg"])
    assert table["low_confidence"].tolist()[:3] == is_low
    assert table["reason"].tolist()[:3] == ["low probability" if low else None for low in is_low]
    assert table["low_confidence"].isna().tolist() == [False, False, False, True]
    for thresholds, reason in (
        ({"min_confidence": 0.999, "max_ood_score": -1.0}, "low probability; unlike the training data"),
        ({"min_confidence": None, "max_ood_score": -1.0}, "unlike the training data"),
        ({"min_confidence": None, "better_than_chance": False}, "model not better than chance"),
        ({"min_confidence": 0.2, "better_than_chance": True}, None),
    ):
        model.thresholds = thresholds
        row = model.predict_waveform(np.zeros(RATE), RATE)
        assert (row["low_confidence"], row["reason"]) == (reason is not None, reason)
        assert (row["ood_score"] is None) == (thresholds.get("max_ood_score") is None)
    model.thresholds = None
    assert model.predict_waveform(np.zeros(RATE), RATE)["low_confidence"] is None


def test_genres_may_have_any_name(music, tmp_path):
    """Including names of other columns."""
    genres = ("path", "error", "seconds", "genre", "probability", "start", "end", "low_confidence", "probability_", "")
    model = small_model(genres=genres)
    for table in (
        model.predict_files(music, journal=tmp_path / "journal"),
        model.predict_files(music, journal=tmp_path / "journal"),
        model.predict_timeline(music / "a.ogg"),
    ):
        assert table.columns.is_unique and inference.genres_of(table) == list(genres)
        probabilities = table[[f"probability_{genre}" for genre in genres]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert set(model.predict_files(music)["path"]) == set(inference.find_files(music))


@pytest.mark.parametrize("name", ["max_clips", "batch_size", "workers"])
@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), None])
def test_invalid_counts(one_second_model, music, name, value):
    for method in (one_second_model.predict_files, one_second_model.embed_files):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer > 0. Received: {name}="):
            method(music, **{name: value})


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5, "workers": 1}, {"batch_size": 64}])
def test_predictions_do_not_depend_on_batches(one_second_model, music, options):
    table = one_second_model.predict_files(music)
    other = one_second_model.predict_files([music / "b", music / "a.ogg"], **options)
    np.testing.assert_allclose(other[PROBABILITIES].to_numpy(), table[PROBABILITIES].to_numpy()[[1, 2, 0]], atol=1e-5)


def test_unreadable_files_are_named(one_second_model, music, tmp_path):
    samples = tones(np.random.default_rng(0), 1, RATE)[0]
    (tmp_path / "text.mp3").write_text("no music")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "short.wav", samples[:220], RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(2 * RATE, np.nan), RATE, subtype="FLOAT")
    bad = ["text.mp3", "empty.wav", "missing.ogg", "short.wav", "nan.wav"]
    paths = [tmp_path / name for name in bad]
    table = one_second_model.predict_files([music / "a.ogg", *paths, music / "b" / "two.flac"])
    assert table["error"].notna().tolist() == [False, *[True] * len(bad), False]
    reasons = ["not audio", "0 bytes", "no such file", "0.00998 s, but the minimum is 1 s", "finite"]
    wrong = table[1:-1]
    assert all(reason in error for error, reason in zip(wrong["error"], reasons, strict=True))
    assert wrong["genre"].isna().all() and wrong["probability"].isna().all()
    assert list(wrong["path"]) == list(map(str, paths))
    only = one_second_model.predict_files(paths[:1])
    assert len(only) == 1 and only["genre"].isna().all()


def test_a_truncated_file_is_processed_up_to_its_end(one_second_model, music, tmp_path):
    (tmp_path / "half.wav").write_bytes((music / "b" / "c" / "one.wav").read_bytes()[:150_000])
    table = one_second_model.predict_files([tmp_path / "half.wav", music / "b" / "c" / "one.wav"])
    assert table["error"].isna().all() and table["seconds"].tolist() == [1.0, 2.0]


def test_channels_and_rates(one_second_model, tmp_path, rng):
    """A silent second channel does not change probabilities; files of all sample rates can be processed."""
    mono = tones(rng, 1, 3 * RATE)[0] / 4
    soundfile.write(tmp_path / "mono.wav", mono, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "left.wav", np.stack([mono, 0 * mono], axis=1), RATE, subtype="FLOAT")
    write_sine(tmp_path / "8k.wav", 440, rate=8000)
    write_sine(tmp_path / "192k.wav", 440, rate=192000)
    table = one_second_model.predict_files([tmp_path / name for name in ("mono.wav", "left.wav", "8k.wav", "192k.wav")])
    assert table["error"].isna().all()
    probabilities = table[PROBABILITIES].to_numpy()
    np.testing.assert_allclose(probabilities[1], probabilities[0], atol=1e-4)


def test_clips_of_a_long_file(one_second_model, tmp_path, monkeypatch):
    """Of half an hour, only the clips are decoded."""
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(30):
            file.write(0.1 * np.sin(np.arange(60 * 8000) / 5))
    lengths = []
    read = audio.AudioFile.read
    monkeypatch.setattr(audio.AudioFile, "read", lambda self, *a: lengths.append(a[1]) or read(self, *a))
    table = one_second_model.predict_files(path)
    assert table["seconds"].tolist() == [30.0] and max(lengths) <= 1.0 and len(lengths) == 30


@pytest.fixture
def decoded(monkeypatch):
    """List of the paths of files that were decoded."""
    paths, load_clips = [], predict.load_clips
    monkeypatch.setattr(predict, "load_clips", lambda file, *args: paths.append(file.path) or load_clips(file, *args))
    return paths


def test_rows_are_yielded_before_all_files_are_decoded(one_second_model, music, decoded):
    many = [music / "a.ogg"] * 20
    rows = inference.predict_each(one_second_model, many, batch_size=4, workers=1)
    first = next(rows)
    assert first["error"] is None and len(decoded) < 6
    rows.close()
    assert len(decoded) < 8


def test_find_files(music, tmp_path):
    found = inference.find_files(music)
    assert len(found) == 3 and inference.find_files(str(music / "a.ogg")) == [str(music / "a.ogg")]
    assert inference.find_files([music / "b", music / "nowhere.mp3"]) == [*found[1:], str(music / "nowhere.mp3")]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    with pytest.raises(ValueError, match=r"texts contains no audio files \(1 other files\)"):
        inference.find_files([music, tmp_path / "texts"])
    with pytest.raises(ValueError, match="must contain at least one file or folder"):
        inference.find_files([])


def test_folders_that_cannot_be_opened_are_skipped_and_named(music, close_folder):
    close_folder("c")
    with pytest.warns(UserWarning, match=r"1 folders or links cannot be opened \(the first: .*/b/c: Permission denied"):
        assert [os.path.basename(path) for path in inference.find_files(music)] == ["a.ogg", "two.flac"]
    with pytest.warns(UserWarning), pytest.raises(OSError, match=r"There is no audio file, .*/b/c: Permission denied"):
        inference.find_files(music / "b" / "c")


def test_invalid_waveforms(one_second_model):
    with pytest.raises(
        ValueError, match=r"must be a vector of finite numbers of at most 1e9 .* Received: shape=\(2, 22050\)"
    ):
        one_second_model.predict_waveform(np.zeros((2, RATE)), RATE)
    with pytest.raises(ValueError, match="finite"):
        one_second_model.predict_waveform(np.full(RATE, np.inf), RATE)
    with pytest.raises(ValueError, match="too short"):
        one_second_model.predict_waveform(np.zeros(80), 8000)
    for wrong in (np.array([None] * RATE), ["a"] * RATE, np.zeros(RATE, complex), np.zeros(RATE, object)):
        with pytest.raises(ValueError, match="`y` must be a vector of finite numbers"):
            one_second_model.predict_waveform(wrong, RATE)
    for rate in (0, -1, 22050.5, float("nan"), None):
        with pytest.raises(ValueError, match="`sample_rate` must be an integer > 0"):
            one_second_model.predict_waveform(np.zeros(RATE), rate)
    silence = one_second_model.predict_waveform(np.zeros(3 * RATE), RATE)
    assert np.isfinite(silence["probability"]) and silence["seconds"] == 3.0


def test_an_interrupted_call_is_resumed(one_second_model, music, tmp_path, decoded):
    """Finished files are not processed again, unless they have changed or could not be read."""
    journal, late = tmp_path / "journal", tmp_path / "late.ogg"
    paths = [*inference.find_files(music), str(late)]
    one_second_model.predict_files(paths[:1], journal=journal)
    with open(journal, "ab") as file:
        file.write(b'00000000 [{"path": "half a li')  # killed while writing
    decoded.clear()
    table = one_second_model.predict_files(paths, journal=journal)
    assert sorted(decoded) == paths[1:3] and table["error"].isna().tolist() == [True, True, True, False]

    decoded.clear()
    late.write_bytes((music / "a.ogg").read_bytes())
    soundfile.write(paths[1], tones(np.random.default_rng(1), 1, 2 * RATE)[0] / 4, RATE)
    again = one_second_model.predict_files(paths, journal=journal)
    assert sorted(decoded) == sorted([paths[1], paths[3]]) and again["error"].isna().all()
    assert again["seconds"].tolist()[1] == 2.0 and again.loc[0].equals(table.loc[0])
    equal_files = again.loc[[0, 3], PROBABILITIES].to_numpy()
    np.testing.assert_allclose(equal_files[1], equal_files[0], atol=1e-5)

    decoded.clear()
    assert one_second_model.predict_files(paths, journal=journal).equals(again) and not decoded


def test_a_journal_of_another_call(one_second_model, music, tmp_path):
    """Files that are not journals are refused and kept; rows of another model are removed, with a warning."""
    for content in (b"Dear Ann,\n", b"[1, 2]\n{}\n", bytes(100), np.random.default_rng(0).bytes(300)):
        other = tmp_path / "letter.txt"
        other.write_bytes(content)
        with pytest.raises(ValueError, match=r"letter.txt is not a journal of predictions. Remove it"):
            one_second_model.predict_files(music, journal=other)
        assert other.read_bytes() == content
    with pytest.raises(OSError):
        one_second_model.predict_files(music, journal=tmp_path / "no" / "journal")
    assert not (tmp_path / "no").exists()

    journal = tmp_path / "journal"
    front_end = [gk.layers.MelSpectrogram(), gk.layers.PowerToDecibels(top_db=60.0), gk.layers.SpectrogramToImage()]
    other_front_end = small_model(front_end=front_end)
    other_front_end.set_weights(one_second_model.get_weights())
    other_thresholds = small_model(thresholds={"min_confidence": 0.5})
    other_thresholds.set_weights(one_second_model.get_weights())
    for model, options in (
        (one_second_model, {"max_clips": 2}),
        (small_model(), {}),
        (other_front_end, {}),
        (other_thresholds, {}),
    ):
        journal.unlink(missing_ok=True)
        one_second_model.predict_files(music, journal=journal)
        with pytest.warns(UserWarning, match="belongs to another model, other thresholds or another `max_clips`"):
            table = model.predict_files(music, journal=journal, **options)
        np.testing.assert_allclose(table["probability"], model.predict_files(music, **options)["probability"])
        assert model.predict_files(music, journal=journal, **options).equals(table)  # without a warning


@pytest.mark.parametrize("damage", ["flip", "garbage", "cut", "head", "zeros", "text"])
def test_a_damaged_journal(one_second_model, music, tmp_path, damage):
    """Damaged rows are computed again, with a warning."""
    journal = tmp_path / "journal"
    table = one_second_model.predict_files(music, journal=journal)
    head, first, *rest = journal.read_bytes().splitlines(keepends=True)
    digit = first.index(b'"probability": 0.') + len(b'"probability": 0.')
    content = {
        "flip": [head, first[:digit] + (b"1" if first[digit:][:1] != b"1" else b"2") + first[digit + 1 :], *rest],
        "garbage": [head, b"\xff\x00{[\n", *rest],
        "cut": [head, first[:50], *rest],
        "head": [head[:20] + b"\n", first, *rest],
        "zeros": [head, bytes(len(first)), *rest],
        "text": [head, b"[" * 100_000 + b"\n", b"5\n", *rest],
    }[damage]
    journal.write_bytes(b"".join(content))
    with pytest.warns(UserWarning, match=r"journal .*is damaged"):
        again = one_second_model.predict_files(music, journal=journal)
    pd.testing.assert_frame_equal(again, table, atol=1e-5)
    pd.testing.assert_frame_equal(one_second_model.predict_files(music, journal=journal), table, atol=1e-5)
    assert len(journal.read_bytes().splitlines()) == 4


def test_one_process_uses_a_journal_at_a_time(one_second_model, music, tmp_path):
    journal = tmp_path / "journal"
    with Journal(journal, {}) as first:
        with pytest.raises(OSError, match=r"Another process is using .*journal\. Wait for it"):
            one_second_model.predict_files(music, journal=journal)
        first.add({"path": "a.mp3", "error": "missing"})
    with pytest.raises(KeyError), Journal(journal, {}):
        raise KeyError
    with pytest.warns(UserWarning, match="All of its rows are removed"):
        one_second_model.predict_files(music, journal=journal)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", music.name]


def test_names_in_any_script(one_second_model, music):
    names = ["Дождь 雨 'quoted' \"x\".ogg", "line\nbreak.ogg", os.fsdecode(b"latin-1 \xe9.ogg")]
    for name in names:
        (music / name).write_bytes((music / "a.ogg").read_bytes())
    journal = music / ".journal"
    for _ in range(2):
        table = one_second_model.predict_files(music, journal=journal)
        assert table["error"].isna().all() and {os.path.basename(path) for path in table["path"]} > set(names)


@pytest.mark.parametrize(
    "hop, starts", [(None, np.arange(0, 3.6, 0.5)), (1.0, np.linspace(0, 3.5, 5)), (9.0, [0, 3.5])]
)
def test_timeline(one_second_model, tmp_path, rng, hop, starts):
    path = tmp_path / "x.wav"
    soundfile.write(path, tones(rng, 1, int(4.5 * RATE))[0] / 4, RATE, subtype="FLOAT")
    table = one_second_model.predict_timeline(path, hop_seconds=hop, batch_size=3)
    np.testing.assert_allclose(table["start"], starts)
    np.testing.assert_allclose(table["end"], np.asarray(starts) + 1)
    waveform = audio.load(path, RATE)
    expected = one_second_model.predict(
        np.stack([waveform[round(start * RATE) :][:RATE] for start in starts]), verbose=0
    )
    np.testing.assert_allclose(table[PROBABILITIES], expected, atol=1e-4)


def test_timeline_of_unreadable_files(one_second_model, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 8000)
    with pytest.raises(audio.AudioError, match="too short"):
        one_second_model.predict_timeline(tmp_path / "short.wav")
    with pytest.raises(audio.AudioError, match="no such file"):
        one_second_model.predict_timeline(tmp_path / "x.wav")
    for hop in (0, -1, 1e-9, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match=r"`hop_seconds` must be at least 0\.01"):
            one_second_model.predict_timeline(tmp_path / "short.wav", hop_seconds=hop)
    with pytest.raises(ValueError, match=r"`batch_size` must be an integer > 0\. Received: batch_size=0"):
        one_second_model.predict_timeline(tmp_path / "short.wav", batch_size=0)


def test_a_file_without_decodable_samples(one_second_model, tmp_path, monkeypatch):
    """Its header states 100 s, and seeking in it succeeds, as in a damaged mp3 file."""

    def fail(self, count):
        self.is_damaged = True
        return np.zeros((0, self.channels), "float32")

    soundfile.write(tmp_path / "x.wav", np.zeros(100 * RATE), RATE)
    monkeypatch.setattr(audio.decoders.SndfileDecoder, "_read", fail)
    [row] = one_second_model.predict_files(tmp_path / "x.wav").to_dict("records")
    assert row["error"] == "too short: 0 s, but the minimum is 1 s" and np.isnan(row["probability"])
