"""Constants of `MelSpectrogram`: mel filters, and the factors of the discrete Fourier transform."""

import math
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np


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
    edges = band_edges(n_mels, f_min, f_max, mel_scale)
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


def band_edges(n_mels: int, f_min: float, f_max: float, mel_scale: Literal["slaney", "htk"]) -> np.ndarray:
    """Return the edges of the bands: `(n_mels + 2,)` array, in Hz.

    Band i extends from edge i to edge i + 2. Its peak is at edge i + 1.
    """
    lowest, highest = _hz_to_mel(np.array([f_min, f_max]), mel_scale)
    return _mel_to_hz(np.linspace(lowest, highest, n_mels + 2), mel_scale)


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


def filter_blocks(filterbank: np.ndarray, bands: int = 32) -> Iterator[tuple[int, int, np.ndarray]]:
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
