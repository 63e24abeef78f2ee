"""Protocols, splits, groups and leakage."""

import numpy as np
import pandas as pd
import pytest
from genrekeras.datasets.groups import group_tracks, leakage
from genrekeras.datasets.splits import Dataset, Split, assign_splits, match_genres


def table(ids, **columns):
    """A table of tracks for `assign_splits`."""
    columns = {"label": np.zeros(len(ids), int), "folder": np.asarray(ids) // 1000, **columns}
    columns = {"artist_id": -1, "album_id": -1, **columns}
    return pd.DataFrame(columns, index=pd.Index(ids, name="track_id"))


def test_official_splits_are_those_of_the_collection():
    rows = assign_splits("official", table([5, 6, 7, 8], split=["train", "test", "validation", "train"]))
    assert {name: list(members) for name, members in rows.items()} == {"train": [0, 3], "validation": [2], "test": [1]}


def test_random_is_80_20_within_each_folder_and_seeded():
    ids = np.concatenate([np.arange(0, 50), np.arange(1000, 1100), np.arange(155000, 155010)])
    rows = assign_splits("random", table(ids), seed=1)
    assert sorted([*rows["train"], *rows["validation"]]) == list(range(len(ids)))
    np.testing.assert_array_equal(rows["validation"], rows["test"])
    held_out = ids[rows["validation"]]
    assert [(held_out // 1000 == folder).sum() for folder in (0, 1, 155)] == [10, 20, 2]
    again, other = assign_splits("random", table(ids), seed=1), assign_splits("random", table(ids), seed=2)
    np.testing.assert_array_equal(again["train"], rows["train"])
    assert not np.array_equal(other["train"], rows["train"])


def test_groups():
    """Tracks 0 and 1 share an artist, 1 and 2 an album, 4 and 5 their audio. Nothing is known of track 3."""
    tracks = table(range(6), artist_id=[1, 1, 2, -1, 3, 4], album_id=[10, 11, 11, -1, 12, -1])
    groups = group_tracks(tracks)
    assert groups[0] == groups[1] == groups[2] and len(set(groups[2:])) == 4
    groups = group_tracks(tracks.assign(checksum=["p", "q", "r", "s", "t", "t"]))
    assert groups[4] == groups[5] and len(set(groups)) == 3


def test_groups_equal_those_of_a_search(rng):
    tracks = table(range(200), artist_id=rng.integers(-1, 90, 200), album_id=rng.integers(-1, 120, 200))
    groups = group_tracks(tracks)
    rows = list(tracks[["artist_id", "album_id"]].itertuples(index=False))
    for start in range(0, 200, 17):
        reached, todo = {start}, [start]
        while todo:
            row = rows[todo.pop()]
            for other in set(range(200)) - reached:
                if any(a == b != -1 for a, b in zip(row, rows[other], strict=True)):
                    reached.add(other)
                    todo.append(other)
        assert reached == set(np.flatnonzero(groups == groups[start]))


def test_artist_album_moves_only_groups_in_several_splits():
    """Tracks 0, 1 and 2 are on a compilation, and most of them are in test. Tracks 3 and 4 are a tie."""
    official = ["train", "test", "test", "train", "validation", "validation", "train"]
    tracks = table(range(7), split=official, artist_id=[1, 2, 3, 4, 4, 5, 6], album_id=[9, 9, 9, -1, -1, -1, -1])
    rows = assign_splits("artist_album", tracks)
    assert {name: list(members) for name, members in rows.items()} == {
        "train": [3, 4, 6],
        "validation": [5],
        "test": [0, 1, 2],
    }


@pytest.mark.parametrize("seed", range(3))
def test_artist_album_without_official_splits(rng, seed):
    """Unequal genres, albums of 1 to 12 tracks: no album is divided, and shares are near 80/10/10 in each genre."""
    sizes = [int(n) for n in rng.integers(1, 13, 150)]
    labels = rng.choice(3, 150, p=[0.6, 0.3, 0.1])
    tracks = table(range(sum(sizes)), label=np.repeat(labels, sizes), album_id=np.repeat(np.arange(150), sizes))
    rows = assign_splits("artist_album", tracks, seed=seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(tracks)))
    groups = {name: set(tracks["album_id"].iloc[members]) for name, members in rows.items()}
    assert not groups["train"] & groups["test"] and not groups["validation"] & (groups["train"] | groups["test"])
    for label in range(3):
        count = (tracks["label"] == label).sum()
        for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert (tracks["label"].iloc[rows[name]] == label).sum() / count == pytest.approx(share, abs=0.08)
    again = assign_splits("artist_album", tracks, seed=seed)
    assert all(np.array_equal(again[name], rows[name]) for name in rows)
    assert not np.array_equal(assign_splits("artist_album", tracks, seed=seed + 1)["test"], rows["test"])


@pytest.mark.parametrize(
    "count, shares", [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (5, [3, 1, 1]), (30, [24, 3, 3])]
)
def test_artist_album_with_few_groups(count, shares):
    tracks = table(range(2 * count), label=np.arange(2 * count) % 2, album_id=np.arange(2 * count))
    rows = assign_splits("artist_album", tracks)
    for label in (0, 1):
        counts = [(tracks["label"].iloc[rows[name]] == label).sum() for name in ("train", "validation", "test")]
        assert counts == shares


def test_invalid_protocols():
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        assign_splits("best", table([1]))
    with pytest.raises(ValueError, match='`protocol="official"` needs official splits'):
        assign_splits("official", table([1]))
    with pytest.raises(ValueError, match='`protocol="artist_album"` needs artists or albums'):
        assign_splits("artist_album", table([1]))


def test_leakage_counts_what_is_shared():
    def split_of(artists, albums, checksums):
        tracks = table(range(len(artists)), artist_id=artists, album_id=albums).assign(checksum=checksums)
        return Split("x", [], range(len(artists)), tracks, 10, "ab", "official", "f")

    train = split_of([1, 2, 3, -1], [10, 11, 12, -1], list("abcd"))
    test = split_of([1, 1, 4, -1, 5], [13, 10, 12, -1, -1], list("efgad"))
    result = leakage({"train": train, "test": test})
    assert result.loc[("train", "test")].to_dict() == {"artists": 1, "albums": 2, "duplicates": 2, "clips": 5, "of": 5}
    assert leakage({"train": train, "test": test.select([2])}).loc[("train", "test"), "clips"] == 1
    unknown = split_of([-1, -1], [-1, -1], list("xy"))
    row = leakage({"a": unknown, "b": unknown}).loc[("a", "b")]
    assert row["artists"] is pd.NA and row["albums"] is pd.NA and row["duplicates"] == 2


def make_split(count=6, fingerprint="f", labels=None):
    source = [{"audio": np.full(3, i, "int16"), "scale": np.float32(2.0)} for i in range(count)]
    labels = np.arange(count) % 3 if labels is None else labels
    tracks = table(100 + np.arange(count), label=labels)
    return Split("train", source, np.arange(count), tracks, 10, "abc", "official", fingerprint)


def test_a_split_is_a_sequence():
    split = make_split()
    assert len(split) == 6
    element = split[4]
    assert element["genre"] == 1 and element["track_id"] == 104 and element["audio"].dtype == np.float32
    np.testing.assert_allclose(element["audio"], 4 * 2 / 32767, rtol=1e-6)
    chosen = split.select([4, 0])
    assert list(chosen.track_ids) == [104, 100] and chosen[0]["track_id"] == 104
    with pytest.raises(IndexError):
        split[6]
    with pytest.raises(ValueError, match="not a mask"):
        split.select(split.labels == 1)


def test_the_fingerprint_depends_on_the_content():
    fingerprints = {
        make_split().fingerprint,
        make_split(5).fingerprint,
        make_split(fingerprint="g").fingerprint,
        make_split(labels=np.zeros(6)).fingerprint,
        make_split().select([1, 0]).fingerprint,
    }
    assert len(fingerprints) == 5 and make_split().fingerprint == make_split().fingerprint


def test_match_genres():
    known = ("Hip-Hop", "Pop", "rock", "Rock", "\u00c9lectro")
    assert match_genres(["hip-hop", "POP ", "Rock", "E\u0301lectro", "POP "], known) == {
        "hip-hop": 0,
        "POP ": 1,
        "Rock": 3,
        "E\u0301lectro": 4,
    }
    assert match_genres(["R and B", "hip hop"], ("Hip-Hop", "R&B")) == {"R and B": 1, "hip hop": 0}
    assert match_genres(["Jazz", "pop", "Blues"], known, ignore_others=True) == {"pop": 1}
    for genres, message in (
        (["Jazz", "Pop", "Blues"], r"does not have: 'Jazz', 'Blues'\. .* are 'Hip-Hop', 'Pop'"),
        (["ROCK", "Pop"], "cannot be matched uniquely with genres of the model: 'ROCK'"),
        (["Pop", "pop"], "cannot be matched uniquely .*: 'Pop', 'pop'"),
    ):
        with pytest.raises(ValueError, match=message):
            match_genres(genres, known)


@pytest.mark.parametrize("protocol", ["official", "random"])
def test_all_contains_each_clip_once(protocol):
    ids = np.arange(50)
    parts = ["validation", "test", *["train"] * 48]
    tracks = table(ids, label=ids % 2, genre=np.array(["a", "b"])[ids % 2], split=parts)
    source = [{"audio": np.full(3, i, "int16"), "scale": np.float32(1)} for i in ids]
    splits = {
        name: Split(name, source, rows, tracks.iloc[rows], 8000, ("a", "b"), protocol, "x")
        for name, rows in assign_splits(protocol, tracks).items()
    }
    dataset = Dataset("d", protocol, **splits, genres=("a", "b"), sample_rate=8000, counts={}, incomplete={}, broken={})
    assert dataset.all.name == "all" and dataset.all.protocol == protocol
    np.testing.assert_array_equal(dataset.all.track_ids, ids)
    np.testing.assert_array_equal(dataset.all.labels, ids % 2)
    assert [round(dataset.all[i]["audio"][0] * 32767) for i in ids] == list(ids)
    other = dataset.all.with_genres(["c", "B", "A"])
    assert other.labels.tolist() == [2 - i % 2 for i in ids] and other.fingerprint != dataset.all.fingerprint
    assert other.tracks["genre"].tolist() == ["AB"[i % 2] for i in ids] and other[7]["genre"] == 1
