"""Spectrograms: files, batches, features and scores of images, and the real spectrograms of FMA."""

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import SHARED_CLIPS, numpy, small_model
from genrekeras import audio, evaluation, training
from genrekeras.datasets import image_batches, leakage, load_spectrograms, sampled_logmel_front_end
from genrekeras.datasets.groups import artist_groups

SPECTROGRAMS = SHARED_CLIPS.parent / "fma_frames" / "fma_small_frames.npz"
COUNT = 60


@pytest.fixture
def content(rng):
    return {
        "decibels": rng.integers(0, 256, (COUNT, 32, 40), dtype=np.uint8),
        "label": rng.integers(0, 8, COUNT),
        "split": np.where(np.arange(COUNT) < 45, 0, 1),
        "track_id": 7 * np.arange(COUNT) + 900,
    }


@pytest.fixture
def path(tmp_path, content):
    np.savez(tmp_path / "spectrograms.npz", **content)
    return tmp_path / "spectrograms.npz"


@pytest.fixture
def model():
    front_end = sampled_logmel_front_end(frames=40, sample_rate=22050, n_mels=32)
    return small_model(front_end=front_end, image_augmentation=[gk.layers.SpecAugment(seed=1)])


def test_splits(path, content):
    data = load_spectrograms(path, sample_rate=22050)
    assert (len(data.train), len(data.validation), len(data.test)) == (45, 15, 0)
    np.testing.assert_array_equal(data.validation.images[..., 0], content["decibels"][45:])
    np.testing.assert_array_equal(data.validation.labels, content["label"][45:])
    assert data.genres == gk.GENRES and data.protocol == "official" and data.train.protocol == "official"
    assert data.train.fingerprint != data.validation.fingerprint
    assert leakage(data)["duplicates"].tolist() == [0, 0, 0]

    pooled, again = (load_spectrograms(path, "random", seed=seed) for seed in (0, 0))
    folders = pooled.validation.track_ids // 1000
    assert (folders == 0).sum() == round(0.2 * 15) and (folders == 1).sum() == round(0.2 * 45)
    assert sorted([*pooled.train.track_ids, *pooled.validation.track_ids]) == list(content["track_id"])
    assert pooled.train.fingerprint == again.train.fingerprint
    assert load_spectrograms(path, "random", seed=1).train.fingerprint != again.train.fingerprint


def test_artists(path, content, tmp_path):
    """Artists of a CSV file, which are saved with the spectrograms, and are the groups of a report."""
    table = tmp_path / "artists.csv"
    ids = content["track_id"]
    rows = [f"{track},{track // 50},a title" for track in [5, *ids[:-1]]]  # another track; the last one is unknown
    table.write_text("\n".join(["track_id,artist_id,title", *rows]))
    data = load_spectrograms(path, groups=table)
    expected = [*(ids[:-1] // 50), -1]
    assert [*data.train.tracks["artist_id"], *data.validation.tracks["artist_id"]] == expected
    assert leakage(data).loc[("train", "validation"), "artists"] == 1  # track ids 1,208 and 1,215 are of artist 24
    gk.datasets.save_spectrograms(tmp_path / "saved.npz", data.train, data.validation)
    saved = load_spectrograms(tmp_path / "saved.npz")
    np.testing.assert_array_equal(saved.all.track_ids, ids)
    np.testing.assert_array_equal(saved.all.images[..., 0], content["decibels"])
    assert saved.all.tracks["artist_id"].tolist() == expected and saved.all.name == "all"

    groups = artist_groups(saved.validation.tracks)
    assert len(set(groups)) == 4 and (groups[:-1] == saved.validation.tracks["artist_id"][:-1]).all()
    assert artist_groups(load_spectrograms(path).train.tracks) is None
    assert len(load_spectrograms(path, "random").all) == COUNT

    for wrong in ("track_id,artist\n900,1", "track_id,artist_id\n900,x", "track_id,artist_id\n900,1\n900,2", ""):
        table.write_text(wrong)
        with pytest.raises(ValueError, match=r"`groups` must be a CSV file .*artists\.csv"):
            load_spectrograms(path, groups=table)
    with pytest.raises(ValueError, match=r"`groups` must be a CSV file .*nothing\.csv"):
        load_spectrograms(path, groups=tmp_path / "nothing.csv")
    np.savez(path, **content, artist_id=np.zeros(3, int))
    with pytest.raises(ValueError, match="`artist_id` must contain one integer per image"):
        load_spectrograms(path)


def test_genres_of_a_model(path):
    split = load_spectrograms(path).validation
    other = split.with_genres([genre.lower() for genre in reversed(split.genres)])
    assert other.labels.tolist() == [7 - label for label in split.labels] and other.images is split.images
    assert other.fingerprint != split.fingerprint and other.genres[0] == split.genres[7].lower()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": None}, "must be an npz file with the arrays .*'decibels', 'label', 'split', 'track_id'"),
        ({"decibels": np.zeros((COUNT, 32, 40), "float32")}, r"Received: float32 of the shape \(60, 32, 40\)"),
        ({"decibels": np.zeros((3, 32, 40), "uint8")}, r"Received: uint8 of the shape \(3, 32, 40\), and 60 labels"),
        ({"label": np.full(COUNT, 8)}, "`label` must be in 0..7"),
        ({"split": np.full(COUNT, 3)}, "`split` in 0..2"),
        ({"track_id": np.array([None] * COUNT)}, "must be an npz file"),  # a pickle
        ({"label": np.zeros(COUNT)}, "must be one-dimensional arrays of integers"),
        ({"track_id": np.array([f"{i}" for i in range(COUNT)])}, "must be one-dimensional arrays of integers"),
        ({"split": np.zeros((COUNT, 2), int)}, "must be one-dimensional arrays of integers"),
    ],
)
def test_other_files(path, content, change, message):
    content = {key: value for key, value in {**content, **change}.items() if value is not None}
    np.savez(path, **content)
    with pytest.raises(ValueError, match=message):
        load_spectrograms(path)


