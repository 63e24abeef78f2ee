"""musicnn: parity with the original TensorFlow graphs and with librosa, front end, pretrained weights, training."""

import json

import genrekeras as gk
import keras
import librosa
import numpy as np
import pytest
import soundfile
from conftest import SHARED_DATA, numpy, small_model, tones
from genrekeras.layers import LogCompression, MelSpectrogram, PowerToDecibels, RandomNoise, SpectrogramToImage
from genrekeras.models import backbones, presets

RATE, SAMPLES = 16000, 48128
REFERENCE = SHARED_DATA / "musicnn_reference.npz"
FIRST = [f"musicnn_{name}" for name in ("timbral1", "timbral2", "temporal1", "temporal2", "temporal3")]
NAMES = ["msd", "mtt"]


@pytest.fixture(scope="module")
def msd():
    """The preset musicnn_msd; read-only for tests."""
    return gk.GenreClassifier.from_preset("musicnn_msd")


def musicnn(genres=("a", "b"), **options):
    """A model with random weights for clips of 3.008 s."""
    return small_model(backbone="musicnn", genres=genres, clip_seconds=None, **options)


def clips(rng, count=3):
    return tones(rng, count, SAMPLES, RATE) / 2


@pytest.mark.backends
@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_those_of_the_original_graph(name):
    """Inputs and outputs of the TensorFlow 1 graph of the package musicnn 0.1.0, within 1e-5."""
    if not REFERENCE.is_file():
        pytest.skip("the outputs of the original (shared/data/musicnn_reference.npz beside this checkout) are not here")
    reference = np.load(REFERENCE)
    images = reference[f"{name}_input"].swapaxes(1, 2)[..., None]  # from (batch, frames, mels)
    expected = reference[f"{name}_output"]
    assert np.ptp(expected, axis=1).min() > 0.1
    model = gk.GenreClassifier.from_preset(f"musicnn_{name}")
    for network in (model.image_model, model.for_inference(inputs="image")):
        np.testing.assert_allclose(network.predict(images, verbose=0), expected, atol=1e-5)


@pytest.mark.backends
def test_tags_of_a_song_equal_those_from_spectrograms_of_librosa(real_songs, msd):
    """The frames of the original are cut out of the spectrogram of the track. Clip k has them if it begins at
    187 * 256 * k - 256. The probabilities are equal within 1e-4."""
    waveform = gk.audio.load(real_songs[0], RATE, offset=30.0, duration=25.0)
    mel = librosa.feature.melspectrogram(y=waveform, sr=RATE, n_fft=512, hop_length=256, n_mels=96)
    assert mel.dtype == np.float32
    spectrogram = np.log10(10000 * mel + 1)  # (mels, frames)
    windows = range(1, spectrogram.shape[1] // 187)
    images = np.stack([spectrogram[:, 187 * k : 187 * (k + 1)] for k in windows])[..., None]
    starts = [187 * 256 * k - 256 for k in windows]
    waveforms = np.stack([waveform[start : start + SAMPLES] for start in starts])
    expected = msd.image_model.predict(images, verbose=0)
    assert len(expected) >= 7 and np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(msd.predict(waveforms, verbose=0), expected, atol=1e-4)
    assert 3 < images.max() < msd.image_range[1]


@pytest.mark.parametrize("name", NAMES)
def test_presets(name, rng):
    model = gk.GenreClassifier.from_preset(f"musicnn_{name}")
    assert model.feature_extractor.count_params() + model.head.count_params() == 792_079
    assert model.multi_label and model.pretrained == name and not model.compiled
    assert len(model.genres) == 50 and model.genres[0] == {"msd": "rock", "mtt": "guitar"}[name]
    assert (model.sample_rate, model.input_shape, model.clip_seconds) == (RATE, (None, SAMPLES), 3.008)
    assert model.card["license"] == "isc" and "did not evaluate" in model.card["about"]
    with open(presets.preset_file(f"musicnn_{name}").replace(".keras", ".md"), encoding="utf-8") as file:
        card = file.read()
    assert model.card["data"]["name"] in card and 'license: "isc"' in card
    kinds = model.card["labels"]
    for kind in set(kinds.values()):
        assert ", ".join(label for label in model.genres if kinds[label] == kind) in card
    described = dict(gk.reports.describe(model))
    assert described["license"] == "isc" and "it is not calibrated" in described["predicted"]
    assert described["data"] == model.card["data"]["name"] and "musicnn 0.1.0" in described["training"]


@pytest.mark.backends
def test_silence_and_loud_sounds(msd, rng):
    sounds = np.stack([np.zeros(SAMPLES), np.ones(SAMPLES), 1e9 * rng.uniform(-1, 1, SAMPLES)]).astype("float32")
    square = np.sign(np.sin(2 * np.pi * 250 * np.arange(SAMPLES) / RATE))  # a tone of full scale
    sounds = np.concatenate([sounds, square[None].astype("float32")])
    images, probabilities = numpy(msd.front_end(sounds)), msd.predict(sounds, verbose=0)
    assert images.shape == (4, 96, 187, 1) and (images[0] == 0).all() and np.isfinite(images).all()
    low, high = msd.image_range
    assert low <= images[[0, 1, 3]].min() and images[[0, 1, 3]].max() <= high
    assert np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities <= 1).all()


