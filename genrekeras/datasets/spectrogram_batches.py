"""Batches of spectrogram images, with mixing of images for training."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import grain
import numpy as np
import numpy.typing as npt
from genrekeras.datasets.batches import Batches, check_integers
from genrekeras.datasets.labels import checked_weights, label_rows, sample_weights

if TYPE_CHECKING:
    from genrekeras.datasets.spectrograms import SpectrogramSplit


def image_batches(
    split: SpectrogramSplit,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    repeats: int = 1,
    mix_probability: float = 0.0,
    one_hot: bool = False,
    class_weight: Literal["balanced"] | npt.ArrayLike | None = None,
    soft_labels: npt.ArrayLike | None = None,
    embeddings: npt.ArrayLike | None = None,
) -> Batches:
    """Return batches of spectrogram images and their labels, for `model.image_model.fit`.

    Pass `shuffle=False` to `fit`, because the batches already have the correct order.

    Args:
        split: the images and their labels.
        batch_size: `> 0`, number of images in a batch. The last batch of an epoch may be smaller.
        shuffle: whether each epoch has a new random order.
        seed: `>= 0`, seed of all random choices. The random choices differ between epochs.
        repeats: `> 0`, how often an epoch contains each image. Without shuffling, the repetitions of an image are
            consecutive.
        mix_probability: in [0, 1], probability that the images of a batch are mixed. In a mixed batch, each image is
            mixed with another image of the batch. The weight of the other image is at most one half. Half of the mixed
            batches contain weighted means (mixup). In the other half, frames of an image are replaced by frames of the
            other image, either at random positions or at the end (CutMix). Labels are one-hot and mixed with the same
            weights, so the loss must be `categorical_crossentropy`.
            Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix:
            Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
        one_hot: whether labels are one-hot without mixing too. Set it for validation data if the training images
            are mixed.
        class_weight: see `batches`.
        soft_labels: `(images, genres)`, probabilities of the genres of each image, such as those of a teacher. They
            replace the labels of the split. The loss must be `categorical_crossentropy`.
            Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
        embeddings: `(images, k)` floats, what a second output of the network learns, such as embeddings of a teacher.
            They are mixed like the labels.

    Returns:
        A batch is `(images, labels)` or, with `class_weight`, `(images, labels, weights)`. With `embeddings`, `(labels,
        embeddings)` is in the place of the labels.

            - `images`: `(batch, mels, frames, 1)` float32 in [0, 255].
            - `labels`: `(batch,)` int32. With several labels, `mix_probability`, `one_hot` or `soft_labels`, `(batch,
              len(genres))` float32.
            - `embeddings`: `(batch, k)` float32.
            - `weights`: `(batch,)` float32.

    Raises:
        ValueError: an argument is out of range, `soft_labels` or `embeddings` have another shape, or the split is
            empty.
    """
    check_integers(batch_size=(batch_size, 1), repeats=(repeats, 1), seed=(seed, 0))
    weights = checked_weights(class_weight, split)
    if not 0 <= mix_probability <= 1:
        raise ValueError(f"`mix_probability` must be in [0, 1]. Received: mix_probability={mix_probability}")

    labels = split.labels
    if soft_labels is not None:
        labels, one_hot = np.asarray(soft_labels, "float32"), True
        if labels.shape != (len(split), len(split.genres)) or not (labels >= 0).all():
            raise ValueError(
                f"`soft_labels` must be {len(split)} rows of {len(split.genres)} numbers >= 0. "
                f"Received: shape {labels.shape}"
            )
    targets = np.zeros((len(split), 0), "float32") if embeddings is None else np.asarray(embeddings, "float32")
    if targets.ndim != 2 or len(targets) != len(split):
        raise ValueError(f"`embeddings` must have {len(split)} rows. Received: shape {targets.shape}")

    def make_batch(rows, rng):
        rows = np.asarray(rows) // repeats
        images, label_matrix = split.images[rows].astype("float32"), label_rows(labels[rows], len(split.genres))
        values = np.concatenate([label_matrix, targets[rows]], axis=1)
        if rng.random() < mix_probability:
            images, values = _mix(images, values, rng)
        label_matrix, own_embeddings = np.split(values, [len(split.genres)], axis=1)
        batch_labels = label_matrix if mix_probability or one_hot else labels[rows]
        batch = images, (batch_labels if embeddings is None else (batch_labels, own_embeddings))
        return batch if weights is None else (*batch, sample_weights(label_matrix, weights))

    if len(split) == 0:
        raise ValueError(f"`split` has no images. Received: split={split!r}")
    rows = grain.MapDataset.source(range(len(split) * repeats)).seed(seed)
    rows = (rows.shuffle() if shuffle else rows).batch(batch_size)
    track_ids = rows.map(lambda rows: split.track_ids[np.asarray(rows) // repeats])
    fingerprint = {
        "split": split.fingerprint,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed,
        "repeats": repeats,
        "mix_probability": mix_probability,
        "one_hot": bool(mix_probability or one_hot),
        "class_weight": None if weights is None else weights.tolist(),
        "teacher": [None if x is None else _digest(x) for x in (soft_labels, embeddings)],
    }
    data = rows.random_map(make_batch)
    return Batches(data, split.sample_rate, split.genres, None, track_ids, fingerprint, multi_label=split.multi_label)


def _digest(values):
    return hashlib.sha256(np.ascontiguousarray(values, "float32").tobytes()).hexdigest()


def _mix(images, labels, rng):
    """Mix each image of a batch with another image of the batch by mixup or CutMix, see `image_batches`.

    Args:
        images: `(batch, mels, frames, 1)` float32 array.
        labels: `(batch, genres)` float32 array.
        rng: `numpy.random.Generator`.

    Returns:
        tuple of the mixed images and the mixed labels, with the same shapes.
    """
    count, frames = len(images), images.shape[2]
    other, weight = rng.permutation(count), rng.beta(0.5, 0.5, count)
    weight = np.maximum(weight, 1 - weight)
    if rng.random() < 0.5:
        images = weight[:, None, None, None] * images + (1 - weight)[:, None, None, None] * images[other]
    else:
        ranks = rng.random((count, frames)).argsort(axis=1) if rng.random() < 0.5 else np.arange(frames)[None]
        keep = ranks < np.round(weight * frames)[:, None]
        weight = keep.mean(axis=1)
        images = np.where(keep[:, None, :, None], images, images[other])
    weight = weight[:, None].astype("float32")
    return images.astype("float32"), weight * labels + (1 - weight) * labels[other]
