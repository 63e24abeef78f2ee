"""Layers of the front end, compared with librosa: power within 1e-5 of its maximum, decibels within 0.01 dB."""

import genrekeras as gk
import keras
import librosa
import numpy as np
import pytest
from conftest import mixed_precision, numpy, tones
from genrekeras.layers import base
from genrekeras.layers.filterbank import mel_filterbank, windowed_dft_factors
from genrekeras.layers.statistics import CepstralStatistics

DEFAULTS = {"sample_rate": 22050, "n_fft": 2048, "hop_length": 512, "n_mels": 128, "f_min": 0.0, "f_max": None}
GRID = [
    {},
    {"mel_scale": "htk"},
    {"norm": None},
    {"mel_scale": "htk", "norm": None, "f_min": 50.0, "f_max": 8000.0},
    {"n_fft": 1024, "hop_length": 441, "n_mels": 64, "sample_rate": 44100},  # a hop that does not divide the frame
    {"n_fft": 512, "hop_length": 128, "n_mels": 40, "sample_rate": 16000},
    {"n_fft": 1000, "hop_length": 300, "n_mels": 20},  # not a power of two
    {"n_fft": 46, "hop_length": 23, "n_mels": 4},  # 2 x 23
    {"n_fft": 256, "hop_length": 700, "n_mels": 33},  # samples in no frame; two blocks of bands
]
LENGTHS = [1, 2, 511, 512, 513, 22016, 22017, 22527, 22050]  # samples % hop: 0, 1, hop - 1, and others

backends = pytest.mark.backends


def librosa_power(waveforms, mel_scale="slaney", norm="slaney", center=True, **options):
    options = {**DEFAULTS, **options}
    return np.stack(
        [
            librosa.feature.melspectrogram(
                y=waveform,
                sr=options["sample_rate"],
                n_fft=options["n_fft"],
                hop_length=options["hop_length"],
                n_mels=options["n_mels"],
                fmin=options["f_min"],
                fmax=options["f_max"],
                htk=mel_scale == "htk",
                norm=norm,
                center=center,
            )
            for waveform in waveforms
        ]
    )


@backends
@pytest.mark.filterwarnings("ignore:n_fft=.* is too large for input signal")
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("dft", ["fft", "matmul"])
@pytest.mark.parametrize("options", GRID)
def test_power_equals_librosa(rng, options, dft, center):
    layer = gk.layers.MelSpectrogram(dft=dft, center=center, **options)
    lengths = LENGTHS if options == {} else LENGTHS[-2:]
    for samples in lengths if center else [layer.n_fft, layer.n_fft + layer.hop_length, *lengths[-3:]]:
        waveforms = tones(rng, 2, samples)
        power, references = numpy(layer(waveforms)), librosa_power(waveforms, center=center, **options)
        assert power.shape == references.shape == layer.compute_output_shape(waveforms.shape)
        for clip, reference in zip(power, references, strict=True):
            np.testing.assert_allclose(clip, reference, atol=1e-5 * reference.max(), rtol=0)


@backends
@pytest.mark.parametrize("dft", ["fft", "matmul"])
def test_silence(dft):
    power = numpy(gk.layers.MelSpectrogram(dft=dft)(np.zeros((1, 5000), "float32")))
    assert (power == 0).all()
    decibels = numpy(gk.layers.PowerToDecibels()(power))
    assert (decibels == 0).all()
    assert (numpy(gk.layers.SpectrogramToImage()(decibels)) == 0).all()


@backends
@pytest.mark.parametrize("options", [{}, {"ref": 1.0}, {"top_db": None}, {"top_db": 40.0, "amin": 1e-5}, {"ref": 0.02}])
def test_decibels_equal_librosa(rng, options):
    power = librosa_power(tones(rng, 3, 22050) * [[1], [0.01], [1e-4]])
    decibels = numpy(gk.layers.PowerToDecibels(**options)(power))
    arguments = {"amin": 1e-10, "top_db": 80.0, **options}
    arguments["ref"] = np.max if options.get("ref", "max") == "max" else options["ref"]
    references = np.stack([librosa.power_to_db(clip, **arguments) for clip in power])
    np.testing.assert_allclose(decibels, references, atol=0.01)