def test_short_files_and_silence(msd, rng, tmp_path):
    """Files that are shorter than a clip have a row, if they have at least 1 s."""
    sounds = {"a": rng.normal(0, 0.1, 8000), "b": rng.normal(0, 0.1, 16000), "c": np.zeros(80000), "d": np.zeros(20000)}
    for name, sound in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE)
    table = msd.predict_files(tmp_path)
    assert table["error"].iloc[0] == "too short: 0.5 s, but the minimum is 1 s" and table["genres"].iloc[0] is None
    rows = table.iloc[1:]
    assert rows["error"].isna().all() and rows["seconds"].tolist() == [1.0, 3.01, 1.25]
    probabilities = rows.filter(like="probability_").to_numpy()
    assert np.isfinite(probabilities).all() and all(rows["genres"].map(len))
    np.testing.assert_allclose(probabilities[1], probabilities[2], atol=1e-6)  # silence of any length
    timeline = msd.predict_timeline(tmp_path / "b.wav")
    assert timeline[["start", "end"]].to_numpy().tolist() == [[0.0, 1.0]] and np.isfinite(timeline.to_numpy()).all()


@pytest.mark.backends
def test_a_clip_alone_equals_the_clip_in_a_batch(msd, rng):
    waveforms = clips(rng) * np.float32([[1], [0.01], [0.3]])
    alone = np.concatenate([msd.predict(clip[None], verbose=0) for clip in waveforms])
    np.testing.assert_allclose(msd.predict(waveforms, verbose=0), alone, atol=1e-5)


@pytest.mark.backends
def test_pretrained_weights_and_their_round_trips(msd, rng, tmp_path):
    model = gk.GenreClassifier("musicnn", ["a", "b"], pretrained="msd", multi_label=True)
    waveforms = clips(rng)
    features = numpy(msd.feature_extractor(msd.front_end(waveforms)))
    np.testing.assert_array_equal(numpy(model.feature_extractor(model.front_end(waveforms))), features)
    model.feature_extractor.save_weights(tmp_path / "mine.weights.h5")
    model.save(tmp_path / "model.keras")
    loaded = gk.load_model(tmp_path / "model.keras")
    configs = [json.dumps(each.get_config()) for each in (model, loaded)]
    assert configs[0] == configs[1] and loaded.multi_label and loaded.pretrained == "msd"
    np.testing.assert_allclose(loaded.predict(waveforms, verbose=0), model.predict(waveforms, verbose=0), atol=1e-6)
    again = gk.GenreClassifier("musicnn", ["a", "b"], pretrained=tmp_path / "mine.weights.h5")
    np.testing.assert_array_equal(numpy(again.feature_extractor(again.front_end(waveforms))), features)


def test_weights_that_do_not_exist(tmp_path):
    small_model().feature_extractor.save_weights(tmp_path / "mel_cnn.weights.h5")
    for pretrained, message in (
        ("imagenet", '`pretrained` of musicnn must be "msd", "mtt", None or the path'),
        (tmp_path / "mel_cnn.weights.h5", "does not belong to the network musicnn: it contains"),
        (tmp_path / "missing.weights.h5", "does not exist"),
    ):
        with pytest.raises(backbones.PretrainedWeightsError, match=message):
            gk.GenreClassifier("musicnn", pretrained=pretrained)
    with pytest.raises(backbones.PretrainedWeightsError, match="There are no pretrained weights for"):
        backbones.load_pretrained(backbones.FeatureExtractor(["musicnn"] * 2, (96, 187, 1)), "msd")


