"""GenreClassifier: its parts, training, saving, and invalid arguments and data."""

import json
import warnings

import genrekeras as gk
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import calibrate, mixed_precision, numpy, small_model, tones
from genrekeras.models import Thresholds, backbones, save_float16


@pytest.fixture
def waveforms(rng):
    return tones(rng, 8, 22050)


@pytest.fixture
def model(one_second_model):
    """A model whose outputs differ between clips; tests must not train it."""
    return one_second_model


def compiled(model):
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.backends
def test_extreme_waveforms(model):
    """Silence, direct current, clipping, single samples, very loud and very quiet samples."""
    sounds = np.zeros((8, 22050), "float32")
    sounds[1], sounds[2] = 1.0, -1e8
    sounds[3] = np.clip(1e9 * np.sin(np.arange(22050)), -1, 1)
    sounds[4, 0], sounds[5, 11025], sounds[6, -1] = 1.0, 1e-30, -1e9
    sounds[7] = 1e9 * np.random.default_rng(0).uniform(-1, 1, 22050)
    image, probabilities = numpy(model.front_end(sounds)), model.predict(sounds, verbose=0)
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255.001
    assert np.isfinite(probabilities).all() and probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.backends
def test_parts(model, waveforms):
    image = model.front_end(waveforms)
    assert tuple(image.shape) == (8, 128, 44, 1)
    image_array = numpy(image)
    assert image_array.min() >= 0 and image_array.max() <= 255.001
    features = model.feature_extractor(image)
    assert tuple(features.shape) == (8, 256)
    probabilities = numpy(model.head(features))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(numpy(model.image_model(image)), probabilities, atol=1e-6)
    np.testing.assert_allclose(numpy(model(waveforms)), probabilities, atol=1e-6)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-3
    assert len(model.weights) == len({id(weight) for weight in model.weights})
    for part in (model.front_end, model.feature_extractor, model.head, model.image_model):
        assert isinstance(part, keras.Model)


@pytest.mark.backends
def test_a_clip_alone_equals_the_clip_in_a_batch(model, waveforms):
    waveforms = waveforms * np.float32([[1], [1e-3], [1], [5], [1], [0.1], [1], [1]])
    together = model.predict(waveforms, verbose=0)
    alone = np.concatenate([model.predict(clip[None], verbose=0) for clip in waveforms])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.backends
def test_model_for_inference(model, waveforms):
    fast = model.for_inference()
    np.testing.assert_allclose(fast.predict(waveforms, verbose=0), model.predict(waveforms, verbose=0), atol=1e-4)
    norms = [sum("moving_variance" in variable.path for variable in each.variables) for each in (model, fast)]
    assert norms == [7, 2]
    assert model.feature_extractor.trainable_variables  # the model itself does not change


@pytest.mark.backends
@pytest.mark.parametrize("is_compiled", [False, True])
def test_keras_file_round_trip(waveforms, tmp_path, is_compiled):
    model = calibrate(small_model(), waveforms)
    if is_compiled:
        compiled(model)
    model.save(tmp_path / "genre.keras")
    loaded = keras.saving.load_model(tmp_path / "genre.keras")
    assert type(loaded) is gk.GenreClassifier and loaded.compiled == model.compiled
    probabilities = numpy(model(waveforms))
    np.testing.assert_allclose(numpy(loaded(waveforms)), probabilities, atol=1e-4)
    assert np.abs(probabilities - probabilities[0]).max() > 1e-2
    assert (loaded.genres, loaded.sample_rate, loaded.clip_seconds) == (gk.GENRES, 22050, 1.0)


# The eight subsets of three genres.
SUBSETS = (np.arange(8)[:, None] >> np.arange(3) & 1).astype("float32")


