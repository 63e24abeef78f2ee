"""Tracks with several labels: splits, batches, weights, folds, spectrograms and cached features."""

import genrekeras as gk
import hypothesis
import numpy as np
import pandas as pd
import pytest
from conftest import calibrate, numpy, small_model, tones
from genrekeras import training
from genrekeras.datasets import SpectrogramSplit, Split, assign_folds, batches, class_weights, concentration
from genrekeras.datasets.labels import add_labels, label_rows, sample_weights, stratification_labels
from genrekeras.datasets.splits import Dataset, assign_splits
from hypothesis import strategies as st

GENRES = ("Folk", "Jazz", "Pop", "Rock")
NAMES = [("Rock",), ("Pop", "Rock"), ("Rock", "Pop"), ("Rock", "Folk"), ("Jazz",), ("Jazz", "Rock")]
ROWS = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 1]], "float32")


def table(names=NAMES):
    tracks = pd.DataFrame({"genres": names}, index=pd.Index(100 + np.arange(len(names)), name="track_id"))
    tracks = tracks.assign(artist_id=np.arange(len(names)), album_id=-1, checksum=np.arange(len(names)))
    return add_labels(tracks, GENRES)


def make_split(name="train", rows=range(6), tracks=None, rate=100):
    tracks = table() if tracks is None else tracks
    source = [{"audio": np.full(rate, i, "int16"), "scale": np.float32(32767)} for i in range(len(tracks))]
    return Split(name, source, rows, tracks.iloc[list(rows)], rate, GENRES, "artist_album", "f")


def make_images(rng, tracks):
    images = rng.integers(0, 256, (len(tracks), 32, 40, 1), dtype=np.uint8)
    return SpectrogramSplit("train", images, tracks, 22050, GENRES, "official")


def test_a_split_has_a_row_of_labels_for_each_clip():
    split = make_split()
    assert split.multi_label and split.labels.dtype == np.float32
    np.testing.assert_array_equal(split.labels, ROWS)
    np.testing.assert_array_equal(split[3]["genre"], [1, 0, 0, 1])
    chosen = split.select([4, 0])
    np.testing.assert_array_equal(chosen.labels, ROWS[[4, 0]])
    assert chosen[0]["track_id"] == 104 and chosen.select([]).labels.shape == (0, 4)
    assert not make_split(tracks=table().assign(label=0).drop(columns=["labels", "genres"])).multi_label


def test_the_fingerprint_depends_on_all_labels(rng):
    other = table([*NAMES[:-1], ("Jazz", "Pop")])
    assert make_split().fingerprint == make_split().fingerprint != make_split(tracks=other).fingerprint
    image, other_image = (make_images(np.random.default_rng(0), tracks) for tracks in (table(), other))
    assert image.fingerprint != other_image.fingerprint == make_images(np.random.default_rng(0), other).fingerprint


def test_joined_splits_and_other_genres():
    splits = {"train": [1, 3, 4], "validation": [0, 5], "test": [2]}
    data = Dataset(
        "d",
        "artist_album",
        **{name: make_split(name, rows) for name, rows in splits.items()},
        genres=GENRES,
        sample_rate=100,
        counts={},
        incomplete={},
        broken={},
    )
    np.testing.assert_array_equal(data.all.labels, ROWS)
    other = data.all.with_genres(["rock", "Metal", "pop", "jazz", "folk"])
    np.testing.assert_array_equal(other.labels, ROWS[:, [3, 2, 2, 1, 0]] * [1, 0, 1, 1, 1])
    assert other.tracks["genres"].iloc[3] == ("rock", "folk") and other.fingerprint != data.all.fingerprint
    with pytest.raises(ValueError, match="does not have: 'Jazz'"):
        data.all.with_genres(["rock", "pop", "folk"])
    assert gk.datasets.leakage(data)["clips"].tolist() == [0, 0, 0]


def test_batches_have_rows_of_labels():
    data = batches(make_split(), 4, 1.0)
    rows = np.concatenate([data[i][1] for i in range(2)])
    np.testing.assert_array_equal(rows, ROWS)
    assert rows.dtype == np.float32 and data.multi_label
    one_label = make_split(tracks=table().drop(columns="labels").assign(label=1))
    assert not batches(one_label, 4, 1.0).multi_label