def front_end(compression=None, image=None, **options):
    mel = {"sample_rate": RATE, "n_fft": 512, "hop_length": 256, "n_mels": 96, "center": False, **options}
    return [MelSpectrogram(**mel), compression or LogCompression(), image or SpectrogramToImage(scale=None)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"front_end": front_end(sample_rate=22050)}, "`sample_rate` of MelSpectrogram in `front_end` must be 16000"),
        ({"front_end": front_end(n_fft=1024)}, "`n_fft` of MelSpectrogram in `front_end` must be 512"),
        ({"front_end": front_end(hop_length=128)}, "`hop_length` of MelSpectrogram in `front_end` must be 256"),
        ({"front_end": front_end(n_mels=64)}, "`n_mels` of MelSpectrogram in `front_end` must be 96"),
        ({"front_end": front_end(center=True)}, "`center` of MelSpectrogram in `front_end` must be False"),
        ({"front_end": front_end(f_max=7000.0)}, "`f_max` of MelSpectrogram in `front_end` must be None"),
        ({"front_end": front_end(LogCompression(1.0))}, "`factor` of LogCompression in `front_end` must be 10000"),
        ({"front_end": front_end(PowerToDecibels())}, "`front_end` must be the layers MelSpectrogram, LogCompression"),
        (
            {"front_end": front_end(image=SpectrogramToImage())},
            "`scale` of SpectrogramToImage in `front_end` must be None",
        ),
        ({"front_end": gk.layers.default_front_end()}, "`front_end` must be the layers MelSpectrogram, LogCompression"),
        ({"clip_seconds": 3.0}, "`clip_seconds` must give 187 frames, as 3.008 s do.*clip_seconds=3, which gives 186"),
        ({"clip_seconds": 10.0}, "`clip_seconds` must give 187 frames.*which gives 624 frames"),
        ({"clip_seconds": 0.01}, "must have at least 512 samples"),
        ({"stem": "new"}, '`stem="new"` replaces the first convolution of a network for RGB images'),
        (
            {"image_augmentation": [gk.layers.RandomChannelEffects()]},
            r"`image_augmentation` must be for images in \(0.0, 7.0\), which musicnn processes.*RandomChannelEffects",
        ),
    ],
)
def test_inputs_other_than_those_of_the_pretrained_weights(options, message):
    with pytest.raises(ValueError, match=message):
        gk.GenreClassifier("musicnn", pretrained="mtt", **options)


def test_inputs_that_give_the_same_images():
    """Augmentation in the front end, another transform, and a clip that is longer by less than a frame."""
    layers = [RandomNoise(seed=1), *front_end(dft="matmul")]
    model = gk.GenreClassifier(
        "musicnn",
        pretrained="msd",
        front_end=layers,
        clip_seconds=3.02,
        image_augmentation=[gk.layers.SpecAugment(seed=1)],
    )
    assert model.front_end.output_shape == (None, 96, 187, 1)


def test_random_weights_for_images_of_another_size():
    layers = [MelSpectrogram(RATE, 512, 256, n_mels=40), LogCompression(), SpectrogramToImage(scale=None)]
    model = musicnn(front_end=layers)
    assert model.front_end.output_shape == (None, 40, 189, 1) and model.feature_extractor.output_shape == (None, 200)
    assert model.feature_extractor.get_layer("musicnn_timbral1").kernel.shape == (16, 7, 1, 204)


@pytest.mark.backends
@pytest.mark.parametrize("fine_tune, count", [("head", 2), ("stem", 12), ("all", 42)])
def test_fine_tuning_trains_the_selected_layers_only(fine_tune, count, rng):
    """Frozen batch normalization does not change. Its dropout is active with "all" only."""
    keras.utils.set_random_seed(0)
    model = gk.GenreClassifier(
        "musicnn", ["a", "b"], pretrained="msd", fine_tune=fine_tune, dropout=0.0, multi_label=True
    )
    network = model.feature_extractor
    trained = {weight.path.split("/")[-2] for weight in network.trainable_variables}
    assert len(model.trainable_variables) == count
    if fine_tune != "all":
        assert trained == (set(FIRST) if fine_tune == "stem" else set())
    images = model.front_end(clips(rng, 2))
    is_random = np.abs(numpy(network(images, training=True)) - numpy(network(images, training=False))).max() > 0
    assert is_random == (fine_tune == "all")
    before = {weight.path: numpy(weight) for weight in network.weights}
    model.compile(keras.optimizers.SGD(1e-4), "binary_crossentropy")
    model.fit(clips(rng, 2), np.float32([[0, 1], [1, 1]]), verbose=0)
    assert all(np.isfinite(numpy(weight)).all() for weight in model.weights)
    changed = {weight.path.split("/")[-2] for weight in network.weights if (numpy(weight) != before[weight.path]).any()}
    if fine_tune == "all":
        assert trained | {"musicnn_bn"} <= changed
    else:
        assert changed == trained


def test_averages_of_musicnn(rng):
    models = [gk.GenreClassifier("musicnn", ["a", "b"], pretrained=name, multi_label=True) for name in NAMES]
    waveforms = clips(rng)
    logits = [np.log(p / (1 - p)) for p in (model.predict(waveforms, verbose=0).astype("float64") for model in models)]
    average = gk.models.average(models)
    assert average.backbone == ("musicnn", "musicnn") and average.multi_label
    expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    np.testing.assert_allclose(average.predict(waveforms, verbose=0), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r'must contain "mel_\.\.\." names only, or "musicnn" only'):
        small_model(backbone=["musicnn", "mel_cnn"])
