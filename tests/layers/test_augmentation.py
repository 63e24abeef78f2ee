"""Augmentation layers: active in training only, seeded, with parameters for each clip and step."""

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy, tones

WAVEFORM_LAYERS = [
    lambda **kw: gk.layers.RandomGain(**kw),
    lambda **kw: gk.layers.RandomNoise(**kw),
    lambda **kw: gk.layers.RandomTimeShift(**kw),
    lambda **kw: gk.layers.PowerGain(**kw),
]
IMAGE_LAYERS = [
    lambda **kw: gk.layers.ImageNoise(**kw),
    lambda **kw: gk.layers.SpecAugment(time_width=8, frequency_width=8, **kw),
    lambda **kw: gk.layers.RandomChannelEffects(**kw),
]
ALL_LAYERS = WAVEFORM_LAYERS + IMAGE_LAYERS

pytestmark = pytest.mark.backends


def inputs_for(rng, make, count=16):
    if make in WAVEFORM_LAYERS:
        return tones(rng, count, 4000)
    return rng.uniform(0, 255, (count, 32, 40, 1)).astype("float32")


@pytest.mark.parametrize("make", ALL_LAYERS)
def test_active_in_training_only(rng, make):
    inputs = inputs_for(rng, make)
    layer = make(seed=1)
    np.testing.assert_array_equal(numpy(layer(inputs)), inputs)
    np.testing.assert_array_equal(numpy(layer(inputs, training=False)), inputs)
    changed = numpy(layer(inputs, training=True))
    assert changed.shape == inputs.shape == layer.compute_output_shape(inputs.shape)
    assert np.isfinite(changed).all() and changed.dtype == np.float32
    assert (np.abs(changed - inputs).max(axis=tuple(range(1, inputs.ndim))) > 0).mean() > 0.9  # nearly every clip


@pytest.mark.parametrize("make", ALL_LAYERS)
def test_seeds_are_reproducible_and_steps_differ(rng, make):
    inputs = inputs_for(rng, make)
    first, second = make(seed=7), make(seed=7)
    steps = [numpy(first(inputs, training=True)) for _ in range(3)]
    for step in steps:
        np.testing.assert_array_equal(numpy(second(inputs, training=True)), step)
    assert np.abs(steps[0] - steps[1]).max() > 0 and np.abs(steps[1] - steps[2]).max() > 0
    assert np.abs(numpy(make(seed=8)(inputs, training=True)) - steps[0]).max() > 0


@pytest.mark.parametrize("make", ALL_LAYERS)
def test_a_share_of_the_clips(rng, make):
    inputs = np.repeat(inputs_for(rng, make, 4), 100, axis=0)
    changed = numpy(make(seed=3, share=0.3)(inputs, training=True))
    is_changed = np.abs(changed - inputs).max(axis=tuple(range(1, inputs.ndim))) > 0
    assert 0.2 < is_changed.mean() < 0.4  # 400 clips: 0.3 within four standard deviations


def test_disjoint_shares_in_a_model():
    """20 % of the clips are changed by gain, 20 % by noise, none by both: `runner.augmentation_of_2023`."""
    gain = gk.layers.PowerGain(factors=(1.5, 0.5), share=(0.0, 0.2), seed=5)
    noise = gk.layers.ImageNoise(sigma=0.1, share=(0.2, 0.4), seed=5)
    waveform = keras.Input((400,))
    image = keras.layers.Reshape((20, 20, 1))
    model = keras.Model(waveform, noise(image(gain(waveform))))
    inputs = np.ones((500, 400), "float32")
    for _ in range(2):
        outputs = numpy(model(inputs, training=True)).reshape(500, 400)
        gained = np.isclose(outputs, np.sqrt(1.5)).all(axis=1) | np.isclose(outputs, np.sqrt(0.5)).all(axis=1)
        noisy = outputs.std(axis=1) > 0.05
        untouched = (outputs == 1).all(axis=1)
        assert (gained.astype(int) + noisy + untouched == 1).all()
        assert 0.13 < gained.mean() < 0.27 and 0.13 < noisy.mean() < 0.27


