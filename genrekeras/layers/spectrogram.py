"""Layers of the front end: waveform -> mel power -> decibels or logarithms -> image.

No statistic is computed over the batch, so the image of a clip does not depend on the other clips. All layers compute
in float32, under mixed precision too, because the power of a quiet spectrum is below the smallest float16 number.
"""

import math
from typing import Any, Literal

import keras
import numpy as np
from genrekeras.layers.base import Float32Layer, check_positive_integer, matmul, runs_on_cpu, to_device_of
from genrekeras.layers.filterbank import band_edges, filter_blocks, mel_filterbank, windowed_dft_factors
from keras import ops

_MAX_N_FFT = 1 << 16
_MAX_FILTER_SIZE = 1 << 26  # largest value of `n_fft * n_mels`


@keras.saving.register_keras_serializable("genrekeras")
class MelSpectrogram(Float32Layer):
    """Compute mel power spectrograms. By default, the result equals that of `librosa.feature.melspectrogram`.

    The waveform is split into frames of `n_fft` samples. The frames are multiplied by a periodic Hann window and
    Fourier-transformed. Their power is summed in triangular mel bands.

    `keras.layers.MelSpectrogram` is not used for three reasons. Its decibels depend on the other clips of the batch, it
    supports the HTK scale only, and it rebuilds its filterbank at each call.

    Args:
        sample_rate: `> 0`, in Hz, sample rate of the waveform.
        n_fft: even, > 0, at most 65,536, in samples, length of a frame.
        hop_length: `> 0`, in samples, distance between successive frames.
        n_mels: `> 0`, number of mel bands. `n_fft * n_mels` must be at most 2^26.
        f_min: `>= 0`, in Hz, lower edge of the lowest band.
        f_max: above `f_min`, at most `sample_rate / 2`, in Hz, upper edge of the highest band; `None` for
            `sample_rate / 2`.
        mel_scale: `"slaney"` (linear below 1 kHz, logarithmic above) or `"htk"` (logarithmic).
        norm: `"slaney"` (all bands have the same area) or `None` (all bands have a peak of 1).
        center: whether the waveform is padded with `n_fft // 2` zeros at both ends, so that the center of frame i is
            sample `i * hop_length`. Without padding, frame i begins at this sample.
        dft: how the Fourier transform is computed. `"matmul"` uses real matrix products. Use it for export to formats
            without complex numbers (ONNX, OpenVINO, LiteRT).

    Input shape: `(batch, samples)`, at least one sample; with `center=False`, at least `n_fft` samples.

    Output shape: `(batch, n_mels, frames)`, >= 0, with `frames = 1 + samples // hop_length`; with `center=False`,
    `frames = 1 + (samples - n_fft) // hop_length`.

    Raises:
        ValueError: an argument is out of range, or a waveform has too few samples or is not of rank 2.

    Examples:
        >>> power = MelSpectrogram()(np.zeros((2, 220500), "float32"))
        >>> tuple(power.shape)
        (2, 128, 431)
    """

    def __init__(
        self,
        sample_rate: int = 22050,
        n_fft: int = 2048,
        hop_length: int = 512,
        n_mels: int = 128,
        f_min: float = 0.0,
        f_max: float | None = None,
        mel_scale: Literal["slaney", "htk"] = "slaney",
        norm: Literal["slaney"] | None = "slaney",
        center: bool = True,
        dft: Literal["fft", "matmul"] = "fft",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        integers = {"sample_rate": sample_rate, "n_fft": n_fft, "hop_length": hop_length, "n_mels": n_mels}
        for name, value in integers.items():
            check_positive_integer(name, value)
        if n_fft > _MAX_N_FFT or n_fft * n_mels > _MAX_FILTER_SIZE:  # a config may come from an untrusted file
            raise ValueError(
                f"`n_fft` must be at most {_MAX_N_FFT}, and `n_fft` times `n_mels` at most {_MAX_FILTER_SIZE}. "
                f"Received: n_fft={n_fft}, n_mels={n_mels}"
            )
        if n_fft % 2:
            raise ValueError(f"`n_fft` must be even. Received: n_fft={n_fft}")
        highest = sample_rate / 2 if f_max is None else f_max
        if not 0 <= f_min < highest <= sample_rate / 2:
            raise ValueError(
                "`f_min` and `f_max` must satisfy 0 <= f_min < f_max <= sample_rate / 2. "
                f"Received: f_min={f_min}, f_max={f_max}, sample_rate={sample_rate}"
            )
        _check_option("mel_scale", mel_scale, ("slaney", "htk"))
        _check_option("norm", norm, ("slaney", None))
        _check_option("center", center, (True, False))
        _check_option("dft", dft, ("fft", "matmul"))
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        self.mel_scale = mel_scale
        self.norm = norm
        self.center = center
        self.dft = dft
        self.input_spec = keras.layers.InputSpec(ndim=2)

        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        filterbank = mel_filterbank(sample_rate, n_fft, n_mels, f_min, highest, mel_scale, norm)  # (bins, mels)
        if dft == "fft":
            self.add_constant("_window", window.astype("float32"))
        else:
            inner, outer, bins = windowed_dft_factors(window)
            self.add_constant("_inner", inner)
            self.add_constant("_outer", outer)
            filterbank = filterbank[bins] * (bins >= 0)[:, None]
        self._blocks: list[tuple[int, int, str]] = []
        for first, last, filters in filter_blocks(filterbank):
            name = f"_filters_{len(self._blocks)}"
            self.add_constant(name, filters)
            self._blocks.append((first, last, name))

    @property
    def band_frequencies(self) -> np.ndarray:
        """Peak frequency of each mel band: `(n_mels,)`, in Hz."""
        f_max = self.sample_rate / 2 if self.f_max is None else self.f_max
        return band_edges(self.n_mels, self.f_min, f_max, self.mel_scale)[1:-1]

    def call(self, waveform):
        self.compute_output_shape(waveform.shape)
        if not self._is_clip_by_clip(waveform):
            return self._power(waveform)
        if keras.backend.backend() == "torch":  # where `ops.map` is slow
            return ops.concatenate([self._power(clip[None]) for clip in waveform])
        return ops.map(lambda clip: self._power(clip[None])[0], waveform)

    def _is_clip_by_clip(self, waveform):
        """Return whether to process clips one by one. On a CPU this is faster, since intermediates fit in the cache."""
        if self.dft == "matmul" and not isinstance(waveform.shape[0], int):
            return False  # The model is exported with a dynamic batch size, and some formats do not support loops.
        if keras.backend.backend() == "torch":
            return waveform.device.type == "cpu" and waveform.shape[0] > 1
        return runs_on_cpu()

    def _power(self, waveform):
        if self.center:
            waveform = _pad(waveform, self.n_fft // 2)
        squares = self._squares_fft(waveform) if self.dft == "fft" else self._squares_matmul(waveform)
        bands = [matmul(getattr(self, name), squares[:, first:last]) for first, last, name in self._blocks]
        return ops.concatenate(bands, axis=1)  # (batch, mels, frames)

    def _squares_fft(self, waveform):
        window = to_device_of(self._window, waveform)
        if keras.backend.backend() == "torch":
            return _squares_on_torch(waveform, window, self.hop_length)
        real, imaginary = ops.stft(waveform, self.n_fft, self.hop_length, self.n_fft, window=window, center=False)
        return ops.transpose(ops.square(real) + ops.square(imaginary), (0, 2, 1))  # (batch, bins, frames)

    def _squares_matmul(self, waveform):
        frames = self._frames(waveform)  # (batch, columns, rows, frames)
        batch, columns, _, count = ops.shape(frames)
        inner = matmul(self._inner, frames)  # (batch, columns, real and imaginary x half_rows, frames)
        inner = ops.reshape(inner, (batch, 2 * columns, self._inner.shape[1] // 2 * count))
        outer = matmul(self._outer, inner)  # (batch, real and imaginary x columns, half_rows x frames)
        squares = ops.square(outer)
        return ops.reshape(squares[:, :columns] + squares[:, columns:], (batch, -1, count))  # (batch, bins, frames)

    def _frames(self, waveform):
        """Split `(batch, samples)` into overlapping frames, `(batch, columns, rows, frames)`.

        Sample `row * columns + column` of each frame is at `[:, column, row, frame]`. See `windowed_dft_factors`.
        """
        columns, _, rows = self._inner.shape
        batch, hop = ops.shape(waveform)[0], self.hop_length
        count = 1 + (ops.shape(waveform)[1] - self.n_fft) // hop
        if self.n_fft % hop or hop % columns:
            index = ops.arange(columns)[:, None] + ops.arange(rows) * columns
            return ops.take(waveform, index[..., None] + ops.arange(count) * hop, axis=1)
        # Here a frame is a whole number of blocks of `hop_length` samples. Slices of blocks are faster than `ops.take`.
        hops_in_frame = self.n_fft // hop
        hops = count + hops_in_frame - 1
        x = ops.reshape(waveform[:, : hops * hop], (batch, hops, hop // columns, columns))
        # Padding by one unused block copies the transposed array once, so that it is contiguous. Without it, the
        # concatenation below would copy each slice from strided memory.
        x = ops.pad(ops.transpose(x, (0, 3, 2, 1)), [[0, 0], [0, 0], [0, 0], [0, 1]])
        return ops.concatenate([x[..., i : i + count] for i in range(hops_in_frame)], axis=2)

    def compute_output_shape(self, input_shape):
        batch, samples = input_shape
        if samples is None:
            return batch, self.n_mels, None
        if samples == 0:
            raise ValueError(f"A waveform must have at least one sample. Received: shape={tuple(input_shape)}")
        if not self.center and samples < self.n_fft:
            raise ValueError(
                f"With `center=False`, a waveform must have at least {self.n_fft} samples, which is `n_fft`. "
                f"Received: shape={tuple(input_shape)}"
            )
        return batch, self.n_mels, 1 + (samples - (0 if self.center else self.n_fft)) // self.hop_length

    def get_config(self):
        return {
            **super().get_config(),
            "sample_rate": self.sample_rate,
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
            "n_mels": self.n_mels,
            "f_min": self.f_min,
            "f_max": self.f_max,
            "mel_scale": self.mel_scale,
            "norm": self.norm,
            "center": self.center,
            "dft": self.dft,
        }


def _pad(waveform, zeros):
    """Return waveforms with zeros at both ends. `ops.pad` creates an object in each call, 0.3 ms on PyTorch."""
    if keras.backend.backend() != "torch":
        return ops.pad(waveform, [[0, 0], [zeros, zeros]])
    import torch

    return torch.nn.functional.pad(waveform, (zeros, zeros))


def _squares_on_torch(waveform, window, hop_length):
    """Return the power of windowed frames, `(batch, bins, frames)`, with fewer copies than `ops.stft`."""
    import torch

    frames = waveform.unfold(1, len(window), hop_length) * window
    squares = torch.view_as_real(torch.fft.rfft(frames)).square_()
    return (squares[..., 0] + squares[..., 1]).transpose(1, 2)


@keras.saving.register_keras_serializable("genrekeras")
class PowerToDecibels(Float32Layer):
    """Convert power spectrograms to decibels. The result equals `librosa.power_to_db` of each clip.

    The PyTorch system of 2023 applied `amplitude_to_db(..., top_db=80)` to power spectrograms. `PowerToDecibels` does
    the same with `top_db=40, amin=1e-5`, except that its values are half as large.

    Args:
        ref: `> 0`, the power at 0 dB; or `"max"` for the maximum of each clip.
        amin: `> 0`, lower bound of the power.
        top_db: `> 0`, in dB, largest distance from the maximum of the clip. Lower values are raised to this distance.
            `None` for no limit.

    Input shape: `(batch, mels, frames)`, >= 0.

    Output shape: same as the input shape.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, ref: float | Literal["max"] = "max", amin: float = 1e-10, top_db: float | None = 80.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if ref != "max" and not (isinstance(ref, (int, float)) and ref > 0):
            raise ValueError(f'`ref` must be "max" or a float > 0. Received: ref={ref!r}')
        if not amin > 0:
            raise ValueError(f"`amin` must be > 0. Received: amin={amin}")
        if top_db is not None and not top_db > 0:
            raise ValueError(f"`top_db` must be > 0, in dB, or None. Received: top_db={top_db}")
        self.ref = ref
        self.amin = amin
        self.top_db = top_db
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def call(self, power):
        reference = _max_per_clip(power) if self.ref == "max" else self.ref
        decibels = self._decibels(power) - self._decibels(reference)
        if self.top_db is not None:
            decibels = ops.maximum(decibels, _max_per_clip(decibels) - self.top_db)
        return decibels

    def _decibels(self, power):
        return 10.0 * ops.log10(ops.maximum(power, self.amin))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "ref": self.ref, "amin": self.amin, "top_db": self.top_db}


@keras.saving.register_keras_serializable("genrekeras")
class LogCompression(Float32Layer):
    """Compress the range of power spectrograms: `log10(factor * power + 1)`. Silence becomes 0.

    Unlike decibels, the result does not depend on a reference, so it keeps the loudness of a clip.

    Source: Dieleman and Schrauwen, "End-to-End Learning for Music Audio", ICASSP 2014.

    Args:
        factor: `> 0`. A power of `1 / factor` becomes 0.3. Lower powers are nearly proportional to the result, higher
            powers are compressed.

    Input shape: any, >= 0.

    Output shape: same as the input shape.

    Raises:
        ValueError: `factor` is out of range.
    """

    def __init__(self, factor: float = 10000.0, **kwargs: Any):
        super().__init__(**kwargs)
        if not (isinstance(factor, (int, float)) and 0 < factor < math.inf):
            raise ValueError(f"`factor` must be a finite number > 0. Received: factor={factor!r}")
        self.factor = factor

    def call(self, power):
        return ops.log10(self.factor * power + 1.0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("genrekeras")
class SpectrogramToImage(Float32Layer):
    """Convert spectrograms to images with one channel, by default with gray values in [0, 255].

    Args:
        scale: `"clip"` maps the minimum of each clip to 0 and its maximum to 255. A constant clip (silence) becomes 0.
            `"decibels"` maps `-top_db` dB to 0 and 0 dB to 255, and limits the result to [0, 255]. `None` keeps the
            values of the spectrogram.
        top_db: `> 0`, in dB. Used with `scale="decibels"` only.
        flip: whether the highest band is the first row of the image.

    Input shape: `(batch, mels, frames)`.

    Output shape: `(batch, mels, frames, 1)`.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    def __init__(
        self,
        scale: Literal["clip", "decibels"] | None = "clip",
        top_db: float = 80.0,
        flip: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        _check_option("scale", scale, ("clip", "decibels", None))
        if not top_db > 0:
            raise ValueError(f"`top_db` must be > 0, in dB. Received: top_db={top_db}")
        self.scale = scale
        self.top_db = top_db
        self.flip = flip
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def call(self, spectrogram):
        scales = {"clip": self._scale_clip, "decibels": self._scale_decibels}
        image = scales[self.scale](spectrogram) if self.scale else spectrogram
        if self.flip:
            image = ops.flip(image, axis=1)
        return ops.expand_dims(image, -1)

    def _scale_clip(self, spectrogram):
        lowest = ops.min(spectrogram, axis=(1, 2), keepdims=True)
        extent = _max_per_clip(spectrogram) - lowest
        return (spectrogram - lowest) * (255.0 / ops.where(extent > 0, extent, 1.0))

    def _scale_decibels(self, decibels):
        return ops.clip(decibels / self.top_db + 1.0, 0.0, 1.0) * 255.0

    def compute_output_shape(self, input_shape):
        return (*input_shape, 1)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "top_db": self.top_db, "flip": self.flip}


def default_front_end() -> list[keras.layers.Layer]:
    """Return the default front end of `GenreClassifier`: the layers from waveforms at 22,050 Hz to images."""
    return [MelSpectrogram(), PowerToDecibels(), SpectrogramToImage()]


def _max_per_clip(spectrogram):
    return ops.max(spectrogram, axis=(1, 2), keepdims=True)


def _check_option(name, value, options):
    if value not in options:
        raise ValueError(f"`{name}` must be one of {options}. Received: {name}={value!r}")