@pytest.mark.backends
def test_several_genres_of_a_clip(waveforms, tmp_path):
    """The probabilities are independent of each other. Training, folding, and files keep them."""
    model = calibrate(small_model(genres=("a", "b", "c"), multi_label=True, dropout=0.0), waveforms)
    before = model.predict(waveforms, verbose=0)
    assert np.abs(before.sum(axis=1) - 1).min() > 0.05 and before.min() > 0 and before.max() < 1
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    history = model.fit(waveforms, SUBSETS, epochs=12, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    probabilities = numpy(model(waveforms))
    np.testing.assert_allclose(model.for_inference().predict(waveforms, verbose=0), probabilities, atol=1e-4)
    for name, save in {"whole": gk.GenreClassifier.save, "half": save_float16}.items():
        save(model, tmp_path / f"{name}.keras")
        loaded = gk.load_model(tmp_path / f"{name}.keras")
        assert loaded.multi_label and loaded.get_config()["multi_label"]
        np.testing.assert_allclose(numpy(loaded(waveforms)), probabilities, atol=1e-4 if name == "whole" else 1e-2)
    assert not small_model(backbone="mel_cnn").multi_label


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.arange(8), r"`multi_label=True` must have the shape \(batch, 3\).*Received: shape=\(8,\), dtype=int64"),
        (["Rock"] * 8, r"must have the shape \(batch, 3\).*Received: shape=\(8,\)"),
        (np.zeros((8, 1)), r"must have the shape \(batch, 3\).*Received: shape=\(8, 1\)"),
        (np.zeros((8, 4)), r"must have the shape \(batch, 3\).*Received: shape=\(8, 4\)"),
        (2 * SUBSETS, r"must lie in \[0, 1\]\. Received: label 2.0, shape=\(8, 3\)"),
        (SUBSETS - 1, r"must lie in \[0, 1\]\. Received: label -1.0"),
        (np.full((8, 3), np.nan), r"must lie in \[0, 1\]\. Received: label nan"),
    ],
)
def test_labels_that_are_not_rows_of_several_genres(waveforms, labels, message):
    model = small_model(genres=("a", "b", "c"), multi_label=True)
    model.compile("adam", "binary_crossentropy")
    for call in (model.fit, model.evaluate, lambda x, y: model.fit(x, SUBSETS, validation_data=(x, y))):
        with pytest.raises(ValueError, match=message):
            call(waveforms, labels)


@pytest.mark.parametrize(
    "labels, message",
    [
        (SUBSETS, r"several labels of a clip.*multi_label=True.*Received: shape=\(8, 3\), a row whose sum is 3"),
        (np.zeros((8, 4)), r"or rows with the shape \(batch, 3\)\. Received: shape=\(8, 4\)"),
        (np.full((8, 3), [2.0, -1.0, 0.0]), r"must lie in \[0, 1\]\. Received: label 2.0, shape=\(8, 3\)"),
    ],
)
def test_rows_of_several_genres_for_a_model_of_one(waveforms, labels, message):
    model = small_model(genres=("a", "b", "c"))
    with pytest.raises(ValueError, match=message):
        model.check_data(waveforms, labels)
    model.check_data(waveforms, np.full((8, 3), 1 / 3, "float16"))  # as of mixed clips
    model.check_data(waveforms, np.eye(3, dtype=int)[np.arange(8) % 3])


def test_data_with_another_number_of_labels_per_clip():
    class Data(keras.utils.PyDataset):
        multi_label = True

    with pytest.raises(ValueError, match=r"`multi_label` is not the model's False\. Received: multi_label=True"):
        small_model().check_data(Data())
    Data.multi_label = False
    with pytest.raises(ValueError, match=r"`multi_label` is not the model's True\. Received: multi_label=False"):
        small_model(multi_label=True).check_data(Data())


@pytest.mark.backends
def test_automatic_jit_compilation_is_saved_as_such():
    """Another backend may have another default; an explicit value is saved."""
    model = small_model()
    assert compiled(model).get_compile_config()["jit_compile"] == "auto"
    explicit = not model.jit_compile
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=explicit)
    assert model.get_compile_config()["jit_compile"] is explicit is model.jit_compile