def test_gain():
    inputs = np.ones((50, 1000), "float32")
    moving = 20 * np.log10(numpy(gk.layers.RandomGain(max_db=6.0, seed=1)(inputs, training=True)))
    assert np.abs(moving).max() <= 6.001 and np.ptp(moving, axis=1).max() > 4
    np.testing.assert_allclose(np.diff(moving, 2, axis=1), 0, atol=1e-3)  # linear in decibels
    constant = 20 * np.log10(numpy(gk.layers.RandomGain(max_db=6.0, moving=False, seed=1)(inputs, training=True)))
    assert np.ptp(constant, axis=1).max() < 1e-3 and constant.std() > 2


def test_signal_to_noise_ratio(rng):
    inputs = tones(rng, 8, 40000)
    noise = numpy(gk.layers.RandomNoise(20.0, 20.0, seed=1)(inputs, training=True)) - inputs
    ratio = 10 * np.log10((inputs**2).mean(axis=1) / (noise**2).mean(axis=1))
    np.testing.assert_allclose(ratio, 20, atol=0.2)
    assert (numpy(gk.layers.RandomNoise(seed=1)(np.zeros((2, 100), "float32"), training=True)) == 0).all()


def test_time_shift_is_circular(rng):
    inputs = tones(rng, 6, 1000)
    shifted = numpy(gk.layers.RandomTimeShift(0.3, seed=2)(inputs, training=True))
    shifts = []
    for before, after in zip(inputs, shifted, strict=True):
        matches = [shift for shift in range(-300, 301) if np.array_equal(np.roll(before, shift), after)]
        assert len(matches) == 1
        shifts += matches
    assert len(set(shifts)) > 1


def test_power_gain_draws_from_its_factors():
    inputs = np.ones((200, 10), "float32")
    power = numpy(gk.layers.PowerGain(seed=1)(inputs, training=True)) ** 2
    assert np.isclose(power, 1.5).all(axis=1).sum() + np.isclose(power, 0.5).all(axis=1).sum() == 200
    assert 60 < np.isclose(power[:, 0], 1.5).sum() < 140


def test_the_front_end_removes_a_constant_gain(rng):
    """Half of the augmentation of 2023 has no effect on images."""
    waveforms = tones(rng, 4, 22050)
    layers = [gk.layers.MelSpectrogram(), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage()]

    def image(x):
        for layer in layers:
            x = layer(x)
        return numpy(x)

    gained = gk.layers.PowerGain(seed=1)(waveforms, training=True)
    np.testing.assert_allclose(image(gained), image(waveforms), atol=0.01)


def test_spec_augment_masks_ranges_with_the_mean(rng):
    images = rng.uniform(0, 255, (30, 32, 40, 1)).astype("float32")
    bands = numpy(gk.layers.SpecAugment(1, 8, 0, 8, seed=1)(images, training=True))
    widths = []
    for before, after in zip(images[..., 0], bands[..., 0], strict=True):
        rows = np.flatnonzero((before != after).any(axis=1))
        widths.append(len(rows))
        if len(rows):
            assert rows[-1] - rows[0] + 1 == len(rows)  # contiguous
            np.testing.assert_allclose(after[rows], before.mean(), rtol=1e-4)
    assert max(widths) == 8 and min(widths) == 0  # 30 draws of 0..8
    spans = numpy(gk.layers.SpecAugment(0, 8, 1, 8, seed=1)(images, training=True))
    assert ((images != spans).any(axis=(1, 3)).sum(axis=1) <= 8).all()


