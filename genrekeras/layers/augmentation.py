"""Augmentation: changes that a clip's genre survives, made in training only, anew at each step.

Layers for `waveform_augmentation` take `(batch, samples)`, those for `image_augmentation` `(batch, mels, frames, 1)`.
Which of the two is said first in each docstring. Each draws for every clip on its own, from a seed.
"""

import math

import keras
import numpy as np
from genrekeras.layers.spectrogram import Float32Layer
from keras import ops


class RandomLayer(Float32Layer):
    """Changes a share of the clips in training and none otherwise; subclasses say how in `augment`.

    Args:
        share: float in [0, 1], share of the clips that are changed; each clip draws a number in [0, 1) and is changed
            if it is below `share`. Or a pair `(start, stop)`: it is changed if its number lies in [start, stop). Layers
            that are called equally often and have the same seed draw the same numbers, so that with shares (0, 0.2) and
            (0.2, 0.4) no clip is changed by both.
        seed: int, or `None` for another one each time.
    """

    def __init__(self, share=1.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        start, stop = share if isinstance(share, (tuple, list)) else (0.0, share)
        if not 0 <= start <= stop <= 1:
            raise ValueError(f"`share` must lie in [0, 1] or be an interval in it. Received: share={share}")
        self.share = share
        self.seed = seed
        self._interval = (start, stop)
        self._choice = keras.random.SeedGenerator(seed)
        self._draws = keras.random.SeedGenerator(None if seed is None else _unrelated_seed(seed))

    def call(self, inputs, training=False):
        if not training:
            return inputs
        start, stop = self._interval
        number = self._per_clip(inputs, seed=self._choice)
        return ops.where(ops.logical_and(number >= start, number < stop), self.augment(inputs), inputs)

    def augment(self, inputs):
        """`inputs`, all of them changed; same shape."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _per_clip(self, inputs, low=0.0, high=1.0, seed=None):
        """A number for each clip, of shape `(batch, 1, ...)` with the rank of `inputs`."""
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        return keras.random.uniform(shape, low, high, seed=seed or self._draws)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "share": self.share, "seed": self.seed}


@keras.saving.register_keras_serializable("genrekeras")
class RandomGain(RandomLayer):
    """Waveform: a fader that moves. In decibels the gain goes in a straight line from one drawn value to another.

    A gain that stands still is taken out again by a front end that scales each clip (`PowerToDecibels(ref="max")`,
    `SpectrogramToImage(scale="clip")`); `moving=False` gives one, for front ends that do not.

    Args:
        max_db: float > 0, in dB: gains are drawn evenly from [-max_db, max_db].
        moving: bool, draw one gain for the start and one for the end, or one for the whole clip.
        share, seed: as in `RandomLayer`.
    """

    def __init__(self, max_db=6.0, moving=True, share=1.0, seed=None, **kwargs):
        super().__init__(share=share, seed=seed, **kwargs)
        _check_positive("max_db", max_db)
        self.max_db = max_db
        self.moving = moving
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform):
        decibels = self._per_clip(waveform, -self.max_db, self.max_db)
        if self.moving:
            end = self._per_clip(waveform, -self.max_db, self.max_db)
            samples = ops.shape(waveform)[1]
            way = ops.cast(ops.arange(samples), "float32") / ops.cast(samples, "float32")
            decibels = decibels + (end - decibels) * way
        return waveform * ops.exp(decibels * (math.log(10.0) / 20.0))

    def get_config(self):
        return {**super().get_config(), "max_db": self.max_db, "moving": self.moving}


@keras.saving.register_keras_serializable("genrekeras")
class RandomNoise(RandomLayer):
    """Waveform: white noise at a signal-to-noise ratio drawn for each clip. Silence stays silent.

    Args:
        min_snr_db, max_snr_db: float, in dB, ratio of the clip's mean power to that of the noise, drawn evenly between
            them.
        share, seed: as in `RandomLayer`.
    """

    def __init__(self, min_snr_db=10.0, max_snr_db=40.0, share=1.0, seed=None, **kwargs):
        super().__init__(share=share, seed=seed, **kwargs)
        if not min_snr_db <= max_snr_db:
            raise ValueError(
                "`min_snr_db` must not be above `max_snr_db`. "
                f"Received: min_snr_db={min_snr_db}, max_snr_db={max_snr_db}"
            )
        self.min_snr_db = min_snr_db
        self.max_snr_db = max_snr_db
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform):
        snr_db = self._per_clip(waveform, self.min_snr_db, self.max_snr_db)
        power = ops.mean(ops.square(waveform), axis=1, keepdims=True)
        sigma = ops.sqrt(power * ops.exp(snr_db * (-math.log(10.0) / 10.0)))
        return waveform + sigma * keras.random.normal(ops.shape(waveform), seed=self._draws)

    def get_config(self):
        return {**super().get_config(), "min_snr_db": self.min_snr_db, "max_snr_db": self.max_snr_db}


@keras.saving.register_keras_serializable("genrekeras")
class RandomTimeShift(RandomLayer):
    """Waveform: turned in time, what leaves at one end enters at the other.

    Args:
        max_shift: float in (0, 1], the furthest shift to either side, as a part of the clip.
        share, seed: as in `RandomLayer`.
    """

    def __init__(self, max_shift=0.5, share=1.0, seed=None, **kwargs):
        super().__init__(share=share, seed=seed, **kwargs)
        if not 0 < max_shift <= 1:
            raise ValueError(f"`max_shift` must lie in (0, 1]. Received: max_shift={max_shift}")
        self.max_shift = max_shift
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform):
        samples = ops.shape(waveform)[1]
        part = self._per_clip(waveform, -self.max_shift, self.max_shift)
        shift = ops.cast(ops.floor(part * ops.cast(samples, "float32")), "int32")
        index = ops.mod(ops.expand_dims(ops.arange(samples, dtype="int32"), 0) - shift, samples)  # (batch, samples)
        return ops.take_along_axis(waveform, index, axis=1)

    def get_config(self):
        return {**super().get_config(), "max_shift": self.max_shift}


@keras.saving.register_keras_serializable("genrekeras")
class PowerGain(RandomLayer):
    """Waveform: the gain of the 2023 system, its power times a factor drawn from a few.

    Kept to repeat that system's experiments. A front end that scales each clip to its own range, as that system's did,
    takes the gain out again.

    Args:
        factors: tuple of floats > 0, factors of the power; the amplitude changes by their square roots.
        share, seed: as in `RandomLayer`.
    """

    def __init__(self, factors=(1.5, 0.5), share=1.0, seed=None, **kwargs):
        super().__init__(share=share, seed=seed, **kwargs)
        if not len(factors) or min(factors) <= 0:
            raise ValueError(f"`factors` must be numbers > 0. Received: factors={factors}")
        self.factors = factors
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform):
        amplitudes = np.sqrt(np.asarray(self.factors, "float32"))
        drawn = ops.cast(ops.floor(self._per_clip(waveform) * len(amplitudes)), "int32")
        return waveform * ops.take(amplitudes, drawn)

    def get_config(self):
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable("genrekeras")
class ImageNoise(RandomLayer):
    """Image: Gaussian noise on the gray values, not cut to [0, 255].

    Args:
        sigma: float > 0, in gray values. The 2023 system took 0.1, of 255: too little to matter.
        share, seed: as in `RandomLayer`.
    """

    def __init__(self, sigma=0.1, share=1.0, seed=None, **kwargs):
        super().__init__(share=share, seed=seed, **kwargs)
        _check_positive("sigma", sigma)
        self.sigma = sigma
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def augment(self, image):
        return image + self.sigma * keras.random.normal(ops.shape(image), seed=self._draws)

    def get_config(self):
        return {**super().get_config(), "sigma": self.sigma}


@keras.saving.register_keras_serializable("genrekeras")
class SpecAugment(RandomLayer):
    """Image: bands of mels and spans of frames are painted over with the clip's mean.

    Source: Park et al., "SpecAugment", Interspeech 2019 (without time warping).

    Args:
        frequency_masks: int >= 0, number of masked bands.
        frequency_width: int > 0, in mels: each band's width is drawn evenly from 0..frequency_width.
        time_masks: int >= 0, number of masked spans.
        time_width: int > 0, in frames, likewise.
        share, seed: as in `RandomLayer`.

    Raises:
        ValueError: an option is out of range, or a mask is wider than the image.
    """

    def __init__(
        self, frequency_masks=2, frequency_width=16, time_masks=2, time_width=32, share=1.0, seed=None, **kwargs
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        for name, count in {"frequency_masks": frequency_masks, "time_masks": time_masks}.items():
            if count < 0:
                raise ValueError(f"`{name}` must be >= 0. Received: {name}={count}")
        _check_positive("frequency_width", frequency_width)
        _check_positive("time_width", time_width)
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width
        self.time_masks = time_masks
        self.time_width = time_width
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        for name, width, size in (
            ("frequency_width", self.frequency_width, input_shape[1]),
            ("time_width", self.time_width, input_shape[2]),
        ):
            if size is not None and width > size:
                raise ValueError(f"`{name}` must not exceed the image's {size}. Received: {name}={width}")

    def augment(self, image):
        mean = ops.mean(image, axis=(1, 2, 3), keepdims=True)
        for _ in range(self.frequency_masks):
            image = ops.where(self._mask(image, axis=1, width=self.frequency_width), mean, image)
        for _ in range(self.time_masks):
            image = ops.where(self._mask(image, axis=2, width=self.time_width), mean, image)
        return image

    def _mask(self, image, axis, width):
        """True in a span of 0..width places along `axis`, drawn for each clip."""
        size = ops.cast(ops.shape(image)[axis], "float32")
        span = ops.floor(self._per_clip(image) * (width + 1))
        start = ops.floor(self._per_clip(image) * (size - span + 1))
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        place = ops.reshape(ops.cast(ops.arange(ops.shape(image)[axis]), "float32"), shape)
        return ops.logical_and(place >= start, place < start + span)

    def get_config(self):
        return {
            **super().get_config(),
            "frequency_masks": self.frequency_masks,
            "frequency_width": self.frequency_width,
            "time_masks": self.time_masks,
            "time_width": self.time_width,
        }


@keras.saving.register_keras_serializable("genrekeras")
class RandomChannelEffects(RandomLayer):
    """Image: the same music as another recording has it, with another dynamic range, equalizer, noise, pitch and limit
    of its band.

    For images on which 0..255 are `top_db` decibels below the peak (`SpectrogramToImage(scale="decibels")`).

    Args:
        dynamic_range: float in [0, 1): distances from the peak are stretched by a factor drawn evenly from
            `1 - dynamic_range` to `1 + dynamic_range`.
        equalizer_db: float >= 0, in dB, deviation of each of seven cosines over the mel axis that are added to four of
            five clips; of the constant one half of it.
        noise_db: float >= 0, in dB: the deviation of Gaussian noise is drawn evenly from 0 to this.
        shift: int >= 0, in mels: the spectrum moves by as many at the most, up or down; its edge is repeated.
        low_pass: float in [0, 1], share of the clips that lose what is above a band, drawn from the upper 30 %.
        top_db: float > 0.
        highest_first: bool, whether row 0 is the highest band (`SpectrogramToImage(flip=True)`).
        share, seed: as in `RandomLayer`.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        dynamic_range=0.15,
        equalizer_db=2.5,
        noise_db=1.5,
        shift=4,
        low_pass=0.2,
        top_db=80.0,
        highest_first=True,
        share=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        if not 0 <= dynamic_range < 1 or not 0 <= low_pass <= 1:
            raise ValueError(
                "`dynamic_range` must lie in [0, 1) and `low_pass` in [0, 1]. "
                f"Received: dynamic_range={dynamic_range}, low_pass={low_pass}"
            )
        if min(equalizer_db, noise_db, shift) < 0:
            raise ValueError(
                "`equalizer_db`, `noise_db` and `shift` must be >= 0. "
                f"Received: equalizer_db={equalizer_db}, noise_db={noise_db}, shift={shift}"
            )
        _check_positive("top_db", top_db)
        self.dynamic_range = dynamic_range
        self.equalizer_db = equalizer_db
        self.noise_db = noise_db
        self.shift = shift
        self.low_pass = low_pass
        self.top_db = top_db
        self.highest_first = highest_first
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def augment(self, image):
        mels = image.shape[1]
        x = image / 255.0  # 1 is the peak, 0 is `top_db` below it
        x = 1 - (1 - x) * self._per_clip(x, 1 - self.dynamic_range, 1 + self.dynamic_range)
        x = x + self._equalizer(x, mels)
        x = x + self._normal(ops.shape(x)) * self._per_clip(x, 0.0, self.noise_db / self.top_db)
        moved = ops.floor(self._per_clip(x, -self.shift, self.shift + 1))
        rows = ops.clip(self._rows(mels) + ops.cast(moved, "int32"), 0, mels - 1)  # (batch, mels, 1, 1)
        x = ops.clip(ops.take_along_axis(x, rows, axis=1), 0.0, 1.1)
        limit = ops.floor(self._per_clip(x, 0.7 * mels, mels))
        limit = ops.where(self._per_clip(x) < self.low_pass, limit, float(mels))
        band = mels - 1 - self._rows(mels) if self.highest_first else self._rows(mels)
        return 255.0 * ops.where(ops.cast(band, "float32") < limit, x, 0.0)

    def _equalizer(self, x, mels):
        curves = np.cos(np.pi * (np.arange(mels) + 0.5) * np.arange(7)[:, None] / mels)  # (7, mels)
        curves[0] /= 2
        weights = self._normal((ops.shape(x)[0], 7)) * (self.equalizer_db / self.top_db)
        curve = ops.matmul(weights, ops.convert_to_tensor(curves.astype("float32")))[:, :, None, None]
        return ops.where(self._per_clip(x) < 0.8, curve, 0.0)

    def _normal(self, shape):
        return keras.random.normal(shape, seed=self._draws)

    @staticmethod
    def _rows(mels):
        return ops.reshape(ops.arange(mels, dtype="int32"), (1, -1, 1, 1))

    def get_config(self):
        names = ("dynamic_range", "equalizer_db", "noise_db", "shift", "low_pass", "top_db", "highest_first")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _unrelated_seed(seed):
    """Another seed, which is not that of a layer whose seed is the next number."""
    return int(np.random.SeedSequence([abs(seed), 1]).generate_state(1)[0] >> 1)


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"`{name}` must be > 0. Received: {name}={value}")