def test_config_keeps_all_arguments(tmp_path):
    model = small_model(
        genres=["a", "b", "c"],
        front_end=[
            gk.layers.MelSpectrogram(sample_rate=16000, n_fft=1024, hop_length=256, n_mels=64, f_max=7600.0),
            gk.layers.PowerToDecibels(ref=1.0, top_db=60.0),
            gk.layers.UniformTemporalSubsample(48),
            gk.layers.SpectrogramToImage(scale="decibels", top_db=60.0, flip=True),
        ],
        stem="new",
        fine_tune="stem",
        dropout=0.25,
        multi_label=True,
        waveform_augmentation=[gk.layers.RandomNoise(5.0, 20.0, seed=3)],
        image_augmentation=[gk.layers.SpecAugment(time_width=4, share=0.5, seed=4)],
        thresholds={"temperature": 1.5, "max_ood_score": 4.0, "class_thresholds": (0.3, 0.4, 1.0)},
        card={"data": {"name": "songs"}},
        name="mine",
    )
    assert model.sample_rate == 16000 and model.input_shape == (None, 16000)
    assert model.front_end.output_shape == (None, 64, 48, 1)
    model.save(tmp_path / "genre.keras")
    loaded = keras.saving.load_model(tmp_path / "genre.keras")
    again = gk.GenreClassifier.from_config(model.get_config())
    as_json = json.loads(json.dumps(model.get_config()))  # a tuple becomes a list
    for restored in (loaded, again):
        assert json.loads(json.dumps(restored.get_config())) == as_json
        assert restored.name == "mine" and dict(restored.card) == {"data": {"name": "songs"}}
        assert restored.thresholds == model.thresholds and restored.thresholds.class_thresholds == (0.3, 0.4, 1.0)


def test_the_default_front_end_is_saved(model, waveforms, monkeypatch, tmp_path):
    """A loaded model does not depend on the default of a later version."""
    model.save(tmp_path / "genre.keras")
    other = backbones.FrontEnd(lambda: pytest.fail("the default was used"), 2.0, (0.0, 1.0))
    row = backbones.BACKBONES[model.backbone]._replace(front_end=other)
    monkeypatch.setitem(backbones.BACKBONES, model.backbone, row)
    loaded = keras.saving.load_model(tmp_path / "genre.keras")
    np.testing.assert_allclose(numpy(loaded(waveforms)), numpy(model(waveforms)), atol=1e-5)
    saved = [layer["class_name"] for layer in loaded.get_config()["front_end"]]
    assert saved == ["MelSpectrogram", "PowerToDecibels", "SpectrogramToImage"]


def test_from_config_loads_no_pretrained_weights(monkeypatch, model, tmp_path):
    config = {**model.get_config(), "pretrained": "imagenet"}
    monkeypatch.setattr("genrekeras.models.backbones.load_pretrained", lambda *a: pytest.fail("weights were loaded"))
    restored = gk.GenreClassifier.from_config(config)
    assert restored.pretrained == "imagenet"
    restored.save(tmp_path / "genre.keras")
    assert keras.saving.load_model(tmp_path / "genre.keras").get_config()["pretrained"] == "imagenet"


@pytest.mark.backends
def test_fine_tuning_trains_the_selected_layers_only(waveforms):
    labels = np.arange(8) % 2
    model = small_model(genres=("a", "b"))
    counts = {"head": 2, "stem": 3}  # kernel and bias of the last layer, and the kernel of the stem
    for fine_tune, count in counts.items():
        model.fine_tune = fine_tune
        compiled(model)
        assert len(model.trainable_variables) == count
        before = [numpy(variable) for variable in model.non_trainable_variables]
        names = [variable.path for variable in model.non_trainable_variables]
        trained = [numpy(variable) for variable in model.trainable_variables]
        model.fit(waveforms, labels, epochs=1, batch_size=8, verbose=0)
        for name, old, new in zip(names, before, model.non_trainable_variables, strict=True):
            if "seed" not in name:  # states of random generators
                np.testing.assert_array_equal(numpy(new), old, err_msg=name)
        for old, new in zip(trained, model.trainable_variables, strict=True):
            assert np.abs(numpy(new) - old).max() > 0