@pytest.mark.parametrize("highest_first", [True, False])
def test_each_channel_effect_alone(highest_first):
    """Effects of the options, one at a time, on 400 images whose gray values are linear over mels."""
    mels, nothing = 64, {"dynamic_range": 0.0, "equalizer_db": 0.0, "noise_db": 0.0, "shift": 0, "low_pass": 0.0}
    slope = np.linspace(60, 200, mels, dtype="float32")[:: -1 if highest_first else 1]
    images = np.broadcast_to(slope[None, :, None, None], (400, mels, 20, 1))

    def changed(**options):
        layer = gk.layers.RandomChannelEffects(**{**nothing, **options}, highest_first=highest_first, seed=4)
        return numpy(layer(images, training=True))

    np.testing.assert_allclose(changed(), images, atol=1e-3)
    factor = (255 - changed(dynamic_range=0.2)) / (255 - images)
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-4)
    assert 0.8 <= factor.min() < 0.82 and 1.18 < factor.max() <= 1.2

    equalized = (changed(equalizer_db=2.0) - images) * 80 / 255  # dB
    assert (np.abs(equalized).max(axis=(1, 2, 3)) > 1e-3).mean() == pytest.approx(0.8, abs=0.07)
    assert np.abs(equalized - equalized[:, :, :1]).max() < 1e-3  # the same at all times
    selected = equalized[np.abs(equalized).max(axis=(1, 2, 3)) > 1e-3]
    expected = 2.0 * np.sqrt(0.25 + 6 / 2)  # half of the constant, and the mean square of six cosines
    assert selected.std() == pytest.approx(expected, rel=0.1)

    noise = ((changed(noise_db=3.0) - images) * 80 / 255).std(axis=(1, 2, 3))
    assert noise.min() < 0.1 and 2.8 < noise.max() < 3.2 and noise.mean() == pytest.approx(1.5, abs=0.15)

    shifts = (changed(shift=3)[:, 20, 0, 0] - slope[20]) / (slope[21] - slope[20])
    assert set(np.round(shifts)) == {-3, -2, -1, 0, 1, 2, 3} and np.abs(shifts - np.round(shifts)).max() < 1e-2
    assert changed(shift=3).min() > 59 and changed(shift=3).max() < 201  # the edge is repeated

    silent = (changed(low_pass=0.25)[:, :, 0, 0] == 0)[:, :: 1 if highest_first else -1]  # the highest first
    counts = silent.sum(axis=1)
    assert (counts > 0).mean() == pytest.approx(0.25, abs=0.07) and counts.max() <= 0.3 * mels + 1
    np.testing.assert_array_equal(silent, np.arange(mels)[None] < counts[:, None])


def test_layers_with_consecutive_seeds_are_independent():
    """The selection of clips for noise is not correlated with their gains."""
    inputs = np.ones((400, 8), "float32")
    gains = np.log(numpy(gk.layers.RandomGain(moving=False, seed=1)(inputs, training=True))[:, 0])
    is_noisy = numpy(gk.layers.RandomNoise(share=0.5, seed=2)(inputs, training=True))[:, 0] != 1
    assert abs(np.corrcoef(gains, is_noisy)[0, 1]) < 0.2  # four standard deviations


@pytest.mark.parametrize("make", ALL_LAYERS)
def test_config_round_trip(make):
    layer = make(seed=4, share=(0.25, 0.5))
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(restored) is type(layer)
    assert restored.seed == 4 and tuple(restored.share) == (0.25, 0.5)


@pytest.mark.parametrize(
    "make, argument",
    [
        (lambda: gk.layers.RandomGain(share=1.5), "share"),
        (lambda: gk.layers.RandomGain(share=(0.5, 0.2)), "share"),
        (lambda: gk.layers.RandomGain(max_db=0), "max_db"),
        (lambda: gk.layers.RandomNoise(30, 10), "min_snr_db"),
        (lambda: gk.layers.RandomTimeShift(0), "max_shift"),
        (lambda: gk.layers.PowerGain(factors=()), "factors"),
        (lambda: gk.layers.ImageNoise(sigma=0), "sigma"),
        (lambda: gk.layers.SpecAugment(time_masks=-1), "time_masks"),
        (lambda: gk.layers.RandomChannelEffects(dynamic_range=1.0), "dynamic_range"),
        (lambda: gk.layers.RandomChannelEffects(shift=-1), "shift"),
        (lambda: gk.layers.RandomChannelEffects(top_db=0), "top_db"),
        (lambda: gk.layers.SpecAugment(time_width=50)(np.zeros((1, 32, 40, 1), "float32")), "time_width"),
    ],
)
def test_invalid_options(make, argument):
    with pytest.raises(ValueError, match=f"`{argument}`.*Received"):
        make()
