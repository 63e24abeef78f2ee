"""Augmentation layers: random changes of clips that keep the genre; active in training only.

Layers for `waveform_augmentation` take waveforms `(batch, samples)`, layers for `image_augmentation` take images
`(batch, mels, frames, 1)`. Random parameters are drawn for each clip and each step.
"""

import math

import keras
import numpy as np
from genrekeras.layers.base import Float32Layer
from keras import ops


class RandomLayer(Float32Layer):
    """Base class of layers that change a random share of the clips in training; subclasses implement `augment`.

    Args:
        share: float in [0, 1], share of the clips to change. A number in [0, 1) is drawn for each clip, and the clip is
            changed if its number is below `share`. Or a pair `(start, stop)`: a clip is changed if its number lies in
            [start, stop). Layers with the same seed that are called equally often draw the same numbers. With shares
            (0, 0.2) and (0.2, 0.4), for example, no clip is changed by both.
        seed: int, or `None` for a random seed.
    """

    def __init__(self, share=1.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        start, stop = share if isinstance(share, (tuple, list)) else (0.0, share)
        if not 0 <= start <= stop <= 1:
            raise ValueError(
                f"`share` must be a number or an interval (start, stop) in [0, 1]. Received: share={share}"
            )
        self.share = share
        self.seed = seed
        self._interval = (start, stop)
        self._selection_seeds = keras.random.SeedGenerator(seed)
        self._parameter_seeds = keras.random.SeedGenerator(None if seed is None else _unrelated_seed(seed))

    def call(self, inputs, training=False):
        if not training:
            return inputs
        start, stop = self._interval
        number = self._per_clip(inputs, seed=self._selection_seeds)
        return ops.where(ops.logical_and(number >= start, number < stop), self.augment(inputs), inputs)

    def augment(self, inputs):
        """Return all clips of `inputs` changed, in the same shape."""
        raise NotImplementedError  # pragma: no cover - abstract

    def _per_clip(self, inputs, low=0.0, high=1.0, seed=None):
        """Draw one uniform number for each clip; its shape is `(batch, 1, ...)` with the rank of `inputs`."""
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        return keras.random.uniform(shape, low, high, seed=seed or self._parameter_seeds)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "share": self.share, "seed": self.seed}


@keras.saving.register_keras_serializable("genrekeras")
class RandomGain(RandomLayer):
    """Apply a random gain to waveforms, by default a fade that is linear in dB between two random gains.

    A front end that normalizes each clip (`PowerToDecibels(ref="max")`, `SpectrogramToImage(scale="clip")`) removes a
    constant gain, so `moving=False` has an effect with other front ends only.

    Args:
        max_db: float > 0, in dB; gains are drawn uniformly from [-max_db, max_db].
        moving: bool; true draws a gain for the start and another for the end of the clip, false a constant gain.
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
            position = ops.cast(ops.arange(samples), "float32") / ops.cast(samples, "float32")
            decibels = decibels + (end - decibels) * position
        return waveform * ops.exp(decibels * (math.log(10.0) / 20.0))

    def get_config(self):
        return {**super().get_config(), "max_db": self.max_db, "moving": self.moving}


@keras.saving.register_keras_serializable("genrekeras")
class RandomNoise(RandomLayer):
    """Add white Gaussian noise to waveforms, at a random signal-to-noise ratio. Silent clips do not change.

    Args:
        min_snr_db, max_snr_db: float, in dB, bounds between which the ratio of the mean powers of clip and noise is
            drawn uniformly.
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
        return waveform + sigma * keras.random.normal(ops.shape(waveform), seed=self._parameter_seeds)

    def get_config(self):
        return {**super().get_config(), "min_snr_db": self.min_snr_db, "max_snr_db": self.max_snr_db}


@keras.saving.register_keras_serializable("genrekeras")
class RandomTimeShift(RandomLayer):
    """Shift waveforms in time by a random number of samples, circularly.

    Args:
        max_shift: float in (0, 1], largest shift in either direction, as a fraction of the clip.
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
        fraction = self._per_clip(waveform, -self.max_shift, self.max_shift)
        shift = ops.cast(ops.floor(fraction * ops.cast(samples, "float32")), "int32")
        index = ops.mod(ops.expand_dims(ops.arange(samples, dtype="int32"), 0) - shift, samples)  # (batch, samples)
        return ops.take_along_axis(waveform, index, axis=1)

    def get_config(self):
        return {**super().get_config(), "max_shift": self.max_shift}


@keras.saving.register_keras_serializable("genrekeras")
class PowerGain(RandomLayer):
    """Multiply the power of waveforms by a factor that is drawn from a list, as the system of 2023 did.

    This layer reproduces the experiments of that system. A front end that normalizes each clip, such as that of the
    system, removes the gain.

    Args:
        factors: tuple of floats > 0, factors of the power; amplitudes are multiplied by their square roots.
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
        index = ops.cast(ops.floor(self._per_clip(waveform) * len(amplitudes)), "int32")
        return waveform * ops.take(amplitudes, index)

    def get_config(self):
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable("genrekeras")
class ImageNoise(RandomLayer):
    """Add Gaussian noise to the gray values of images, without clipping to [0, 255].

    Args:
        sigma: float > 0, standard deviation in gray values. The system of 2023 used 0.1, which is invisible in a range
            of 255.
        share, seed: as in `RandomLayer`.
    """

    def __init__(self, sigma=0.1, share=1.0, seed=None, **kwargs):
        super().__init__(share=share, seed=seed, **kwargs)
        _check_positive("sigma", sigma)
        self.sigma = sigma
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def augment(self, image):
        return image + self.sigma * keras.random.normal(ops.shape(image), seed=self._parameter_seeds)

    def get_config(self):
        return {**super().get_config(), "sigma": self.sigma}