def test_no_file(tmp_path):
    (tmp_path / "text.npz").write_text("no spectrograms")
    for name in ("text.npz", "none.npz"):
        with pytest.raises(ValueError, match="must be an npz file"):
            load_spectrograms(tmp_path / name)


def test_batches(path):
    split = load_spectrograms(path).train
    data = image_batches(split, 16, shuffle=True, seed=3)
    epochs = []
    for _ in range(2):
        images, labels = (np.concatenate(part) for part in zip(*(data[i] for i in range(len(data))), strict=True))
        assert images.dtype == np.float32 and images.shape == (45, 32, 40, 1)
        order = [int(np.flatnonzero((split.images == image).all(axis=(1, 2, 3)))[0]) for image in images]
        assert sorted(order) == list(range(45)) and (labels == split.labels[order]).all()
        epochs.append(order)
        data.on_epoch_end()
    assert epochs[0] != epochs[1]
    twice = image_batches(split, 4, repeats=2)
    np.testing.assert_array_equal(twice[0][1], split.labels[[0, 0, 1, 1]])


def test_mixing(path):
    """The share of the other image is at most one half, labels are in proportion, and all kinds of mixing occur."""
    split = load_spectrograms(path).train
    split.images = np.broadcast_to(np.arange(45, dtype=np.uint8)[:, None, None, None], (45, 32, 40, 1))
    data = image_batches(split, 15, seed=1, mix_probability=0.6)
    kinds = {"none": 0, "mean": 0, "last frames": 0, "frames": 0}
    for epoch in range(60):
        data.epoch = epoch
        for place in range(len(data)):
            images, labels = data[place]
            assert images.dtype == labels.dtype == np.float32 and images.shape == (15, 32, 40, 1)
            np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
            own = np.arange(15 * place, 15 * place + 15)
            if (images == own[:, None, None, None]).all():
                kinds["none"] += 1
                np.testing.assert_array_equal(labels.argmax(axis=1), split.labels[own])
                continue
            assert (labels[np.arange(15), split.labels[own]] >= 0.5 - 1e-6).all()
            np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1], images.shape))  # complete frames
            columns = images[:, 0, :, 0]
            if (columns == columns[:, :1]).all():
                kinds["mean"] += 1
                continue
            from_own = columns == own[:, None]
            mixed = ~from_own.all(axis=1)
            share = labels[np.arange(15), split.labels[own]]
            alike = np.isclose(share, from_own.mean(axis=1), atol=1e-6) | np.isclose(share, 1, atol=1e-6)
            assert alike.all() and mixed.any()
            last = (np.diff(from_own.astype(int), axis=1) <= 0).all()
            kinds["last frames" if last else "frames"] += 1
    weights = np.arange(8, dtype="float32")
    weighted = image_batches(split, 15, seed=1, mix_probability=0.6, class_weight=weights)
    for place in range(3):
        images, labels, own_weights = weighted[place]
        np.testing.assert_allclose(own_weights, labels @ weights, rtol=1e-6)
    with pytest.raises(ValueError, match='must be None, "balanced", or 8 numbers'):
        image_batches(split, 15, class_weight=[1.0])
    total = sum(kinds.values())
    for kind, share in (("none", 0.4), ("mean", 0.3), ("last frames", 0.15), ("frames", 0.15)):
        assert kinds[kind] / total == pytest.approx(share, abs=0.1), kinds
    one_hot = image_batches(split, 45, one_hot=True)[0][1]
    np.testing.assert_array_equal(one_hot, np.eye(8)[split.labels])
    with pytest.raises(ValueError, match="`mix_probability` must be in"):
        image_batches(split, 8, mix_probability=2)


