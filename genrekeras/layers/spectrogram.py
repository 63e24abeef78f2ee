"""Layers of the front end: waveform -> mel power -> decibels -> image.

No statistic is computed over the batch, so the image of a clip does not depend on the other clips. All layers compute
in float32, under mixed precision too, because the power of a quiet spectrum is below the smallest float16 number.
"""

import math
import warnings
from typing import Any, Literal

import keras
import numpy as np
from genrekeras.layers.base import Float32Layer, check_positive_integer, matmul, runs_on_cpu, to_device_of
from keras import ops

_MAX_N_FFT = 1 << 16
_MAX_FILTER_SIZE = 1 << 26  # largest value of `n_fft * n_mels`


@keras.saving.register_keras_serializable("genrekeras")
class MelSpectrogram(Float32Layer):
    """Compute mel power spectrograms. By default, the result equals that of `librosa.feature.melspectrogram`.

    The waveform is padded with `n_fft // 2` zeros at both ends and split into frames of `n_fft` samples. The frames are
    multiplied by a periodic Hann window and Fourier-transformed. Their power is summed in triangular mel bands.

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
        dft: how the Fourier transform is computed. `"matmul"` uses real matrix products. Use it for export to formats
            without complex numbers (ONNX, OpenVINO, LiteRT).

    Input shape: `(batch, samples)`, at least one sample.

    Output shape: `(batch, n_mels, frames)`, >= 0, with `frames = 1 + samples // hop_length`.

    Raises:
        ValueError: an argument is out of range, or a waveform has no samples or is not of rank 2.

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
        _check_option("dft", dft, ("fft", "matmul"))
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        self.mel_scale = mel_scale
        self.norm = norm
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
        for first, last, filters in _filter_blocks(filterbank):
            name = f"_filters_{len(self._blocks)}"
            self.add_constant(name, filters)
            self._blocks.append((first, last, name))

    @property
    def band_frequencies(self) -> np.ndarray:
        """Peak frequency of each mel band: `(n_mels,)`, in Hz."""
        f_max = self.sample_rate / 2 if self.f_max is None else self.f_max
        return _band_edges(self.n_mels, self.f_min, f_max, self.mel_scale)[1:-1]

    def call(self, waveform):
        self.compute_output_shape(waveform.shape)
        if self._is_clip_by_clip(waveform):
            return ops.map(lambda clip: self._power(clip[None])[0], waveform)
        return self._power(waveform)

    def _is_clip_by_clip(self, waveform):
        """Return whether to process clips one by one. On a CPU this is faster, since intermediates fit in the cache."""
        if self.dft == "matmul" and not isinstance(waveform.shape[0], int):
            return False  # The model is exported with a dynamic batch size, and some formats do not support loops.
        return waveform.device.type == "cpu" if keras.backend.backend() == "torch" else runs_on_cpu()

    def _power(self, waveform):
        padded = ops.pad(waveform, [[0, 0], [self.n_fft // 2, self.n_fft // 2]])
        squares = self._squares_fft(padded) if self.dft == "fft" else self._squares_matmul(padded)
        bands = [matmul(getattr(self, name), squares[:, first:last]) for first, last, name in self._blocks]
        return ops.concatenate(bands, axis=1)  # (batch, mels, frames)

    def _squares_fft(self, padded):
        window = to_device_of(self._window, padded)
        real, imaginary = ops.stft(padded, self.n_fft, self.hop_length, self.n_fft, window=window, center=False)
        return ops.transpose(ops.square(real) + ops.square(imaginary), (0, 2, 1))  # (batch, bins, frames)

    def _squares_matmul(self, padded):
        frames = self._frames(padded)  # (batch, columns, rows, frames)
        batch, columns, _, count = ops.shape(frames)
        inner = matmul(self._inner, frames)  # (batch, columns, real and imaginary x half_rows, frames)
        inner = ops.reshape(inner, (batch, 2 * columns, self._inner.shape[1] // 2 * count))
        outer = matmul(self._outer, inner)  # (batch, real and imaginary x columns, half_rows x frames)
        squares = ops.square(outer)
        return ops.reshape(squares[:, :columns] + squares[:, columns:], (batch, -1, count))  # (batch, bins, frames)

    def _frames(self, padded):
        """Split `(batch, samples)` into overlapping frames, `(batch, columns, rows, frames)`.

        Sample `row * columns + column` of each frame is at `[:, column, row, frame]`. See `windowed_dft_factors`.
        """
        columns, _, rows = self._inner.shape
        batch, hop = ops.shape(padded)[0], self.hop_length
        count = 1 + (ops.shape(padded)[1] - self.n_fft) // hop
        if self.n_fft % hop or hop % columns:
            index = ops.arange(columns)[:, None] + ops.arange(rows) * columns
            return ops.take(padded, index[..., None] + ops.arange(count) * hop, axis=1)
        # Here a frame is a whole number of blocks of `hop_length` samples. Slices of blocks are faster than `ops.take`.
        hops_in_frame = self.n_fft // hop
        hops = count + hops_in_frame - 1
        x = ops.reshape(padded[:, : hops * hop], (batch, hops, hop // columns, columns))
        # Padding by one unused block copies the transposed array once, so that it is contiguous. Without it, the
        # concatenation below would copy each slice from strided memory.
        x = ops.pad(ops.transpose(x, (0, 3, 2, 1)), [[0, 0], [0, 0], [0, 0], [0, 1]])
        return ops.concatenate([x[..., i : i + count] for i in range(hops_in_frame)], axis=2)

    def compute_output_shape(self, input_shape):
        batch, samples = input_shape
        if samples == 0:
            raise ValueError(f"A waveform must have at least one sample. Received: shape={tuple(input_shape)}")
        return batch, self.n_mels, None if samples is None else 1 + samples // self.hop_length

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
            "dft": self.dft,
        }


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
class SpectrogramToImage(Float32Layer):
    """Convert spectrograms to gray images with values in [0, 255].

    Args:
        scale: `"clip"` maps the minimum of each clip to 0 and its maximum to 255. A constant clip (silence) becomes 0.
            `"decibels"` maps `-top_db` dB to 0 and 0 dB to 255, and limits the result to [0, 255].
        top_db: `> 0`, in dB. Used with `scale="decibels"` only.
        flip: whether the highest band is the first row of the image.

    Input shape: `(batch, mels, frames)`.

    Output shape: `(batch, mels, frames, 1)`.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    def __init__(
        self, scale: Literal["clip", "decibels"] = "clip", top_db: float = 80.0, flip: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        _check_option("scale", scale, ("clip", "decibels"))
        if not top_db > 0:
            raise ValueError(f"`top_db` must be > 0, in dB. Received: top_db={top_db}")
        self.scale = scale
        self.top_db = top_db
        self.flip = flip
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def call(self, spectrogram):
        image = self._scale_clip(spectrogram) if self.scale == "clip" else self._scale_decibels(spectrogram)
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


def mel_filterbank(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min: float,
    f_max: float,
    mel_scale: Literal["slaney", "htk"],
    norm: Literal["slaney"] | None,
) -> np.ndarray:
    """Compute triangular mel filters. They equal the filters of `librosa.filters.mel`.

    The arguments are the same as those of `MelSpectrogram`, but `f_max` is not `None`.

    Sources: Slaney, "Auditory Toolbox", 1998; Young et al., "The HTK Book", 2006.

    Returns:
        `(n_fft // 2 + 1, n_mels)` float32, >= 0.

    Warns:
        UserWarning: a band contains no frequency bin.
    """
    edges = _band_edges(n_mels, f_min, f_max, mel_scale)
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))  # (bins, mels)
    empty = np.flatnonzero(~filters.any(axis=0) & (edges[:-2] > 0))
    if len(empty):
        warnings.warn(
            f"{len(empty)} of {n_mels} mel bands contain no frequency bin and are always 0. The first one is band "
            f"{empty[0]}. Use an `n_fft` larger than {n_fft}, or a smaller `n_mels`.",
            stacklevel=4,
        )
    if norm == "slaney":
        filters *= 2.0 / (edges[2:] - edges[:-2])
    return filters.astype("float32")


