"""Cached features: training on them equals training of the whole model, and entries depend on all parts before them."""

import os
import shutil
import threading

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, mixed_precision, numpy, small_model
from genrekeras import training
from genrekeras.datasets import batches
from genrekeras.training import feature_cache


def make_model(synthetic, **options):
    keras.utils.set_random_seed(5)
    model = small_model(genres=synthetic.genres, fine_tune="all", **options)
    calibrate(model, np.stack([synthetic.train[i]["audio"][:22050] for i in range(0, 128, 4)]))
    model.fine_tune = "head"
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def split(synthetic):
    return synthetic.validation.select(range(12))


@pytest.fixture
def runs(monkeypatch):
    """List with an element for each time that features were computed rather than read."""
    calls, fill = [], feature_cache.fill
    monkeypatch.setattr(feature_cache, "fill", lambda *arguments: calls.append(arguments) or fill(*arguments))
    return calls


@pytest.mark.backends
@pytest.mark.parametrize("backbone", ["mel_cnn", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_training_on_features_equals_training_of_the_model(synthetic, tmp_path, backbone):
    """Including dropout and the order of the clips: the history is the same."""
    train = synthetic.train.select(np.arange(0, 128, 4))
    validation = synthetic.validation.select(range(0, 40, 2))
    long = make_model(synthetic, backbone=backbone, dropout=0.5)
    held_out = batches(validation, 16, 1.0)
    history = long.fit(batches(train, 16, 1.0, shuffle=True, seed=3), validation_data=held_out, epochs=4, verbose=0)

    short = make_model(synthetic, backbone=backbone, dropout=0.5)
    kept = [training.extract_features(short, part, tmp_path) for part in (train, validation)]
    other = training.fit_head(short, *kept, batch_size=16, epochs=4, seed=3, verbose=0)
    assert other.history.keys() == history.history.keys()
    for name, values in history.history.items():
        tolerance = 0 if "accuracy" in name else 1e-4
        np.testing.assert_allclose(other.history[name], values, rtol=tolerance, atol=1e-7)
    assert history.history["loss"][-1] < history.history["loss"][0]
    waveforms = held_out[0][0]
    np.testing.assert_allclose(short.predict(waveforms, verbose=0), long.predict(waveforms, verbose=0), atol=1e-4)
    assert numpy(short.optimizer.iterations) == 8


def test_an_entry_is_read(synthetic, split, tmp_path, runs):
    model = make_model(synthetic)
    first = training.extract_features(model, split, tmp_path)
    assert first.features.shape == (12, 256) and first.features.dtype == np.float32 and len(runs) == 1
    np.testing.assert_array_equal(first.labels, split.labels)
    np.testing.assert_array_equal(first.track_ids, split.track_ids)
    alone = numpy(model.feature_extractor(model.front_end(split[7]["audio"][None, :22050])))
    np.testing.assert_allclose(first.features[7], alone[0], rtol=1e-3, atol=1e-4)
    again = training.extract_features(make_model(synthetic), split, tmp_path)  # another model of the same weights
    assert len(runs) == 1 and np.array_equal(again.features, first.features)


def test_changes_before_the_features_give_a_new_entry(synthetic, split, tmp_path, runs, monkeypatch):
    model = make_model(synthetic)
    training.extract_features(model, split, tmp_path)
    training.extract_features(model, split.select(range(11)), tmp_path)
    training.extract_features(model, split, tmp_path, crop="center")
    training.extract_features(model, split, tmp_path, crop="random", seed=1)
    training.extract_features(model, split, tmp_path, crop="random", seed=2)
    training.extract_features(model, split, tmp_path, crop="even", crops=2)
    louder = [
        gk.layers.MelSpectrogram(),
        gk.layers.PowerToDecibels(top_db=60.0),
        gk.layers.SpectrogramToImage(),
    ]
    training.extract_features(make_model(synthetic, front_end=louder), split, tmp_path)
    with mixed_precision("mixed_bfloat16"):
        training.extract_features(make_model(synthetic), split, tmp_path)
    variable = model.feature_extractor.variables[-1]
    variable.assign(variable + 1e-3)
    training.extract_features(model, split, tmp_path)
    monkeypatch.setattr("genrekeras.training.feature_cache.__version__", "another")
    training.extract_features(model, split, tmp_path)
    assert len(runs) == 10 == len([name for name in os.listdir(tmp_path) if name.endswith(".npz")])


def test_the_state_of_the_front_end_gives_a_new_entry(synthetic, split, tmp_path, runs):
    """Two front ends with the same config that were adapted to different data; equal ones share an entry."""

    def adapted(spread):
        norm = keras.layers.Normalization(axis=None)
        norm.adapt(np.array([0.0, spread]))
        layers = [gk.layers.MelSpectrogram(), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage(), norm]
        return training.extract_features(make_model(synthetic, front_end=layers), split, tmp_path).features

    one, other = adapted(100.0), adapted(200.0)
    assert len(runs) == 2 and np.abs(one - other).max() > 0.1
    np.testing.assert_array_equal(adapted(100.0), one)
    assert len(runs) == 2


def test_the_augmentation_gives_a_new_entry_where_it_is_used(synthetic, split, tmp_path, runs):
    """Its config does, the states of its random generators do not."""

    def extract(sigma, augment, seed=1):
        layers = [gk.layers.ImageNoise(sigma=sigma, seed=seed)]
        model = make_model(synthetic, image_augmentation=layers)
        return [training.extract_features(model, split, tmp_path, augment=augment).features for _ in range(2)]

    first, again = extract(1.0, True)
    assert len(runs) == 1 and np.array_equal(first, again)
    extract(50.0, True)
    assert len(runs) == 2
    extract(1.0, True, seed=None)
    extract(1.0, True, seed=None)
    assert len(runs) == 3
    extract(1.0, False)
    extract(50.0, False)
    assert len(runs) == 4


@pytest.mark.parametrize("damage", ["half", "garbage", "another shape", "empty"])
def test_a_damaged_entry_is_computed_again(synthetic, split, tmp_path, runs, damage):
    model = make_model(synthetic)
    whole = training.extract_features(model, split, tmp_path)
    [path] = tmp_path.glob("*.npz")
    if damage == "another shape":
        np.savez(path, features=np.zeros((3, 256), "float32"))
    else:
        content = path.read_bytes()
        path.write_bytes({"half": content[: len(content) // 2], "garbage": b"no zip", "empty": b""}[damage])
    assert np.array_equal(training.extract_features(model, split, tmp_path).features, whole.features) and len(runs) == 2
    training.extract_features(model, split, tmp_path)
    assert len(runs) == 2


def test_two_threads_compute_an_entry_once(synthetic, split, tmp_path, runs):
    model = make_model(synthetic)
    threads = [threading.Thread(target=training.extract_features, args=(model, split, tmp_path)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1


def test_variants(synthetic, split, tmp_path):
    augmentation = {
        "waveform_augmentation": [gk.layers.RandomNoise(5.0, 10.0, seed=1)],
        "image_augmentation": [gk.layers.SpecAugment(seed=2)],
    }
    model = make_model(synthetic, **augmentation)
    made, labels, ids = training.extract_features(model, split, tmp_path, crops=3, crop="random", augment=True)
    assert made.shape == (36, 256) and list(ids[:6]) == [*[split.track_ids[0]] * 3, *[split.track_ids[1]] * 3]
    np.testing.assert_array_equal(labels, np.repeat(split.labels, 3))
    assert np.abs(made[0] - made[1]).max() > 1e-3
    plain = training.extract_features(model, split, tmp_path).features
    np.testing.assert_array_equal(training.extract_features(model, split, tmp_path).features, plain)
    history = training.fit_head(
        model, feature_cache.Features(made, labels, ids), epochs=2, batch_size=4, class_weight=np.ones(8), verbose=0
    )
    assert np.isfinite(history.history["loss"]).all() and numpy(model.optimizer.iterations) == 6


@pytest.mark.parametrize(
    "augmentation",
    [
        {"waveform_augmentation": [gk.layers.RandomNoise(5.0, 10.0, seed=1)]},
        {"image_augmentation": [gk.layers.SpecAugment(seed=2)]},
    ],
    ids=["waveform", "image"],
)
def test_the_variants_of_a_clip_are_augmented(synthetic, split, tmp_path, augmentation):
    """By each kind of augmentation, on the same crop."""
    model = make_model(synthetic, **augmentation)
    made = training.extract_features(model, split, tmp_path, crops=2, augment=True).features
    plain = training.extract_features(model, split, tmp_path, crops=2).features
    spread = np.ptp(plain, axis=0).max()
    np.testing.assert_allclose(plain[0::2], plain[1::2], atol=1e-4 * spread)
    for one, other in ((made[0::2], made[1::2]), (made, plain)):
        assert (np.abs(one - other).max(axis=1) > 0.01 * spread).mean() > 0.8


def test_the_best_checkpoint_is_the_whole_model(synthetic, split, tmp_path):
    model = make_model(synthetic)
    kept = training.extract_features(model, split, tmp_path)
    best = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", model=model)
    training.fit_head(model, kept, kept, epochs=2, batch_size=4, callbacks=[best], verbose=0)
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    assert loaded.genres == synthetic.genres and numpy(loaded.optimizer.iterations) in (3, 6)
    waveforms = batches(split, 12, 1.0)[0][0]
    scores = (loaded.predict(waveforms, verbose=0).argmax(axis=1) == split.labels).mean()
    assert scores == pytest.approx(best.best)
    loaded.fit(batches(split, 4, 1.0), verbose=0)


@pytest.fixture(scope="module")
def kept():
    """Features of 12 clips of genres of unequal size, two variants of each clip."""
    labels = np.repeat([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3], 2).astype("int32")
    rows = np.random.default_rng(20231122).standard_normal((24, 256)).astype("float32")
    return feature_cache.Features(rows, labels, np.repeat(np.arange(12), 2))


def test_balanced_classes(synthetic, kept):
    """Weights equal those of `datasets.batches`; invalid weights are refused."""
    options = {"batch_size": 4, "epochs": 2, "verbose": 0}
    weights = [12 / (4 * 7), 1.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    losses = [
        training.fit_head(make_model(synthetic), kept, class_weight=choice, **options).history["loss"]
        for choice in ("balanced", weights, None)
    ]
    assert losses[0] == losses[1] != losses[2]
    for wrong in ("even", [1.0, 2.0], [np.nan] * 8, [-1.0] * 8):
        with pytest.raises(ValueError, match="`class_weight` must be None"):
            training.fit_head(make_model(synthetic), kept, class_weight=wrong, **options)


HEAD_OPTIONS = {"batch_size": 4, "verbose": 0}


@pytest.fixture(scope="module")
def finished_state(synthetic, kept, tmp_path_factory):
    """The state of one epoch of training on `kept`."""
    path = tmp_path_factory.mktemp("finished") / "state.npz"
    training.fit_head(make_model(synthetic), kept, kept, epochs=1, state=path, **HEAD_OPTIONS)
    return path


def test_a_finished_run_is_continued(synthetic, kept, finished_state, tmp_path):
    path = shutil.copy(finished_state, tmp_path)
    history = training.fit_head(make_model(synthetic), kept, kept, epochs=2, state=path, **HEAD_OPTIONS)
    assert history.epoch == [0, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": lambda rows: rows + 1e-3}, r"data\.features"),
        ({"labels": lambda labels: labels[::-1]}, r"data\.features"),
        ({"seed": 1}, r"data\.seed was 0, now 1"),
        ({"batch_size": 5}, r"data\.batch_size was 4, now 5"),
        ({"class_weight": "balanced"}, r"data\.class_weight"),
        ({"validation": None}, "validation_data"),
    ],
)
def test_the_state_of_another_run_is_refused(synthetic, kept, finished_state, change, message):
    options = {"validation": kept, "state": finished_state, **HEAD_OPTIONS}
    other = kept._replace(
        **{name: function(getattr(kept, name)) for name, function in change.items() if callable(function)}
    )
    options |= {name: value for name, value in change.items() if not callable(value)}
    with pytest.raises(ValueError, match=f"`state` must belong to this run.*{message}"):
        training.fit_head(make_model(synthetic), other, epochs=2, **options)


def test_several_genres_of_a_clip(rng):
    """Rows of labels train a head with a sigmoid."""
    model = small_model(genres=["a", "b", "c"], multi_label=True)
    model.fine_tune = "head"
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    labels = (np.arange(8)[:, None] >> np.arange(3) & 1).astype("float32")
    features = np.concatenate([labels, rng.normal(0, 0.1, (8, 253))], axis=1).astype("float32")
    data = feature_cache.Features(features, labels, np.arange(8))
    training.fit_head(model, data, data, epochs=40, verbose=0)
    predicted = numpy(model.head(features))
    assert ((predicted > 0.5) == labels).all()
    with pytest.raises(ValueError, match=r"must have the shape \(batch, 3\)"):
        training.fit_head(model, data, data._replace(labels=np.arange(8)), verbose=0)


def test_bad_input(synthetic, split, tmp_path):
    model = small_model(genres=synthetic.genres)
    with pytest.raises(ValueError, match=r"`model\.fine_tune` must be"):
        training.extract_features(model, split, tmp_path)
    model.fine_tune = "head"
    with pytest.raises(ValueError, match="must be compiled"):
        training.fit_head(model, feature_cache.Features(np.zeros((1, 256)), np.zeros(1), np.zeros(1)))
    model.compile("adam", "sparse_categorical_crossentropy")
    for rows, tracks in ((0, []), (3, [7, 8, 8])):
        with pytest.raises(ValueError, match="the same number of variants of each clip"):
            training.fit_head(model, feature_cache.Features(np.zeros((rows, 256)), np.zeros(rows), np.array(tracks)))
    other = small_model(fine_tune="head")
    with pytest.raises(ValueError, match="The data's `genres` is not the model's"):
        training.extract_features(other, split, tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        training.extract_features(model, split, tmp_path / "file")


@pytest.mark.parametrize("augment", [False, True])
def test_spectrograms(synthetic, split, tmp_path, augment):
    """Images replace those of the front end, with and without augmentation."""
    model = make_model(synthetic, image_augmentation=[gk.layers.ImageNoise(sigma=20.0, seed=1)])
    spectrograms = gk.datasets.compute_spectrograms(split, model)
    features = training.extract_features(model, spectrograms, tmp_path, augment=augment).features
    expected = numpy(model.feature_extractor(spectrograms.images.astype("float32")))
    difference = np.abs(features - expected).max() / np.ptp(expected, axis=0).max()
    assert difference > 0.01 if augment else difference < 1e-4
