"""Checks of the arguments of `GenreClassifier`, and of labels."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from genrekeras.models import backbones
from keras import ops

_MAX_GENRES = 10_000
_MAX_ERROR_OF_SUM = 1e-3  # rows in 16 bits


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_layers(name: str, layers: Any) -> list[keras.layers.Layer]:
    """Return the value of an argument as a list of layers. Raise `ValueError` if it is none."""
    if isinstance(layers, keras.Sequential):
        return list(layers.layers)
    layers = [layers] if isinstance(layers, keras.layers.Layer) else layers
    if not isinstance(layers, (list, tuple)) or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise ValueError(f"`{name}` must be a sequence of layers. Received: {name}={layers!r}")
    return list(layers)


def sample_rate_of(front_end: Sequence[keras.layers.Layer]) -> int:
    """Return the sample rate of a front end. Raise `ValueError` unless exactly one layer defines a sample rate."""
    rates = {layer.sample_rate for layer in front_end if hasattr(layer, "sample_rate")}
    if len(rates) != 1:
        raise ValueError(
            "`front_end` must contain one MelSpectrogram, which defines the sample rate. "
            f"Received: front_end={front_end}"
        )
    return rates.pop()


def check_image_augmentation(layers: Sequence[keras.layers.Layer], backbone: str | Sequence[str]) -> None:
    """Raise `ValueError` if a layer is for images of another range than those of the backbone."""
    expected = backbones.get(backbone).front_end.image_range
    for layer in layers:
        image_range = getattr(layer, "image_range", expected)
        if image_range != expected:
            raise ValueError(
                f"`image_augmentation` must be for images in {expected}, which {backbone} processes. "
                f"Received: {type(layer).__name__}, which is for images in {image_range}"
            )


def checked_genres(genres: Any) -> tuple[str, ...]:
    """Return the names of genres as a tuple. Raise `ValueError` if they are not at least two distinct names."""
    names = tuple(genres) if isinstance(genres, (list, tuple)) else ()
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`genres` must be at least two distinct names. Received: genres={genres!r}")
    if len(names) > _MAX_GENRES:
        raise ValueError(f"`genres` must be at most {_MAX_GENRES} names. Received: {len(names)} names")
    return names


def check_labels(labels: Any, count: int, multi_label: bool) -> None:
    """Check the labels of clips.

    Args:
        labels: array, tensor or nested lists.
        count: number of genres.
        multi_label: whether a clip has several labels. They are a row `(count,)` of values in [0, 1] for each clip.
            Otherwise, they are indices of genres, `(batch,)` or `(batch, 1)`, or rows `(count,)` whose sum is 1
            (one-hot rows, or means of one-hot rows).

    Raises:
        ValueError: the labels have another shape or other values.
    """
    labels = np.asarray(ops.convert_to_numpy(labels) if ops.is_tensor(labels) else labels)
    if not labels.size:
        return
    is_numeric, is_rows = labels.dtype.kind in "biuf", labels.shape[1:] == (count,)
    received = f"Received: shape={labels.shape}, dtype={labels.dtype}"
    if multi_label and not (is_numeric and is_rows):
        raise ValueError(
            f"Labels of a model with `multi_label=True` must have the shape (batch, {count}) and values in [0, 1]. "
            f"{received}"
        )
    if isinstance(labels.flat[0], str):
        raise ValueError(f"Labels must be integers, indices into `genres`. Received: label {labels.flat[0]!r}")
    if is_numeric and labels.shape[1:] in ((), (1,)):
        # JAX accepts integer labels out of range without an error.
        invalid = labels[(labels < 0) | (labels >= count)]
        if len(invalid):
            raise ValueError(f"Labels must be indices into `genres`, 0..{count - 1}. Received: label {invalid[0]}")
    elif not (is_numeric and is_rows):
        raise ValueError(
            f"Labels must be indices into `genres` with the shape (batch,), or rows with the shape (batch, {count}). "
            f"{received}"
        )
    elif not ((labels >= 0) & (labels <= 1)).all():
        invalid = labels[~((labels >= 0) & (labels <= 1))]
        raise ValueError(f"Labels must lie in [0, 1]. Received: label {invalid[0]}, shape={labels.shape}")
    elif not multi_label and (sums := np.abs(labels.sum(axis=1, dtype="float64") - 1)).max() > _MAX_ERROR_OF_SUM:
        total = labels[sums.argmax()].sum(dtype="float64")
        raise ValueError(
            "Labels with the shape (batch, genres) must be one-hot rows, or means of one-hot rows, so their sums must "
            "be 1. For several labels of a clip, build the model with `multi_label=True`. "
            f"Received: shape={labels.shape}, a row whose sum is {total:g}"
        )