@pytest.mark.backends
def test_fit_continues_after_loading(waveforms, tmp_path):
    labels = np.arange(8) % 2
    model = compiled(small_model(genres=("a", "b"), dropout=0.0))
    history = model.fit(waveforms, labels, epochs=8, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    model.save(tmp_path / "genre.keras")
    loaded = keras.saving.load_model(tmp_path / "genre.keras")
    assert int(numpy(loaded.optimizer.iterations)) == 8
    for saved, restored in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(restored), numpy(saved), err_msg=saved.path)  # moments, learning rate
    before = [numpy(variable) for variable in loaded.trainable_variables]
    assert np.isfinite(loaded.fit(waveforms, labels, epochs=1, batch_size=8, verbose=0).history["loss"][0])
    assert max(np.abs(numpy(v) - b).max() for v, b in zip(loaded.trainable_variables, before, strict=True)) > 0
    assert int(numpy(loaded.optimizer.iterations)) == 9


def test_training_of_the_head_changes_the_model(waveforms):
    model = calibrate(small_model(), waveforms)
    features = numpy(model.feature_extractor(model.front_end(waveforms)))
    labels = np.arange(8)
    model.head.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.head.fit(features, labels, epochs=60, verbose=0)
    assert (numpy(model(waveforms)).argmax(axis=1) == labels).mean() > 0.8


@pytest.mark.backends
def test_augmentation_is_active_in_training_only(waveforms):
    model = small_model(
        dropout=0.0,
        waveform_augmentation=[gk.layers.RandomNoise(0.0, 0.0, seed=1)],
        image_augmentation=[gk.layers.ImageNoise(sigma=5.0, seed=1)],
    )
    images = numpy(model.front_end(waveforms))
    np.testing.assert_array_equal(numpy(model.front_end(waveforms, training=False)), images)
    assert np.abs(numpy(model.front_end(waveforms, training=True)) - images).max() > 1
    assert model.front_end.layers[1].name.startswith("random_noise")
    assert model.image_model.layers[1].name.startswith("image_noise")


def small_rgb_network(include_top, weights, input_tensor=None, pooling=None):
    """A small network with the interface of the functions of `keras.applications`."""
    image = keras.Input((None, None, 3)) if input_tensor is None else input_tensor
    x = keras.layers.Conv2D(4, 3, name="stem_conv")(image)
    x = keras.layers.Conv2D(4, 3, name="top_conv")(x)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x) if pooling else x)


def test_a_path_of_pretrained_weights_is_saved(tmp_path, monkeypatch):
    """A `pathlib` path is saved as a str, which can be passed as `pretrained` again."""
    row = backbones.BACKBONES["efficientnet_b0"]._replace(constructor=small_rgb_network)
    monkeypatch.setitem(backbones.BACKBONES, "efficientnet_b0", row)
    rgb = small_rgb_network(include_top=False, weights=None)
    path = tmp_path / "rgb.weights.h5"
    rgb.save_weights(path)
    model = gk.GenreClassifier(pretrained=path, clip_seconds=1.0)
    assert model.pretrained == str(path)
    model.save(tmp_path / "genre.keras")
    loaded = keras.saving.load_model(tmp_path / "genre.keras")
    again = gk.GenreClassifier(pretrained=loaded.pretrained, clip_seconds=1.0)
    expected = numpy(rgb.get_layer("top_conv").kernel)
    for restored in (loaded, again):
        np.testing.assert_array_equal(numpy(restored.feature_extractor.get_layer("top_conv").kernel), expected)


def test_fit_accepts_the_arguments_of_keras(waveforms):
    """One callback, a list or a `CallbackList` with batches, and positional arguments."""
    clips = [{"audio": clip, "genre": i % 2, "track_id": i} for i, clip in enumerate(waveforms)]
    split = type("Clips", (list,), {"sample_rate": 22050, "genres": ("a", "b")})(clips)
    model = compiled(small_model(backbone="mel_cnn", genres=("a", "b")))
    epochs = []
    recorder = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    data = gk.datasets.batches(split, 8, 1.0)
    for callbacks in (recorder, [recorder], keras.callbacks.CallbackList([recorder], model=model)):
        model.fit(data, callbacks=callbacks, validation_data=data, verbose=0)
    assert epochs == [0, 0, 0]
    assert 0 <= model.evaluate(data, verbose=0, return_dict=True)["accuracy"] <= 1
    class_weight = {0: 1.0, 1: 2.0}
    history = model.fit(waveforms, np.arange(8) % 2, 8, 1, 0, None, 0.0, None, True, class_weight).history
    assert np.isfinite(history["loss"][0])


