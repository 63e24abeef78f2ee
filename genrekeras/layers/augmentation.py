"""Augmentation layers. They change clips at random in training, but not the genre. In inference they do nothing.

Layers for the argument `waveform_augmentation` process waveforms `(batch, samples)`. Layers for the argument
`image_augmentation` process images `(batch, mels, frames, 1)`. In each training step, each clip gets its own random
parameters.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from genrekeras.layers.base import Float32Layer
from keras import ops


class RandomLayer(Float32Layer):
    """Base class of layers that change randomly selected clips in training. Subclasses implement `augment`.

    Args:
        share: in [0, 1], share of the clips to change. In each step, a uniform random number in [0, 1) is drawn for
            each clip. The clip is changed if its number is below `share`. `share` can also be a pair `(start, stop)`.
            Then a clip is changed if its number lies in [start, stop). With pairs, one clip can be kept from being
            changed by two layers: layers with the same seed draw the same numbers, so the shares (0, 0.2) and
            (0.2, 0.4) never change the same clip.
        seed: seed of the random numbers; `None` for a random seed.
    """

    def __init__(self, share: float | tuple[float, float] = 1.0, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        start, stop = share if isinstance(share, (tuple, list)) else (0.0, share)
        if not 0 <= start <= stop <= 1:
            raise ValueError(
                "`share` must be a number in [0, 1], or a pair (start, stop) with 0 <= start <= stop <= 1. "
                f"Received: share={share}"
            )
        self.share = share
        self.seed = seed
        self._interval = (start, stop)
        self._selection_seeds = keras.random.SeedGenerator(seed)
        self._parameter_seeds = keras.random.SeedGenerator(None if seed is None else _hash_seed(seed))

    def call(self, inputs, training=False):
        if not training:
            return inputs
        start, stop = self._interval
        number = self._draw_uniform(inputs, seed=self._selection_seeds)
        return ops.where(ops.logical_and(number >= start, number < stop), self.augment(inputs), inputs)

    def augment(self, inputs: Any) -> Any:
        """Return changed copies of all clips, in the shape of `inputs`."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _draw_uniform(self, inputs, low=0.0, high=1.0, seed=None):
        """Draw one uniform random number for each clip. The shape is `(batch, 1, ...)`, with the rank of `inputs`."""
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        return keras.random.uniform(shape, low, high, seed=seed or self._parameter_seeds)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "share": self.share, "seed": self.seed}


@keras.saving.register_keras_serializable("genrekeras")
class RandomGain(RandomLayer):
    """Apply a random gain to waveforms. By default, the gain of a clip changes from its start to its end (a fade).

    With `moving=False`, the gain of a clip is constant. A front end that normalizes each clip removes a constant gain,
    so `moving=False` has no effect with `PowerToDecibels(ref="max")` or `SpectrogramToImage(scale="clip")`.

    Args:
        max_db: `> 0`, in dB. Gains are drawn uniformly from [-max_db, max_db].
        moving: if true, one gain is drawn for the start of a clip and another for its end, and the gain changes
            linearly in dB. If false, one constant gain is drawn.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.
    """

    def __init__(
        self,
        max_db: float = 6.0,
        moving: bool = True,
        share: float | tuple[float, float] = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        _check_positive("max_db", max_db)
        self.max_db = max_db
        self.moving = moving
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform: Any) -> Any:
        decibels = self._draw_uniform(waveform, -self.max_db, self.max_db)
        if self.moving:
            end_decibels = self._draw_uniform(waveform, -self.max_db, self.max_db)
            samples = ops.shape(waveform)[1]
            position = ops.cast(ops.arange(samples), "float32") / ops.cast(samples, "float32")
            decibels = decibels + (end_decibels - decibels) * position
        return waveform * ops.exp(decibels * (math.log(10.0) / 20.0))

    def get_config(self):
        return {**super().get_config(), "max_db": self.max_db, "moving": self.moving}


@keras.saving.register_keras_serializable("genrekeras")
class RandomNoise(RandomLayer):
    """Add white Gaussian noise to waveforms, at a random signal-to-noise ratio. Silent clips do not change.

    Args:
        min_snr_db: in dB, lower bound of the signal-to-noise ratio. The ratio of a clip is drawn uniformly between the
            bounds. It is the mean power of the clip divided by the mean power of the noise.
        max_snr_db: at least `min_snr_db`, in dB, upper bound of the signal-to-noise ratio.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.
    """

    def __init__(
        self,
        min_snr_db: float = 10.0,
        max_snr_db: float = 40.0,
        share: float | tuple[float, float] = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        if not min_snr_db <= max_snr_db:
            raise ValueError(
                f"`min_snr_db` must be <= `max_snr_db`. Received: min_snr_db={min_snr_db}, max_snr_db={max_snr_db}"
            )
        self.min_snr_db = min_snr_db
        self.max_snr_db = max_snr_db
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform: Any) -> Any:
        snr_db = self._draw_uniform(waveform, self.min_snr_db, self.max_snr_db)
        power = ops.mean(ops.square(waveform), axis=1, keepdims=True)
        sigma = ops.sqrt(power * ops.exp(snr_db * (-math.log(10.0) / 10.0)))
        return waveform + sigma * keras.random.normal(ops.shape(waveform), seed=self._parameter_seeds)

    def get_config(self):
        return {**super().get_config(), "min_snr_db": self.min_snr_db, "max_snr_db": self.max_snr_db}