@backends
@pytest.mark.parametrize("factor", [10000.0, 5])
def test_log_compression(rng, factor):
    """Equal to NumPy. Silence is 0, and a clip does not depend on the others."""
    power = np.stack([np.zeros((4, 5)), rng.gamma(0.3, 1.0, (4, 5)), np.full((4, 5), 1e-30), np.full((4, 5), 1e30)])
    power = power.astype("float32")
    layer = gk.layers.LogCompression(factor)
    compressed = numpy(layer(power))
    np.testing.assert_allclose(compressed, np.log10(factor * power.astype("float64") + 1), rtol=1e-5, atol=1e-7)
    assert (compressed[0] == 0).all() and compressed.shape == layer.compute_output_shape(power.shape)
    alone = np.concatenate([numpy(layer(clip[None])) for clip in power])
    np.testing.assert_allclose(compressed, alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("source", [pytest.param("synthetic", marks=backends), "real"])
def test_images_of_2023(rng, request, source):
    """Equal to the images of the system of 2023, re-implemented with librosa, within one gray level."""
    if source == "real":
        clips = [gk.audio.load(path, duration=10) for path in list(request.getfixturevalue("real_clips").values())[:3]]
    else:
        clips = list(tones(rng, 2, 220500))
    layers = [
        gk.layers.MelSpectrogram(),
        gk.layers.PowerToDecibels(top_db=40.0, amin=1e-5),
        gk.layers.SpectrogramToImage(),
    ]
    images = np.stack(clips)
    for layer in layers:
        images = layer(images)
    for image, clip in zip(numpy(images), clips, strict=True):
        power = librosa.feature.melspectrogram(y=clip, sr=22050, n_fft=2048, hop_length=512, n_mels=128)
        decibels = librosa.amplitude_to_db(power, top_db=80)
        standardized = (decibels - decibels.mean()) / (decibels.std() + 1e-6)
        scaled = 255 * (standardized - standardized.min()) / (standardized.max() - standardized.min())
        gray = scaled.astype("uint8")
        assert image.shape == (128, 431, 1)
        assert np.abs(image[..., 0].astype("uint8").astype(int) - gray).max() <= 1


@backends
@pytest.mark.parametrize("dft", ["fft", "matmul"])
def test_a_clip_alone_equals_the_clip_in_a_batch(rng, dft):
    waveforms = tones(rng, 4, 11025) * np.float32([[1], [1e-3], [10], [0.3]])
    layers = [
        gk.layers.MelSpectrogram(dft=dft),
        gk.layers.PowerToDecibels(),
        gk.layers.UniformTemporalSubsample(7),
        gk.layers.SpectrogramToImage(),
    ]

    def front_end(x):
        for layer in layers:
            x = layer(x)
        return numpy(x)

    np.testing.assert_allclose(
        front_end(waveforms), np.concatenate([front_end(clip[None]) for clip in waveforms]), atol=0.01
    )


@backends
@pytest.mark.parametrize("dft", ["fft", "matmul"])
def test_clip_by_clip_equals_all_at_once(rng, dft):
    """All clips are processed at once on a GPU, and in an exported model with a dynamic batch size."""
    layer = gk.layers.MelSpectrogram(dft=dft)
    waveforms = keras.ops.convert_to_tensor(tones(rng, 3, 11025))
    assert layer._is_clip_by_clip(waveforms)
    in_turn, at_once = numpy(layer(waveforms)), numpy(layer._power(waveforms))
    np.testing.assert_allclose(at_once, in_turn, atol=1e-6 * in_turn.max(), rtol=0)


def test_all_clips_at_once_with_a_dynamic_batch_size():
    assert not gk.layers.MelSpectrogram(dft="matmul")._is_clip_by_clip(keras.KerasTensor((None, 5000)))


@backends
def test_all_clips_at_once_on_an_accelerator(rng, monkeypatch):
    waveforms = keras.ops.convert_to_tensor(tones(rng, 2, 5000))
    layer = gk.layers.MelSpectrogram()
    if keras.backend.backend() == "torch":
        with keras.device("meta"):
            assert not layer._is_clip_by_clip(waveforms.to("meta"))
        return
    for devices, expected in ((["gpu:0"], False), (["tpu:0", "tpu:1"], False), (["cpu:0"], True)):
        base.runs_on_cpu.cache_clear()
        monkeypatch.setattr(keras.distribution, "list_devices", lambda devices=devices: devices)
        assert layer._is_clip_by_clip(waveforms) is expected
    base.runs_on_cpu.cache_clear()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize(
    "layer, shape, constants",
    [
        (gk.layers.MelSpectrogram(), (22050,), 5),
        (gk.layers.MelSpectrogram(dft="matmul"), (22050,), 6),
        (CepstralStatistics(), (64, 40, 1), 2),
    ],
)
def test_constants_follow_the_device_on_torch(layer, shape, constants):
    inputs = keras.ops.zeros((2, *shape))
    layer(inputs)
    assert not layer.weights and not layer.state_dict()
    with keras.device("meta"):  # `to` of a model moves its weights, but not the constants of its layers
        assert layer(inputs.to("meta")).device.type == "meta"
    assert layer(inputs).device.type == "cpu"
    layer.to("meta")
    assert [buffer.device.type for buffer in layer.buffers()] == constants * ["meta"]


@backends
def test_float32_inside_under_mixed_precision(rng):
    waveforms = 1e-4 * tones(rng, 1, 5000)  # squares are far below the smallest float16
    reference = numpy(gk.layers.MelSpectrogram()(waveforms))
    with mixed_precision("mixed_float16"):
        layer = gk.layers.MelSpectrogram()
        power = layer(waveforms)
    assert keras.backend.standardize_dtype(power.dtype) == "float32" and layer.compute_dtype == "float32"
    np.testing.assert_array_equal(numpy(power), reference)
    with pytest.raises(ValueError, match="`dtype` of MelSpectrogram must be float32"):
        gk.layers.MelSpectrogram(dtype="mixed_float16")


@backends
def test_image_scales(rng):
    decibels = rng.uniform(-100, 0, (2, 8, 9)).astype("float32")
    clip = numpy(gk.layers.SpectrogramToImage()(decibels))
    assert clip.shape == (2, 8, 9, 1)
    np.testing.assert_allclose(clip.min(axis=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(clip.max(axis=(1, 2, 3)), 255, rtol=1e-6)
    absolute = numpy(gk.layers.SpectrogramToImage(scale="decibels", top_db=80.0)(decibels))
    np.testing.assert_allclose(absolute[..., 0], 255 * np.clip(1 + decibels / 80, 0, 1), atol=1e-3)
    flipped = numpy(gk.layers.SpectrogramToImage(flip=True)(decibels))
    np.testing.assert_array_equal(flipped, clip[:, ::-1])
    unscaled = numpy(gk.layers.SpectrogramToImage(scale=None)(decibels))
    np.testing.assert_array_equal(unscaled[..., 0], decibels)


def test_filterbank_equals_librosa():
    for scale in ("slaney", "htk"):
        filters = mel_filterbank(44100, 2048, 128, 20.0, 16000.0, scale, "slaney")
        reference = librosa.filters.mel(sr=44100, n_fft=2048, n_mels=128, fmin=20.0, fmax=16000.0, htk=scale == "htk")
        np.testing.assert_allclose(filters.T, reference, atol=1e-8)


def test_a_warning_for_empty_bands():
    with pytest.warns(UserWarning, match="mel bands contain no frequency bin"):
        gk.layers.MelSpectrogram(n_fft=256, n_mels=128)


@pytest.mark.parametrize("n_fft", [2, 6, 46, 512, 1000, 2048])
def test_the_factorized_transform_has_each_bin_once(n_fft):
    inner, outer, bins = windowed_dft_factors(np.hanning(n_fft))
    assert sorted(bins[bins >= 0]) == list(range(n_fft // 2 + 1))
    assert inner.shape[0] * inner.shape[2] == n_fft and outer.shape == 2 * (2 * inner.shape[0],)


@pytest.mark.parametrize(
    "layer",
    [
        gk.layers.MelSpectrogram(f_max=8000.0, center=False, dft="matmul", name="mel"),
        gk.layers.PowerToDecibels(ref=1.0, top_db=None),
        gk.layers.LogCompression(100.0),
        gk.layers.UniformTemporalSubsample(5),
        gk.layers.SpectrogramToImage(scale="decibels", top_db=60.0, flip=True),
        gk.layers.SpectrogramToImage(scale=None),
    ],
)
def test_config_round_trip(layer):
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(restored) is type(layer) and restored.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "make, argument",
    [
        (lambda: gk.layers.MelSpectrogram(n_fft=2047), "n_fft"),
        (lambda: gk.layers.MelSpectrogram(hop_length=0), "hop_length"),
        (lambda: gk.layers.MelSpectrogram(n_mels=1.5), "n_mels"),
        (lambda: gk.layers.MelSpectrogram(f_max=12000.0), "f_max"),
        (lambda: gk.layers.MelSpectrogram(f_min=-1.0), "f_min"),
        (lambda: gk.layers.MelSpectrogram(mel_scale="bark"), "mel_scale"),
        (lambda: gk.layers.MelSpectrogram(norm="l1"), "norm"),
        (lambda: gk.layers.MelSpectrogram(center="no"), "center"),
        (lambda: gk.layers.MelSpectrogram(dft="dct"), "dft"),
        (lambda: gk.layers.PowerToDecibels(ref="min"), "ref"),
        (lambda: gk.layers.PowerToDecibels(amin=0), "amin"),
        (lambda: gk.layers.PowerToDecibels(top_db=-1), "top_db"),
        (lambda: gk.layers.LogCompression(0.0), "factor"),
        (lambda: gk.layers.LogCompression(float("inf")), "factor"),
        (lambda: gk.layers.UniformTemporalSubsample(0), "num_samples"),
        (lambda: gk.layers.SpectrogramToImage(scale="log"), "scale"),
        (lambda: gk.layers.SpectrogramToImage(scale="decibels", top_db=0.0), "top_db"),
        (lambda: gk.layers.MelSpectrogram(n_fft=1 << 17), "n_fft"),
        (lambda: gk.layers.MelSpectrogram(n_fft=1 << 16, n_mels=1025), "n_mels"),
    ],
)
def test_invalid_options(make, argument):
    with pytest.raises(ValueError, match=f"`{argument}`.*Received"):
        make()


@backends
def test_invalid_waveforms():
    with pytest.raises(ValueError, match="expected ndim=2"):
        gk.layers.MelSpectrogram()(np.zeros(100, "float32"))
    with pytest.raises(ValueError, match="at least one sample"):
        gk.layers.MelSpectrogram()(np.zeros((2, 0), "float32"))
    layer = gk.layers.MelSpectrogram(n_fft=512, n_mels=40, center=False)
    for waveform in (keras.Input((511,)), np.zeros((2, 511), "float32")):
        with pytest.raises(
            ValueError, match=r"With `center=False`, .* at least 512 samples.*Received: shape=\(.*511\)"
        ):
            layer(waveform)
    assert layer.compute_output_shape((2, None)) == (2, 40, None)


@pytest.mark.parametrize("options", [{}, {"mel_scale": "htk", "n_mels": 40, "f_min": 50.0, "f_max": 8000.0}])
def test_band_frequencies_equal_librosa(options):
    layer = gk.layers.MelSpectrogram(**options)
    f_max = layer.f_max or 11025.0
    edges = librosa.mel_frequencies(layer.n_mels + 2, fmin=layer.f_min, fmax=f_max, htk=layer.mel_scale == "htk")
    np.testing.assert_allclose(layer.band_frequencies, edges[1:-1], rtol=1e-9)
