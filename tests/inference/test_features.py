"""Cached features of audio files: equal to those of the model, computed once, damaged entries, changed files."""

import os

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from conftest import small_model, tones
from genrekeras import tags
from genrekeras.inference import clip_starts, features, predict
from genrekeras.inference.features import file_features


@pytest.fixture
def files(tmp_path, rng):
    """Files of 1.5, 3 and 5 s, and a file that cannot be read."""
    paths = [tmp_path / f"{number}.wav" for number in range(4)]
    for path, seconds in zip(paths, (1.5, 3, 5), strict=False):
        soundfile.write(path, tones(rng, 1, int(22050 * seconds))[0], 22050)
    paths[3].write_text("no music")
    return list(map(str, paths))


@pytest.fixture
def decoded(monkeypatch):
    """List of the paths that are decoded."""
    paths, decode = [], predict.decode_tracks

    def record(model, selected, *arguments):
        paths.extend(selected)
        return decode(model, selected, *arguments)

    monkeypatch.setattr(features, "decode_tracks", record)
    return paths


@pytest.mark.backends
def test_features_are_those_of_the_model(one_second_model, files, tmp_path):
    results = file_features(one_second_model, files, max_clips=3, cache_dir=tmp_path / "cache")
    assert [len(result.features) for result in results] == [1, 3, 3, 0]
    assert [bool(result.error) for result in results] == [False, False, False, True]
    for path, result in zip(files[:3], results, strict=False):
        y = gk.audio.load(path)
        starts = clip_starts(len(y) / 22050, 1.0, 3)
        clips = np.stack([y[round(22050 * start) :][:22050] for start in starts])
        expected = one_second_model.for_inference("features").predict(clips, verbose=0)
        np.testing.assert_allclose(result.features, expected, rtol=1e-3, atol=1e-4)
    assert len({result.checksum for result in results}) == 4


def test_each_file_is_computed_once(one_second_model, files, tmp_path, decoded):
    cache = tmp_path / "cache"
    first = file_features(one_second_model, files, cache_dir=cache)
    assert decoded == files
    again = file_features(one_second_model, [*files[::-1], files[0]], cache_dir=cache)
    assert decoded == [*files, files[3]]  # errors are not stored
    for old, new in zip(first, again[3::-1], strict=True):
        np.testing.assert_array_equal(old.features, new.features)
        assert old[1:] == new[1:]
    os.utime(files[1], ns=(1, 1))  # the content is the same
    file_features(one_second_model, files[:3], cache_dir=cache)
    assert decoded[5:] == []
    file_features(one_second_model, files[:1], max_clips=1, cache_dir=cache)
    file_features(small_model(), files[:1], cache_dir=cache)  # other weights
    assert decoded[5:] == [files[0], files[0]]


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg", "wav", "aiff"])
def test_tags_and_moves_do_not_matter(one_second_model, kind, tmp_path, rng, decoded):
    path, cache = tmp_path / f"a.{kind}", tmp_path / "cache"
    soundfile.write(path, tones(rng, 1, 44100)[0], 22050)
    [before] = file_features(one_second_model, [str(path)], cache_dir=cache)
    tags.write_genres(path, ["Rock"])
    [after] = file_features(one_second_model, [str(path)], cache_dir=cache)
    np.testing.assert_array_equal(before.features, after.features)
    moved = path.rename(tmp_path / f"b.{kind}")
    file_features(one_second_model, [str(moved)], cache_dir=cache)
    assert decoded == [str(path)]
    soundfile.write(moved, tones(rng, 1, 44100)[0], 22050)
    tags.write_genres(moved, ["Rock"])
    [changed] = file_features(one_second_model, [str(moved)], cache_dir=cache)
    assert decoded == [str(path), str(moved)] and (changed.features != before.features).any()


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_damaged_entries_are_computed_again(one_second_model, files, tmp_path, decoded, content):
    [before] = file_features(one_second_model, files[:1], cache_dir=tmp_path / "cache")
    entries = list((tmp_path / "cache").rglob("*.npz"))
    assert len(entries) == 2
    for entry in entries:
        entry.write_bytes(content)
    [after] = file_features(one_second_model, files[:1], cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(before.features, after.features)
    assert len(decoded) == 2


def test_an_interrupted_call_keeps_finished_files(one_second_model, files, tmp_path, monkeypatch, decoded):
    predict_tracks = features.predict_tracks

    def interrupt(*arguments):
        yield next(iter(predict_tracks(*arguments)))
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "predict_tracks", interrupt)
    with pytest.raises(KeyboardInterrupt):
        file_features(one_second_model, files[:3], batch_size=1, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(features, "predict_tracks", predict_tracks)
    decoded.clear()
    file_features(one_second_model, files[:3], cache_dir=tmp_path / "cache")
    assert decoded == files[1:3]


def test_a_cache_that_cannot_be_written(one_second_model, files, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(OSError, match=r"Features cannot be stored in .*cache: .* Set GENREKERAS_CACHE"):
        file_features(one_second_model, files[:1], cache_dir=tmp_path / "cache")
