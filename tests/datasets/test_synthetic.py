"""The synthetic corpus: layout, reproducibility, interruption."""

import os

import genrekeras as gk
import numpy as np
import pytest
from genrekeras.datasets import fma
from genrekeras.datasets import synthetic as module


def test_counts_and_names(synthetic):
    assert all("Synthetic" in genre for genre in synthetic.genres) and "synthetic" in synthetic.name
    assert synthetic.counts == {
        "tracks": 210,
        "missing": 0,
        "incomplete": 0,
        "broken": 2,
        "readable": 208,
        "train": 128,
        "validation": 40,
        "test": 40,
    }
    assert sorted(reason.split(":")[0] for reason in synthetic.broken.values()) == ["cut short", "empty"]
    for split, each in ((synthetic.train, 16), (synthetic.validation, 5), (synthetic.test, 5)):
        assert np.bincount(split.labels).tolist() == [each] * 8
    assert not set(synthetic.train.track_ids) & set(synthetic.test.track_ids)


def test_layout_of_fma(synthetic_cache, synthetic):
    folder = synthetic_cache / "synthetic-2"
    assert (folder / "fma_metadata" / "tracks.csv").is_file()
    files = sorted(os.path.relpath(path, folder) for path in (folder / "fma_small").glob("*/*.mp3"))
    assert len(files) == 210 and files[0] == os.path.join("fma_small", "000", "000002.mp3")


def test_clips_are_reproducible():
    for genre in range(8):
        clip = module.make_clip(genre, 123)
        assert clip.shape == (4 * 44100,) and np.isfinite(clip).all() and 0.1 < np.abs(clip).max() < 1.0
        np.testing.assert_array_equal(module.make_clip(genre, 123), clip)
        assert np.abs(clip - module.make_clip(genre, 124)).max() > 0.1


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_clip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        module.make_synthetic(tmp_path / "cache" / "synthetic-2")
    assert len(calls) >= 7 and os.listdir(tmp_path / "cache") == []


def test_an_existing_folder_is_kept(tmp_path, monkeypatch):
    """Another process may have written it at the same time. A file of this name is an error."""
    rows = list(module._rows())[:1]
    monkeypatch.setattr(module, "_rows", lambda: rows)
    (tmp_path / "synthetic-2").mkdir()
    (tmp_path / "synthetic-2" / "of the other").touch()
    module.make_synthetic(str(tmp_path / "synthetic-2"))
    assert os.listdir(tmp_path) == ["synthetic-2"] and os.listdir(tmp_path / "synthetic-2") == ["of the other"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        module.make_synthetic(str(tmp_path / "file"))


def test_protocols(synthetic_cache, synthetic):
    random = gk.datasets.load_synthetic(protocol="random", cache_dir=synthetic_cache)
    assert random.counts["train"] + random.counts["validation"] == 208
    assert random.counts["validation"] == pytest.approx(0.2 * 208, abs=5)


def test_many_clips_for_benchmarks(tmp_path):
    module.make_many(tmp_path, 20, seconds=2, sounds=2)
    tracks = fma.find_tracks(tmp_path, "small", gk.GENRES)
    assert len(tracks) == 20 and (tracks["bytes"] > 10_000).all() and tracks["bytes"].nunique() <= 2
    assert tracks["split"].value_counts().to_dict() == {"train": 18, "validation": 2}
    assert gk.audio.info(tracks["path"].iloc[0]).seconds == pytest.approx(2, abs=0.1)