@pytest.mark.parametrize(
    "backbone, layer, variables",
    [("mel_cnn", "mel_cnn_conv2", 20), pytest.param("efficientnet_b0", "top_conv", 100, marks=pytest.mark.slow)],
)
def test_a_change_of_fine_tune_is_saved(waveforms, tmp_path, backbone, layer, variables):
    """As in a training of two phases."""
    model = compiled(small_model(backbone=backbone, genres=("a", "b"), fine_tune="stem"))
    frozen = model.feature_extractor.get_layer(layer).kernel
    model.fine_tune = "all"
    compiled(model)
    before = numpy(frozen)
    model.fit(waveforms, np.arange(8) % 2, batch_size=8, verbose=0)
    assert np.abs(numpy(frozen) - before).max() > 0
    model.save(tmp_path / "genre.keras")
    loaded = keras.saving.load_model(tmp_path / "genre.keras")
    assert loaded.fine_tune == "all" and len(loaded.trainable_variables) == len(model.trainable_variables) > variables
    assert int(numpy(loaded.optimizer.iterations)) == 1
    with pytest.raises(ValueError, match="`fine_tune` must be one of"):
        model.fine_tune = "most"


def test_a_warning_for_a_frozen_random_backbone():
    with pytest.warns(UserWarning, match="random weights and is frozen"):
        model = small_model(fine_tune="head")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gk.GenreClassifier.from_config(model.get_config())  # the weights of a saved model are loaded afterwards