@keras.saving.register_keras_serializable("genrekeras")
class SpecAugment(RandomLayer):
    """Replace random ranges of mels and of frames of images by the mean of the image.

    Source: Park et al., "SpecAugment", Interspeech 2019 (without time warping).

    Args:
        frequency_masks: int >= 0, number of frequency masks.
        frequency_width: int > 0, in mels; the width of each frequency mask is drawn uniformly from
            0..frequency_width.
        time_masks: int >= 0, number of time masks.
        time_width: int > 0, in frames; the width of each time mask is drawn uniformly from 0..time_width.
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
                raise ValueError(f"`{name}` must be at most {size}, the size of the image. Received: {name}={width}")

    def augment(self, image):
        mean = ops.mean(image, axis=(1, 2, 3), keepdims=True)
        for _ in range(self.frequency_masks):
            image = ops.where(self._mask(image, axis=1, width=self.frequency_width), mean, image)
        for _ in range(self.time_masks):
            image = ops.where(self._mask(image, axis=2, width=self.time_width), mean, image)
        return image

    def _mask(self, image, axis, width):
        """Return a boolean mask that is true in a random range of 0..width rows or columns along `axis`."""
        size = ops.cast(ops.shape(image)[axis], "float32")
        masked = ops.floor(self._per_clip(image) * (width + 1))
        start = ops.floor(self._per_clip(image) * (size - masked + 1))
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        index = ops.reshape(ops.cast(ops.arange(ops.shape(image)[axis]), "float32"), shape)
        return ops.logical_and(index >= start, index < start + masked)

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
    """Simulate another recording of the same music: dynamic range, equalizer, noise, pitch and bandwidth of images.

    Images must represent decibels: 255 is the peak of the clip, and 0 is `top_db` below it
    (`SpectrogramToImage(scale="decibels")`).

    Args:
        dynamic_range: float in [0, 1); distances from the peak are multiplied by a factor that is drawn uniformly from
            `1 - dynamic_range` to `1 + dynamic_range`.
        equalizer_db: float >= 0, in dB. Four of five clips get a random equalizer curve: the sum of seven cosines over
            the mel axis, whose weights have this standard deviation (half of it for the constant).
        noise_db: float >= 0, in dB; the standard deviation of Gaussian noise is drawn uniformly from 0 to this value.
        shift: int >= 0, in mels, largest shift of the spectrum up or down; the row at the edge is repeated.
        low_pass: float in [0, 1], share of the clips that are low-pass filtered. The cutoff is drawn uniformly from the
            upper 30 % of the mels.
        top_db: float > 0, in dB, the range that the image represents.
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
        shift = ops.floor(self._per_clip(x, -self.shift, self.shift + 1))
        rows = ops.clip(self._rows(mels) + ops.cast(shift, "int32"), 0, mels - 1)  # (batch, mels, 1, 1)
        x = ops.clip(ops.take_along_axis(x, rows, axis=1), 0.0, 1.1)
        cutoff = ops.floor(self._per_clip(x, 0.7 * mels, mels))
        cutoff = ops.where(self._per_clip(x) < self.low_pass, cutoff, float(mels))
        band = mels - 1 - self._rows(mels) if self.highest_first else self._rows(mels)
        return 255.0 * ops.where(ops.cast(band, "float32") < cutoff, x, 0.0)

    def _equalizer(self, x, mels):
        """Draw an equalizer curve for each clip, `(batch, mels, 1, 1)`; it is 0 for one of five clips."""
        curves = np.cos(np.pi * (np.arange(mels) + 0.5) * np.arange(7)[:, None] / mels)  # (7, mels)
        curves[0] /= 2
        weights = self._normal((ops.shape(x)[0], 7)) * (self.equalizer_db / self.top_db)
        curve = ops.matmul(weights, ops.convert_to_tensor(curves.astype("float32")))[:, :, None, None]
        return ops.where(self._per_clip(x) < 0.8, curve, 0.0)

    def _normal(self, shape):
        return keras.random.normal(shape, seed=self._parameter_seeds)

    @staticmethod
    def _rows(mels):
        return ops.reshape(ops.arange(mels, dtype="int32"), (1, -1, 1, 1))

    def get_config(self):
        names = ("dynamic_range", "equalizer_db", "noise_db", "shift", "low_pass", "top_db", "highest_first")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _unrelated_seed(seed):
    """Return a seed that is a hash of `seed`, and so differs from the seeds of layers with neighbouring numbers."""
    return int(np.random.SeedSequence([abs(seed), 1]).generate_state(1)[0] >> 1)


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"`{name}` must be > 0. Received: {name}={value}")