def _band_edges(n_mels, f_min, f_max, mel_scale):
    """Return the edges of the bands: `(n_mels + 2,)` array, in Hz.

    Band i extends from edge i to edge i + 2. Its peak is at edge i + 1.
    """
    return _mel_to_hz(np.linspace(*_hz_to_mel(np.array([f_min, f_max]), mel_scale), n_mels + 2), mel_scale)


def windowed_dft_factors(window: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factorize the discrete Fourier transform of a windowed real frame into two matrix products.

    The samples of a frame are arranged in a matrix with `n_fft = rows * columns` elements: sample `columns * r + c` is
    in row r and column c. With `turn(x) = exp(-2j * pi * x)`, the transform at bin `k = p + rows * q` is

        sum over c: turn(c * q / columns) * inner(c, p)

    where inner(c, p) is

        sum over r: turn((columns * r + c) * p / n_fft) * window[columns * r + c] * sample[columns * r + c]

    The samples are real, so the transform is symmetric. Therefore only p from 0 to `rows // 2` are needed.

    Source: Cooley and Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series", 1965.

    Args:
        window: `(n_fft,)`. `n_fft` must be even.

    Returns:
        inner: `(columns, 2 * half_rows, rows)` float32, the matrix of the sum over r, for each column c. `half_rows` is
            `rows // 2 + 1`. The first `half_rows` rows are the real parts, the other rows are the imaginary parts.
        outer: `(2 * columns, 2 * columns)` float32, the matrix of the sum over c. The first `columns` rows are the real
            parts, the other rows are the imaginary parts. Both halves are sorted by frequency. The columns alternate
            between the real part and the imaginary part of each c.
        bins: `(columns * half_rows,)` int, frequency bin in 0..n_fft // 2 of each output. The outputs are ordered by q,
            then by p. The bin of an output is -1 if an earlier output has the same bin.
    """
    n_fft = len(window)
    rows = min((d for d in range(2, n_fft + 1, 2) if n_fft % d == 0), key=lambda d: (d + n_fft // d, -d))
    columns = n_fft // rows
    p, q, c = np.arange(rows // 2 + 1), np.arange(columns), np.arange(columns)

    bins = p + rows * q[:, None]  # (columns, half_rows)
    bins = np.minimum(bins, n_fft - bins)
    ascending = np.argsort(bins.sum(axis=1))
    q, bins = q[ascending], bins[ascending].ravel()
    _, first = np.unique(bins, return_index=True)
    bins[np.setdiff1d(np.arange(bins.size), first)] = -1

    sample = c[:, None] + columns * np.arange(rows)  # (columns, rows)
    inner = np.exp(-2j * np.pi * p[:, None] * sample[:, None] / n_fft) * window[sample][:, None]
    outer = np.exp(-2j * np.pi * np.outer(q, c) / columns)
    from_parts = np.stack([outer, 1j * outer], axis=-1).reshape(columns, 2 * columns)
    return (
        np.concatenate([inner.real, inner.imag], axis=1).astype("float32"),
        np.concatenate([from_parts.real, from_parts.imag]).astype("float32"),
        bins,
    )


def _filter_blocks(filterbank, bands=32):
    """Split `(bins, mels)` filters into blocks of bands. Each block contains only the range of bins that it needs.

    Yields:
        first, last: int, the block needs the bins `first` to `last - 1`.
        filters: `(bands, last - first)` float32, weights of the bands in the block.
    """
    for band in range(0, filterbank.shape[1], bands):
        block = filterbank[:, band : band + bands]
        used = np.flatnonzero(block.any(axis=1))
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        yield first, last, np.ascontiguousarray(block[first:last].T, "float32")


# Slaney's mel scale has 3 mels per 200 Hz up to 1 kHz, and 27 mels per factor of 6.4 above.
_LINEAR_HZ, _LINEAR_MEL, _LOG_STEP = 1000.0, 15.0, math.log(6.4) / 27.0


def _hz_to_mel(hz, mel_scale):
    if mel_scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    logarithmic = _LINEAR_MEL + np.log(np.maximum(hz, _LINEAR_HZ) / _LINEAR_HZ) / _LOG_STEP
    return np.where(hz < _LINEAR_HZ, hz * 3.0 / 200.0, logarithmic)


def _mel_to_hz(mel, mel_scale):
    if mel_scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    logarithmic = _LINEAR_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _LINEAR_MEL) - _LINEAR_MEL))
    return np.where(mel < _LINEAR_MEL, mel * 200.0 / 3.0, logarithmic)


def _max_per_clip(spectrogram):
    return ops.max(spectrogram, axis=(1, 2), keepdims=True)


def _check_option(name, value, options):
    if value not in options:
        raise ValueError(f"`{name}` must be one of {options}. Received: {name}={value!r}")