def test_a_single_layer_and_a_sequential_model_as_arguments():
    front_end = [gk.layers.MelSpectrogram(), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage()]
    model = small_model(front_end=keras.Sequential(front_end), image_augmentation=gk.layers.ImageNoise(seed=1))
    assert model.front_end.output_shape == (None, 128, 44, 1)
    assert model.image_model.layers[1].name.startswith("image_noise")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backbone": "vgg16"}, "`backbone` must be one of"),
        ({"genres": ["Rock"]}, "`genres` must be at least two"),
        ({"genres": ["Rock", "Rock"]}, "`genres` must be at least two distinct"),
        ({"genres": "Rock"}, "`genres` must be"),
        ({"genres": 8}, "`genres` must be"),
        ({"clip_seconds": 0}, "`clip_seconds` must be a number > 0"),
        ({"clip_seconds": "1"}, "`clip_seconds` must be a number > 0"),
        ({"clip_seconds": float("inf")}, "`clip_seconds` must be a number > 0"),
        ({"clip_seconds": 40_000}, "at most 4096 mels and 4194304 pixels"),
        ({"genres": [str(number) for number in range(10_001)]}, "at most 10000 names. Received: 10001 names"),
        ({"pretrained": True}, "`pretrained` must be"),
        ({"waveform_augmentation": "noise"}, "`waveform_augmentation` must be a sequence of layers"),
        ({"dropout": None}, "`dropout` must lie in"),
        ({"multi_label": 1}, "`multi_label` must be True or False"),
        ({"clip_seconds": 0.1}, "at least 32 mels and 32 frames"),
        ({"front_end": [gk.layers.SpectrogramToImage()]}, "`front_end` must contain one MelSpectrogram"),
        ({"front_end": [gk.layers.MelSpectrogram()]}, "`front_end` must compute images"),
        ({"stem": "sum"}, "`stem` must be one of"),
        ({"fine_tune": "some"}, "`fine_tune` must be one of"),
        ({"stem": "new", "fine_tune": "head"}, '`fine_tune` must be "stem" or "all"'),
        ({"dropout": 1.0}, "`dropout` must lie in"),
        ({"card": 3}, "`card` must be a JSON-serializable dict"),
        ({"card": {"scores": float("nan")}}, "`card` must be a JSON-serializable dict"),
        ({"thresholds": {"min_probability": 0.5}}, "`thresholds` must contain the attributes of `Thresholds`"),
        ({"thresholds": {"temperature": 0}}, "`temperature` must be > 0"),
        ({"thresholds": {"temperature": None}}, "`temperature` must be a finite number"),
        ({"thresholds": {"min_confidence": "0.5"}}, "`min_confidence` must be a finite number"),
        ({"thresholds": {"max_ood_score": float("inf")}}, "`max_ood_score` must be a finite number"),
        ({"thresholds": {"better_than_chance": "yes"}}, "`better_than_chance` must be True, False or None"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model(**arguments)


def test_thresholds():
    assert Thresholds().low_confidence(0.1, 100.0) == (None, None)
    assert Thresholds(better_than_chance=False).low_confidence(0.9, 0.0) == (True, "model not better than chance")
    limits = Thresholds(min_confidence=0.5, max_ood_score=2.0, better_than_chance=True)
    assert limits.low_confidence(0.5, 2.0) == (False, None)
    assert limits.low_confidence(0.4, 2.0) == (True, "low probability")
    assert limits.low_confidence(0.4, 3.0) == (True, "low probability; unlike the training data")
    assert Thresholds(max_ood_score=2.0).low_confidence(0.1, 3.0) == (True, "unlike the training data")


def test_training_removes_card_and_thresholds(waveforms):
    model = small_model(backbone="mel_cnn", card={"scores": []}, thresholds={"temperature": 2.0})
    compiled(model).fit(waveforms, np.arange(8), verbose=0)
    assert not model.card and model.thresholds == Thresholds()


def test_invalid_data(waveforms):
    model = compiled(small_model())
    with pytest.raises(ValueError, match=r"`waveform` must have the shape \(batch, 22050\): 1 s at 22050 Hz"):
        model.predict(waveforms[:, :1000], verbose=0)
    with pytest.raises(ValueError, match=r"Received: shape=\(22050,\)"):
        model(waveforms[0])
    with pytest.raises(ValueError, match=r"Labels must be indices into `genres`, 0\.\.7\. Received: label 8"):
        model.fit(waveforms, np.arange(1, 9))
    with pytest.raises(ValueError, match=r"Labels must be integers.*'Rock'"):
        model.fit(waveforms, ["Rock"] * 8)
    with pytest.raises(ValueError, match="Received: label -1"):
        model.evaluate(waveforms, np.arange(8) - 1)
    for labels in (np.arange(8) + 1.0, pd.Series(range(1, 9)), keras.ops.convert_to_tensor(np.arange(1, 9)), [[8]] * 8):
        with pytest.raises(ValueError, match="Received: label 8"):
            model.fit(waveforms, labels)
    with pytest.raises(ValueError, match="Received: label 8"):
        model.fit(waveforms, np.arange(8), validation_data=(waveforms, np.arange(8) + 2))


@pytest.mark.backends
def test_mixed_precision_keeps_front_end_and_probabilities_in_float32(waveforms):
    with mixed_precision("mixed_bfloat16"):
        model = small_model()
        probabilities = model(waveforms)
        image = model.front_end(waveforms)
    assert keras.backend.standardize_dtype(image.dtype) == "float32"
    assert keras.backend.standardize_dtype(probabilities.dtype) == "float32"
    np.testing.assert_allclose(numpy(probabilities).sum(axis=1), 1, atol=1e-5)


def test_training_in_half_precision_continues_in_float32(waveforms, tmp_path, recwarn):
    """The state of the optimizer is loaded under another dtype policy."""
    with mixed_precision("mixed_float16"):
        model = small_model(backbone="mel_cnn")
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        model.fit(waveforms, np.arange(8), batch_size=4, verbose=0)
        model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not [warning for warning in recwarn if "Skipping variable loading" in str(warning.message)]
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    steps = int(numpy(loaded.optimizer.inner_optimizer.iterations))
    loaded.fit(waveforms, np.arange(8), batch_size=4, verbose=0)
    assert int(numpy(loaded.optimizer.inner_optimizer.iterations)) > steps
