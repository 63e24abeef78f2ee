"""Protocols and splits."""

import numpy as np
import pytest
from genrekeras.datasets.splits import Split, deal


def test_official_is_what_the_collection_says():
    official = np.array(["train", "test", "validation", "train"])
    rows = deal("official", [5, 6, 7, 8], official)
    assert {name: list(members) for name, members in rows.items()} == {"train": [0, 3], "validation": [2], "test": [1]}


def test_random_is_80_20_within_each_folder_and_seeded():
    ids = np.concatenate([np.arange(0, 50), np.arange(1000, 1100), np.arange(155000, 155010)])
    rows = deal("random", ids, None, seed=1)
    assert sorted([*rows["train"], *rows["validation"]]) == list(range(len(ids)))
    np.testing.assert_array_equal(rows["validation"], rows["test"])
    held_out = ids[rows["validation"]]
    assert [(held_out // 1000 == folder).sum() for folder in (0, 1, 155)] == [10, 20, 2]
    again, other = deal("random", ids, None, seed=1), deal("random", ids, None, seed=2)
    np.testing.assert_array_equal(again["train"], rows["train"])
    assert not np.array_equal(other["train"], rows["train"])


def test_bad_protocols():
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        deal("best", [1], None)
    with pytest.raises(ValueError, match='`protocol="official"` needs the splits'):
        deal("official", [1], None)


def make_split(count=6, fingerprint="f", labels=None):
    source = [{"audio": np.full(3, i, "int16"), "scale": np.float32(2.0)} for i in range(count)]
    labels = np.arange(count) % 3 if labels is None else labels
    return Split("train", source, np.arange(count), 100 + np.arange(count), labels, 10, "abc", "official", fingerprint)


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


def test_the_fingerprint_follows_the_content():
    fingerprints = {
        make_split().fingerprint,
        make_split(5).fingerprint,
        make_split(fingerprint="g").fingerprint,
        make_split(labels=np.zeros(6)).fingerprint,
        make_split().select([1, 0]).fingerprint,
    }
    assert len(fingerprints) == 5 and make_split().fingerprint == make_split().fingerprint
