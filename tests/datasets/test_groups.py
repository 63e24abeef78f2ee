"""Artists of tracks: concentration, and folds for cross-validation."""

import numpy as np
import pandas as pd
import pytest
from genrekeras.datasets import Dataset, SpectrogramSplit, assign_folds, concentration

GENRES = ("a", "b", "c")


def spectrograms(rng, labels, artists, name="train"):
    """A split of tiny images."""
    count = len(labels)
    tracks = pd.DataFrame(
        {
            "label": np.asarray(labels, "int32"),
            "genre": [GENRES[label] for label in labels],
            "artist_id": artists,
            "album_id": -1,
            "checksum": np.arange(count),
        },
        index=pd.Index(np.arange(10, 10 + count), name="track_id"),
    )
    images = rng.integers(0, 255, (count, 4, 6, 1)).astype("uint8")
    return SpectrogramSplit(name, images, tracks, 16000, GENRES, "official")


@pytest.fixture
def split(rng):
    """120 tracks of 30 artists. An artist has one genre."""
    artists = np.sort(rng.integers(30, size=120))
    return spectrograms(rng, artists % 3, artists)


def test_concentration_counts_artists_and_effective_size(rng):
    known = spectrograms(rng, [0, 0, 0, 0, 1, 1], [1, 1, 1, 2, 3, 3])
    some = spectrograms(rng, [0, 1, 1], [-1, -1, 4], "validation")
    none = spectrograms(rng, [2, 2], [-1, -1], "test")
    table = concentration({"train": known, "validation": some, "test": none})
    assert table.loc[("train", "all")].tolist() == [6, 3, 3, pytest.approx(36 / 14)]
    assert table.loc[("train", "a")].tolist() == [4, 2, 3, pytest.approx(16 / 10)]
    assert table.loc[("train", "b")].tolist() == [2, 1, 2, 1]
    assert table.loc[("validation", "all")].tolist() == [3, 3, 1, 3]  # each unknown artist counts as one
    assert table.loc[("test", "all"), "tracks"] == 2 and table.loc["test"].iloc[:, 1:].isna().all(axis=None)
    assert ("train", "c") not in table.index and len(table) == 8
    assert concentration({"test": known.select([])}).empty


def test_folds_keep_artists_together_and_genres_balanced(split):
    folds = assign_folds(split)
    assert set(folds) == set(range(5))
    artists = split.tracks["artist_id"].to_numpy()
    assert all(len(set(folds[artists == artist])) == 1 for artist in set(artists))
    for fold in range(5):
        counts = np.bincount(split.labels[folds == fold], minlength=3)
        np.testing.assert_allclose(counts / counts.sum(), np.bincount(split.labels) / len(split), atol=0.12)
    np.testing.assert_array_equal(assign_folds(split), folds)
    assert not np.array_equal(assign_folds(split, seed=1), folds)


def test_folds_do_not_depend_on_the_order_of_tracks(split, rng):
    order = rng.permutation(len(split))
    np.testing.assert_array_equal(assign_folds(split.select(order)), assign_folds(split)[order])


def test_random_folds_separate_artists(split):
    folds = assign_folds(split, protocol="random_folds")
    artists = split.tracks["artist_id"].to_numpy()
    assert any(len(set(folds[artists == artist])) > 1 for artist in set(artists))
    assert np.ptp(np.bincount(folds)) <= 1


def test_tracks_cannot_be_assigned_to_folds(split, rng):
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        assign_folds(split, protocol="official")
    for folds in (1, 2.0, True):
        with pytest.raises(ValueError, match="`folds` must be an integer >= 2"):
            assign_folds(split, folds)
    with pytest.raises(ValueError, match="`folds` must not exceed the number of groups of tracks by artist or"):
        assign_folds(spectrograms(rng, [0, 0, 1], [1, 1, 2]), 3)
    unknown = spectrograms(rng, [0, 1, 2], [-1, -1, -1])
    with pytest.raises(ValueError, match='`protocol="artist_folds"` needs artists or albums, but none is known'):
        assign_folds(unknown, 2)
    with pytest.raises(ValueError, match="`split` must contain each track once"):
        assign_folds(split.select([0, 0, 1]), 2)


def test_a_fold_of_a_dataset_has_other_artists_in_each_split(split):
    train, validation, test = (split.select(np.arange(40) + 40 * part) for part in range(3))
    data = Dataset("d", "official", train, validation, test, GENRES, 16000, {"tracks": 120}, {}, {})
    folds = [data.fold(number) for number in range(5)]
    for fold in folds:
        parts = {name: getattr(fold, name) for name in ("train", "validation", "test")}
        artists = [set(part.tracks["artist_id"]) for part in parts.values()]
        assert not artists[0] & artists[1] and not artists[0] & artists[2] and not artists[1] & artists[2]
        ids = np.concatenate([part.track_ids for part in parts.values()])
        np.testing.assert_array_equal(np.sort(ids), split.track_ids)
        assert all((part.name, part.protocol) == (name, "artist_folds") for name, part in parts.items())
        assert fold.protocol == "artist_folds" and fold.counts["test"] == len(fold.test) > len(fold.validation) > 5
    tested = np.concatenate([fold.test.track_ids for fold in folds])
    np.testing.assert_array_equal(np.sort(tested), split.track_ids)
    with pytest.raises(ValueError, match=r"`fold` must be in 0\.\.4"):
        data.fold(5)
