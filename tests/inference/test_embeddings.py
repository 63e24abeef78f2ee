"""Embeddings: the mean features of whole files, their neighbours and their map."""

import numpy as np
import pytest
from conftest import numpy
from genrekeras import audio, inference
from genrekeras.inference.embeddings import Embeddings

RATE = 22050


def test_embeddings(one_second_model, music, tmp_path):
    (tmp_path / "text.mp3").write_text("no music")
    (music / "copy.ogg").write_bytes((music / "a.ogg").read_bytes())
    found = one_second_model.embed_files([music, tmp_path / "text.mp3"])
    assert found.vectors.shape == (4, 256) and found.vectors.dtype == np.float32
    assert list(found.errors["path"]) == [str(tmp_path / "text.mp3")]
    table = one_second_model.predict_files(music)
    assert (
        found.files["path"].tolist() == table["path"].tolist()
        and found.files["genre"].tolist() == table["genre"].tolist()
    )
    with audio.AudioFile(music / "b" / "c" / "one.wav", RATE) as file:
        [clip] = inference.load_clips(file, 1.0, [0.0])
        two = [*inference.load_clips(file, 1.0, [0.0, 1.5])]
    features = numpy(one_second_model.feature_extractor(one_second_model.front_end(clip[None])))
    own = found.vectors[found.files["path"] == str(music / "b" / "c" / "one.wav")]
    other = numpy(one_second_model.feature_extractor(one_second_model.front_end(np.stack(two)))).mean(axis=0)
    np.testing.assert_allclose(own[0], other, atol=1e-4 * np.abs(other).max())
    assert np.abs(features[0] - other).max() > 1e-3 * np.abs(other).max()  # more than the first clip is heard

    near = found.nearest(music / "a.ogg", count=2)
    assert near["path"].tolist()[0] == str(music / "copy.ogg") and near["similarity"][0] == pytest.approx(1, abs=1e-5)
    assert len(near) == 2 and near["similarity"][1] < near["similarity"][0]
    with pytest.raises(KeyError, match="is not among the files"):
        found.nearest("b.ogg")
    with pytest.raises(ValueError, match="Not one of 1 files can be read"):
        one_second_model.embed_files(tmp_path / "text.mp3")


def test_the_map_keeps_neighbours(rng):
    """Two clouds that are far from each other stay apart; the same seed gives the same map."""
    centers = rng.normal(0, 1, (2, 50))
    vectors = np.concatenate([center + 0.1 * rng.normal(0, 1, (12, 50)) for center in centers]).astype("float32")
    found = Embeddings(None, vectors, None)
    places = found.map()
    assert places.shape == (24, 2) and np.array_equal(places, found.map())
    first, second = places[:12], places[12:]
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 2 * max(first.std(), second.std())
    for few in (1, 2, 3):
        assert Embeddings(None, vectors[:few], None).map().shape == (few, 2)