@keras.saving.register_keras_serializable("genrekeras")
class RandomTimeShift(RandomLayer):
    """Shift waveforms circularly in time by a random number of samples.

    Args:
        max_shift: in (0, 1], largest shift in both directions, as a fraction of the length of the clip.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.
    """

    def __init__(
        self, max_shift: float = 0.5, share: float | tuple[float, float] = 1.0, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        if not 0 < max_shift <= 1:
            raise ValueError(f"`max_shift` must lie in (0, 1]. Received: max_shift={max_shift}")
        self.max_shift = max_shift
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform: Any) -> Any:
        samples = ops.shape(waveform)[1]
        fraction = self._draw_uniform(waveform, -self.max_shift, self.max_shift)
        shift = ops.cast(ops.floor(fraction * ops.cast(samples, "float32")), "int32")
        index = ops.mod(ops.expand_dims(ops.arange(samples, dtype="int32"), 0) - shift, samples)  # (batch, samples)
        return ops.take_along_axis(waveform, index, axis=1)

    def get_config(self):
        return {**super().get_config(), "max_shift": self.max_shift}


@keras.saving.register_keras_serializable("genrekeras")
class PowerGain(RandomLayer):
    """Multiply the power of waveforms by a factor that is drawn from a list.

    This layer reproduces the experiments of the PyTorch system of 2023. A front end that normalizes each clip removes
    the gain. The front end of the system of 2023 does so too.

    Args:
        factors: `> 0`, factors of the power. Amplitudes are multiplied by the square root of the factor.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.
    """

    def __init__(
        self,
        factors: Sequence[float] = (1.5, 0.5),
        share: float | tuple[float, float] = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        if not len(factors) or min(factors) <= 0:
            raise ValueError(f"`factors` must be numbers > 0. Received: factors={factors}")
        self.factors = factors
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def augment(self, waveform: Any) -> Any:
        amplitudes = np.sqrt(np.asarray(self.factors, "float32"))
        index = ops.cast(ops.floor(self._draw_uniform(waveform) * len(amplitudes)), "int32")
        return waveform * ops.take(amplitudes, index)

    def get_config(self):
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable("genrekeras")
class ImageNoise(RandomLayer):
    """Add Gaussian noise to the values of images. The result is not clipped to the range of the images.

    Args:
        sigma: `> 0`, in units of the image (gray levels for images in [0, 255]), standard deviation of the noise. The
            PyTorch system of 2023 used 0.1, which is negligible compared with the range of 255 gray levels.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.
    """

    def __init__(
        self, sigma: float = 0.1, share: float | tuple[float, float] = 1.0, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(share=share, seed=seed, **kwargs)
        _check_positive("sigma", sigma)
        self.sigma = sigma
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def augment(self, image: Any) -> Any:
        return image + self.sigma * keras.random.normal(ops.shape(image), seed=self._parameter_seeds)

    def get_config(self):
        return {**super().get_config(), "sigma": self.sigma}


@keras.saving.register_keras_serializable("genrekeras")
class SpecAugment(RandomLayer):
    """Replace random ranges of mels and random ranges of frames by the mean of the image.

    Source: Park et al., "SpecAugment", Interspeech 2019. Time warping is not implemented.

    Args:
        frequency_masks: `>= 0`, number of frequency masks.
        frequency_width: `> 0`, in mels, largest width of a frequency mask. The width of each mask is drawn uniformly
            from 0 to `frequency_width`.
        time_masks: `>= 0`, number of time masks.
        time_width: `> 0`, in frames, largest width of a time mask. The width of each mask is drawn uniformly from 0 to
            `time_width`.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.

    Raises:
        ValueError: an option is out of range, or the largest width is larger than the image.
    """

    def __init__(
        self,
        frequency_masks: int = 2,
        frequency_width: int = 16,
        time_masks: int = 2,
        time_width: int = 32,
        share: float | tuple[float, float] = 1.0,
        seed: int | None = None,
        **kwargs: Any,
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
                raise ValueError(f"`{name}` must be at most {size}, the size of the image. Received: {name}={width}")

    def augment(self, image: Any) -> Any:
        mean = ops.mean(image, axis=(1, 2, 3), keepdims=True)
        for _ in range(self.frequency_masks):
            image = ops.where(self._mask(image, axis=1, width=self.frequency_width), mean, image)
        for _ in range(self.time_masks):
            image = ops.where(self._mask(image, axis=2, width=self.time_width), mean, image)
        return image

    def _mask(self, image, axis, width):
        """Return a boolean mask that is true in a random range along `axis`. The range has at most `width` elements."""
        size = ops.cast(ops.shape(image)[axis], "float32")
        length = ops.floor(self._draw_uniform(image) * (width + 1))
        start = ops.floor(self._draw_uniform(image) * (size - length + 1))
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        index = ops.reshape(ops.cast(ops.arange(ops.shape(image)[axis]), "float32"), shape)
        return ops.logical_and(index >= start, index < start + length)

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
    """Change dynamic range, equalization, noise, pitch and bandwidth of images at random, as another recording would.

    Images must represent decibels: 255 is the maximum of the clip, and 0 is `top_db` below the maximum.
    `SpectrogramToImage(scale="decibels")` computes such images. The images of the backbone `"musicnn"` are not in
    decibels, so `GenreClassifier` refuses this layer for it.

    Attributes:
        image_range: lowest and highest value of the images.

    Args:
        dynamic_range: in [0, 1). The distances of all values from the maximum are multiplied by a factor. The factor is
            drawn uniformly from `1 - dynamic_range` to `1 + dynamic_range`.
        equalizer_db: `>= 0`, in dB. A random equalizer curve is applied to 80 % of the clips. The curve is a weighted
            sum of seven cosines over the mel axis. The weights are normal random numbers with the standard deviation
            `equalizer_db`. The weight of the constant cosine has half this standard deviation.
        noise_db: `>= 0`, in dB, largest standard deviation of the Gaussian noise. The standard deviation for a clip is
            drawn uniformly from 0 to `noise_db`.
        shift: `>= 0`, in mels, largest shift of the spectrum up or down. The row at the edge is repeated.
        low_pass: in [0, 1], share of the clips that are low-pass filtered. The cutoff is drawn uniformly from the upper
            30 % of the mels.
        top_db: `> 0`, in dB, range of the image.
        highest_first: whether row 0 is the highest band, as with `SpectrogramToImage(flip=True)`.
        share: as in `RandomLayer`.
        seed: as in `RandomLayer`.

    Raises:
        ValueError: an option is out of range.
    """

    image_range: tuple[float, float] = (0.0, 255.0)

    def __init__(
        self,
        dynamic_range: float = 0.15,
        equalizer_db: float = 2.5,
        noise_db: float = 1.5,
        shift: int = 4,
        low_pass: float = 0.2,
        top_db: float = 80.0,
        highest_first: bool = True,
        share: float | tuple[float, float] = 1.0,
        seed: int | None = None,
        **kwargs: Any,
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

    def augment(self, image: Any) -> Any:
        mels = image.shape[1]
        x = image / 255.0  # 1 is the maximum of the clip, 0 is `top_db` below the maximum
        x = 1 - (1 - x) * self._draw_uniform(x, 1 - self.dynamic_range, 1 + self.dynamic_range)
        x = x + self._equalizer(x, mels)
        x = x + self._draw_normal(ops.shape(x)) * self._draw_uniform(x, 0.0, self.noise_db / self.top_db)
        shift = ops.floor(self._draw_uniform(x, -self.shift, self.shift + 1))
        rows = ops.clip(self._rows(mels) + ops.cast(shift, "int32"), 0, mels - 1)  # (batch, mels, 1, 1)
        x = ops.clip(ops.take_along_axis(x, rows, axis=1), 0.0, 1.1)
        cutoff = ops.floor(self._draw_uniform(x, 0.7 * mels, mels))
        cutoff = ops.where(self._draw_uniform(x) < self.low_pass, cutoff, float(mels))
        band = mels - 1 - self._rows(mels) if self.highest_first else self._rows(mels)
        return 255.0 * ops.where(ops.cast(band, "float32") < cutoff, x, 0.0)

    def _equalizer(self, x, mels):
        """Draw an equalizer curve for each clip: `(batch, mels, 1, 1)`. The curve is 0 for 20 % of the clips."""
        curves = np.cos(np.pi * (np.arange(mels) + 0.5) * np.arange(7)[:, None] / mels)  # (7, mels)
        curves[0] /= 2
        weights = self._draw_normal((ops.shape(x)[0], 7)) * (self.equalizer_db / self.top_db)
        curve = ops.matmul(weights, ops.convert_to_tensor(curves.astype("float32")))[:, :, None, None]
        return ops.where(self._draw_uniform(x) < 0.8, curve, 0.0)

    def _draw_normal(self, shape):
        return keras.random.normal(shape, seed=self._parameter_seeds)

    @staticmethod
    def _rows(mels):
        return ops.reshape(ops.arange(mels, dtype="int32"), (1, -1, 1, 1))

    def get_config(self):
        names = ("dynamic_range", "equalizer_db", "noise_db", "shift", "low_pass", "top_db", "highest_first")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _hash_seed(seed):
    """Return a hash of `seed`. A simple value such as `seed + 1` might be the seed of another layer."""
    return int(np.random.SeedSequence([abs(seed), 1]).generate_state(1)[0] >> 1)


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"`{name}` must be > 0. Received: {name}={value}")