def test_mixup_mixes_rows_like_waveforms():
    """Row i is m * row i + (1 - m) * row j, and waveform i is m * i + (1 - m) * j."""
    waveforms, rows, weights = batches(make_split(), 6, 1.0, mixup_alpha=0.4, class_weight=[1, 2, 3, 4], seed=1)[0]
    shares = []
    for i, (waveform, row) in enumerate(zip(waveforms, rows, strict=True)):
        candidates = {j: (waveform[0] - j) / (i - j) for j in range(6) if j != i}
        found = [m for j, m in candidates.items() if np.allclose(row, m * ROWS[i] + (1 - m) * ROWS[j], atol=1e-5)]
        assert any(-1e-6 < m < 1 + 1e-6 for m in found)
        shares += found
    assert any(0.01 < m < 0.99 for m in shares)
    np.testing.assert_allclose(weights, rows @ [1, 2, 3, 4] / rows.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("label", [2, [1, 0, 0], [[1, 0, 0, 1]], [1, 0, 0, 1.5], [0, 0, -1, 0], [0, np.nan, 0, 0]])
def test_invalid_rows(label):
    split = make_split()
    split.labels = [label] * 6
    with pytest.raises(ValueError, match=r"The label of track 100 must be 4 values in \[0, 1\]\. Received: "):
        batches(split, 2, 1.0)[0]


def test_a_row_is_refused_if_clips_have_one_label():
    class Clips:
        sample_rate, genres = 100, GENRES

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return make_split()[index]

    with pytest.raises(ValueError, match=r"The label of track 100 must be in 0\.\.3\. Received: \[0"):
        batches(Clips(), 2, 1.0)[0]
    Clips.multi_label = True
    np.testing.assert_array_equal(batches(Clips(), 2, 1.0)[0][1], ROWS[:2])


def test_class_weights_of_several_labels():
    weights = class_weights(make_split())
    np.testing.assert_allclose(weights / weights[3], 5 / np.array([1, 2, 2, 5]), rtol=1e-6)  # tracks of each genre
    _, rows, given = batches(make_split(), 6, 1.0, class_weight="balanced")[0]
    assert given.mean() == pytest.approx(1) and given.dtype == np.float32
    np.testing.assert_allclose(given[[0, 3]], [weights[3], (weights[0] + weights[3]) / 2], rtol=1e-6)
    rows[0] = 0
    assert sample_weights(rows, weights)[0] == 1


@hypothesis.given(st.lists(st.sets(st.integers(0, 3)), max_size=30))
def test_the_mean_weight_of_clips_is_1(labels):
    tracks = pd.DataFrame({"labels": [tuple(row) for row in labels]}, index=range(len(labels)), dtype=object)
    split = Split("x", [], range(len(labels)), tracks, 100, GENRES, "official", "f")
    weights = class_weights(split)
    counts = split.labels.sum(axis=0)
    assert ((weights > 0) == (counts > 0)).all()
    np.testing.assert_allclose((weights * counts)[counts > 0], (weights * counts).max(), rtol=1e-5)
    if labels:
        assert sample_weights(split.labels, weights).mean() == pytest.approx(1, rel=1e-5)


def test_weights_of_rows_with_one_label_are_those_of_integers(rng):
    class Clips:
        genres, labels = GENRES, rng.choice(4, 50, p=[0.6, 0.3, 0.1, 0])

    weights = class_weights(Clips)
    Clips.labels = label_rows(Clips.labels, 4)
    np.testing.assert_array_equal(class_weights(Clips), weights)


def test_the_rarest_label_of_a_track_is_its_label_for_stratification():
    assert stratification_labels(table()).tolist() == [3, 2, 2, 0, 1, 1]
    assert stratification_labels(table([("Pop", "Folk"), ()])).tolist() == [0, -1]
    assert stratification_labels(table(), np.array([7, 7, 7, 2, 2, 9])).tolist() == [2, 2, 2, 0, 0, 1]


def test_splits_and_folds_keep_the_shares_of_rare_genres(rng):
    """60 artists of 3 tracks; Rock is on all of them, and Jazz on those of 6 artists."""
    names = [("Rock", "Jazz") if artist % 10 == 0 else ("Rock",) for artist in range(60) for _ in range(3)]
    tracks = table(names).assign(artist_id=np.repeat(np.arange(60), 3))
    rows = assign_splits("artist_album", tracks)
    jazz = {name: sum("Jazz" in row for row in tracks["genres"].iloc[rows[name]]) for name in rows}
    assert jazz == {"train": 12, "validation": 3, "test": 3}
    split = make_split(rows=range(180), tracks=tracks)
    for protocol in ("artist_folds", "random_folds"):
        folds = assign_folds(split, 3, protocol=protocol)
        assert np.bincount(folds[split.labels[:, 1] == 1]).tolist() == [6, 6, 6]
    part = split.select(np.flatnonzero(folds > 0))
    refolded = assign_folds(part, 2)
    assert np.bincount(refolded[part.labels[:, 1] == 1]).tolist() == [6, 6]
    counted = concentration({"all": split})["tracks"]
    assert counted.loc["all"].to_dict() == {"all": 180, "Rock": 180, "Jazz": 18}


def test_batches_of_spectrograms(rng, tmp_path):
    split = make_images(rng, table())
    data = gk.datasets.image_batches(split, 6, class_weight="balanced")
    assert split.multi_label and data.multi_label
    _, rows, weights = data[0]
    np.testing.assert_array_equal(rows, ROWS)
    assert weights.mean() == pytest.approx(1)
    mixed = gk.datasets.image_batches(split, 6, mix_probability=1.0)[0][1]
    assert ((mixed >= 0) & (mixed <= 1)).all() and (mixed % 1 > 0).any() and mixed.sum(axis=1).min() >= 1
    np.testing.assert_array_equal(
        split.select([5, 1]).join([split], "x").with_genres(GENRES).labels[:3], ROWS[[5, 1, 0]]
    )
    gk.datasets.save_spectrograms(tmp_path / "x.npz", split)
    again = gk.datasets.load_spectrograms(tmp_path / "x.npz").train
    np.testing.assert_array_equal(again.labels, ROWS)
    np.testing.assert_array_equal(again.images, split.images)
    assert (
        again.multi_label
        and again.genres == GENRES
        and again.tracks["genres"].map(set).tolist() == [set(names) for names in NAMES]
    )
    with pytest.raises(ValueError, match="must all have one label per track, or all have several"):
        single = table().assign(label=0).drop(columns=["labels", "genres"])
        gk.datasets.save_spectrograms(tmp_path / "x.npz", split, make_images(rng, single).select([]))
    arrays = dict(np.load(tmp_path / "x.npz"))
    for labels, message in ((2 * arrays["label"], r"`label` must be in 0\.\.1"), (arrays["label"][:, 1:], r"\(n, 4\)")):
        np.savez(tmp_path / "y.npz", **{**arrays, "label": labels})
        with pytest.raises(ValueError, match=message):
            gk.datasets.load_spectrograms(tmp_path / "y.npz")


@pytest.mark.backends
def test_a_head_is_trained_on_cached_features_with_several_labels(rng, tmp_path):
    """The same loss as with the batches themselves."""
    waves = tones(rng, 6, 22050) / 4
    model = small_model(genres=GENRES, fine_tune="head", dropout=0.0, multi_label=True)
    calibrate(model, waves)
    source = [{"audio": (32767 * wave).astype("int16"), "scale": np.float32(1)} for wave in waves]
    split = Split("train", source, range(6), table(), 22050, GENRES, "artist_album", "f")
    features = training.extract_features(model, split, tmp_path)
    np.testing.assert_array_equal(features.labels, ROWS)
    data = split.batches(6, 1.0)
    model.compile("sgd", "binary_crossentropy")
    waveforms, rows = data[0]
    weights = sample_weights(rows, class_weights(split))
    loss = model.evaluate(waveforms, rows, sample_weight=weights, verbose=0)
    before = [numpy(weight) for weight in model.head.trainable_variables]
    fit = training.fit_head(model, features, batch_size=6, class_weight="balanced", verbose=0).history["loss"]
    assert fit == [pytest.approx(loss, rel=1e-5)]
    assert not np.array_equal(numpy(model.head.trainable_variables[0]), before[0])