@pytest.mark.backends
def test_features_and_scores(path, model, tmp_path):
    """They equal the outputs of the parts of the model. With augmentation, the variants differ."""
    data = load_spectrograms(path, sample_rate=22050)
    calibrate_on_images(model, data.train.images)
    model.fine_tune = "head"
    found = training.extract_features(model, data.validation, tmp_path / "cache")
    images = data.validation.images.astype("float32")
    expected = numpy(model.feature_extractor(images, training=False))
    np.testing.assert_allclose(found.features, expected, atol=1e-4 * np.ptp(expected))
    np.testing.assert_array_equal(found.labels, data.validation.labels)
    several = training.extract_features(model, data.validation, tmp_path / "cache", crops=2, augment=True)
    assert several.features.shape == (30, expected.shape[1])
    differences = np.abs(several.features[0::2] - several.features[1::2]).max(axis=1)
    assert (differences > 1e-3 * np.ptp(expected)).mean() > 0.5
    report = evaluation.evaluate(model, data.validation)
    np.testing.assert_allclose(report.probabilities, numpy(model.image_model(images, training=False)), atol=1e-4)
    assert report.input_coverage == "40 frames of each" and (report.track_ids == data.validation.track_ids).all()
    with pytest.raises(ValueError, match="`sample_rate` is not the model's"):
        evaluation.evaluate(model, load_spectrograms(path).validation)


