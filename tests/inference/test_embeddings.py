"""Embeddings: mean features of files, nearest neighbors, and the map."""

import numpy as np
import pytest
from conftest import numpy
from genrekeras import audio, inference
from genrekeras.inference.embeddings import Embeddings

RATE = 22050


def test_embeddings(one_second_model, music, tmp_path):
    (tmp_path / "text.mp3").write_text("no music")
    (music / "copy.ogg").write_bytes((music / "a.ogg").read_bytes())
    embeddings = one_second_model.embed_files([music, tmp_path / "text.mp3"])
    assert embeddings.vectors.shape == (4, 256) and embeddings.vectors.dtype == np.float32
    assert list(embeddings.errors["path"]) == [str(tmp_path / "text.mp3")]
    table = one_second_model.predict_files(music)
    for column in ("path", "genre"):
        assert embeddings.files[column].tolist() == table[column].tolist()
    with audio.AudioFile(music / "b" / "c" / "one.wav", RATE) as file:
        clips = np.stack(list(inference.load_clips(file, 1.0, [0.0, 1.5])))
    [vector] = embeddings.vectors[embeddings.files["path"] == str(music / "b" / "c" / "one.wav")]
    features = numpy(one_second_model.feature_extractor(one_second_model.front_end(clips)))
    mean = features.mean(axis=0)
    np.testing.assert_allclose(vector, mean, atol=1e-4 * np.abs(mean).max())
    assert np.abs(features[0] - mean).max() > 1e-3 * np.abs(mean).max()  # the clips differ

    nearest = embeddings.nearest(music / "a.ogg", count=2)
    assert nearest["path"][0] == str(music / "copy.ogg") and nearest["similarity"][0] == pytest.approx(1, abs=1e-5)
    assert len(nearest) == 2 and nearest["similarity"][1] < nearest["similarity"][0]
    with pytest.raises(KeyError, match="is not one of the files"):
        embeddings.nearest("b.ogg")
    with pytest.raises(ValueError, match="None of the 1 files can be read"):
        one_second_model.embed_files(tmp_path / "text.mp3")


def test_the_map_keeps_neighbors(rng):
    """Two distant clusters remain separate; the same seed gives the same map."""
    centers = rng.normal(0, 1, (2, 50))
    vectors = np.concatenate([center + 0.1 * rng.normal(0, 1, (12, 50)) for center in centers]).astype("float32")
    embeddings = Embeddings(None, vectors, None)
    points = embeddings.map()
    assert points.shape == (24, 2) and np.array_equal(points, embeddings.map())
    first, second = points[:12], points[12:]
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 2 * max(first.std(), second.std())
    for few in (1, 2, 3):
        assert Embeddings(None, vectors[:few], None).map().shape == (few, 2)