def calibrate_on_images(model, images):
    norms = [x for x in model.feature_extractor.layers if isinstance(x, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model.feature_extractor(images.astype("float32"), training=True)
    for norm in norms:
        norm.momentum = 0.9


def test_the_front_end_computes_the_real_spectrograms_of_real_clips(real_clips):
    """Within 0.1 dB on average, for each of the 8 clips at its own length of at most 30 s."""
    if not SPECTROGRAMS.is_file():
        pytest.skip("the real spectrograms (shared/data/fma_frames beside this checkout) are not here")
    data = load_spectrograms(SPECTROGRAMS)
    assert (len(data.train), len(data.validation)) == (6394, 800)
    front_end = keras.Sequential(sampled_logmel_front_end())
    compared = 0
    for track_id, path in real_clips.items():
        for split in (data.train, data.validation):
            for row in np.flatnonzero(split.track_ids == track_id):
                image = numpy(front_end(audio.load(path, 44100, duration=30.0)[None]))[0, :, :, 0]
                assert np.abs(image - split.images[row, :, :, 0]).mean() * 80 / 255 < 0.1, track_id
                compared += 1
    assert compared == len(real_clips)


def test_optional_content_and_invalid_content(path, content, tmp_path):
    genres = np.array(list("abcdefgh"))
    np.savez(path, **content, genres=genres, protocol=np.array("artist_album"))
    data = load_spectrograms(path)
    assert data.genres == tuple("abcdefgh") and data.protocol == data.train.protocol == "artist_album"
    assert load_spectrograms(path, "random").protocol == "random"
    with pytest.raises(ValueError, match="has no images"):
        image_batches(data.test, 4)
    with pytest.raises(ValueError, match="has no images"):
        evaluation.evaluate(small_model(genres=list("abcdefgh")), data.test)
    np.savez(path, **{**content, "track_id": np.arange(COUNT) // 2})
    with pytest.raises(ValueError, match="contains an id several times"):
        load_spectrograms(path)
    np.save(tmp_path / "array.npy", content["decibels"])
    with pytest.raises(ValueError, match="must be an npz file"):
        load_spectrograms(tmp_path / "array.npy")


def test_select(path):
    split = gk.datasets.load_spectrograms(path).train
    chosen = split.select([2, 0])
    assert list(chosen.track_ids) == list(split.track_ids[[2, 0]]) and len(split.select([])) == 0
    with pytest.raises(ValueError, match="not a mask"):
        split.select(split.labels == 1)


def test_spectrograms_of_music(synthetic, tmp_path):
    """The images equal the outputs of the front end to half a grey level. A saved file can be loaded."""
    front_end = sampled_logmel_front_end(frames=40, sample_rate=22050, n_mels=32)
    model = small_model(front_end=front_end, genres=synthetic.genres)
    split = synthetic.validation.select([3, 1, 30])
    images = gk.datasets.compute_spectrograms(split, model, crop="even", crops=2)
    assert images.images.shape == (6, 32, 40, 1) and images.images.dtype == np.uint8
    assert images.track_ids.tolist() == np.repeat(split.track_ids, 2).tolist() and images.genres == synthetic.genres
    first = numpy(model.front_end(split[2]["audio"][None, : model.input_shape[1]]))[0]
    np.testing.assert_allclose(images.images[4], first, atol=0.51)
    assert (images.images[4] != images.images[5]).any()
    others = [gk.datasets.compute_spectrograms(split, model, crop).fingerprint for crop in ("start", "center")]
    assert len({images.fingerprint, *others}) == 3
    with pytest.raises(ValueError, match="each track once"):
        evaluation.evaluate(model, images)
    images = gk.datasets.compute_spectrograms(split, model)
    other = gk.datasets.compute_spectrograms(synthetic.train.select([0, 5]), model)
    gk.datasets.save_spectrograms(tmp_path / "f.npz", other, images)
    data = load_spectrograms(tmp_path / "f.npz")
    assert data.sample_rate == data.train.sample_rate == 22050
    np.testing.assert_array_equal(data.validation.images, images.images)
    np.testing.assert_array_equal(data.train.labels, synthetic.train.labels[[0, 5]])
    split.sample_rate = 44100
    with pytest.raises(ValueError, match="sample_rate"):
        gk.datasets.compute_spectrograms(split, model)
    musicnn = gk.GenreClassifier("musicnn", fine_tune="all", pretrained=None)
    with pytest.raises(ValueError, match=r"`model` must have images in \[0, 255\]"):
        gk.datasets.compute_spectrograms(split, musicnn)


def test_splits_that_cannot_be_saved(path, tmp_path):
    data, other, test = load_spectrograms(path), load_spectrograms(path, "random"), tmp_path / "f.npz"
    renamed = load_spectrograms(path).train
    renamed.name = "held out"
    for splits, message in [
        ((), "must be one or more splits with names in"),
        ((data.train, renamed), "must be one or more splits with names in"),
        ((data.train, other.validation), "the same genres, protocol and sample rate"),
        ((data.train, data.train), "must contain one image per track"),
    ]:
        with pytest.raises(ValueError, match=message):
            gk.datasets.save_spectrograms(test, *splits)
    assert not test.exists()


def test_soft_labels_and_embeddings(path, rng):
    split = load_spectrograms(path).train
    soft_labels = rng.dirichlet(np.ones(8), 45).astype("float32")
    data = image_batches(split, 15, soft_labels=soft_labels)
    np.testing.assert_array_equal(np.concatenate([data[place][1] for place in range(3)]), soft_labels)
    assert data.fingerprint != image_batches(split, 15, one_hot=True).fingerprint
    mixed = image_batches(split, 45, mix_probability=1.0, soft_labels=soft_labels)[0][1]
    expected = image_batches(split, 45, mix_probability=1.0)[0][1]
    assert (mixed != expected).any() and mixed.sum() == pytest.approx(45, abs=1e-3)
    one_hot = np.eye(8)[split.labels]
    np.testing.assert_array_equal(image_batches(split, 45, mix_probability=1.0, soft_labels=one_hot)[0][1], expected)
    embeddings = rng.normal(size=(45, 3)).astype("float32")
    data = image_batches(
        split, 45, mix_probability=1.0, soft_labels=one_hot, embeddings=np.hstack([one_hot, embeddings])
    )
    labels, mixed = data[0][1]
    np.testing.assert_array_equal(labels, expected)  # embeddings are mixed like labels
    np.testing.assert_array_equal(mixed[:, :8], expected)
    assert mixed.shape == (45, 11) and mixed.dtype == np.float32
    labels, embedded = image_batches(split, 15, embeddings=embeddings)[2][1]
    np.testing.assert_array_equal(labels, split.labels[30:])
    np.testing.assert_array_equal(embedded, embeddings[30:])
    with pytest.raises(ValueError, match=r"`embeddings` must have 45 rows. Received: shape \(44, 3\)"):
        image_batches(split, 15, embeddings=embeddings[:44])
    for wrong in (soft_labels[:44], soft_labels[:, :7], -soft_labels, soft_labels * np.nan):
        with pytest.raises(ValueError, match="`soft_labels` must be 45 rows of 8 numbers >= 0"):
            image_batches(split, 15, soft_labels=wrong)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"repeats": 0}, {"seed": -1}])
def test_invalid_arguments(path, option):
    [(name, value)] = option.items()
    with pytest.raises(ValueError, match=rf"`{name}` must be an integer >= \d\. Received: {name}={value}"):
        image_batches(load_spectrograms(path).train, **{"batch_size": 8, **option})


def test_a_front_end_that_keeps_all_frames():
    model = small_model(front_end=sampled_logmel_front_end(frames=None, sample_rate=22050, n_mels=32))
    assert model.image_model.input_shape == (None, 32, 44, 1)
