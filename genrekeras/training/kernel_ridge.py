"""Kernel ridge regression on statistics of spectra. The classifier is fitted in closed form, in two minutes.

The kernel of two images is `exp(-d^2)`, where d is a distance between their statistics (`SpectralStatistics`). Each
statistic is standardized, and each kind of statistic has the same total weight. The statistics are projected onto 128
directions before the distance is computed. In these directions, the variance between images is largest relative to the
variance between the quarters of an image. The logit of a genre is a weighted sum of the kernels with the landmarks. The
weights are fitted by ridge regression. The landmarks are the training images, or a random subset of them if there are
more than 8,192 images (Nystroem's method).

Sources: Saunders et al., "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998; Rudi et al., "Less is
More: Nystroem Computational Regularization", NeurIPS 2015; Rifkin and Klautau, "In Defense of One-Vs-All
Classification", JMLR 2004 (labels as targets, leave-one-out predictions); Hatch et al., "Within-Class Covariance
Normalization for SVM-based Speaker Recognition", Interspeech 2006 (the directions, where each clip is a class).
"""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
from genrekeras.datasets.batches import checked_weights, fill
from genrekeras.datasets.spectrograms import SpectrogramSplit, image_batches
from genrekeras.layers.statistics import SpectralStatistics
from genrekeras.models.backbones.mel_kernel import DIRECTIONS, LANDMARKS
from genrekeras.models.genre_classifier import GenreClassifier
from keras import ops

_PARTS = 4  # The variance within an image is computed from this number of parts of the image.
_NUM_COMPONENTS = 1024  # The directions are searched in the space of this number of principal components.
_SHRINKAGE = 0.3  # This multiple of the mean variance within images is added to the diagonal of the covariance.
_MEAN_SQUARED_NORM = 2.0  # The projected training images are scaled to this value.
_JITTER = 1e-3  # It is added to the diagonal of the kernel matrix. Otherwise nearly equal images get huge weights.
_UNUSED_DEVIATION = 100.0  # Unused landmarks have this standard deviation, so their kernels with all images are 0.


def fit_kernel_ridge(
    model: GenreClassifier,
    split: SpectrogramSplit,
    ridge: float = 0.3,
    seed: int = 0,
    class_weight: Literal["balanced"] | Sequence[float] | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Fit the directions, the landmarks and the last layer of a model with the backbone `"mel_kernel"`.

    The previous weights are replaced. The logits are scaled by a factor from 0.05 to 150. The factor minimizes the
    log-loss of leave-one-track-out predictions of the training images. `genrekeras.evaluation.calibrate` fits the
    factor again on tracks of other artists. A fit on 6,000 images needs 3 GB of memory. Each image after the first
    8,192 needs another 200 KB.

    Args:
        model: a model with `backbone="mel_kernel"`.
        split: at least two tracks. The images must be computed by the front end of the model, for example by
            `compute_spectrograms`.
        ridge: `> 0`, regularization. A larger value gives a smoother function.
        seed: seed of the choice of landmarks if there are more than 8,192 images.
        class_weight: as in `genrekeras.datasets.batches`.
        batch_size: `> 0`, number of images that are processed at once.

    Returns:
        `(images, genres)` float32, leave-one-track-out probabilities of the training images. A track is left out
        only in the fit of the last layer. The directions and the landmarks are computed from all tracks.

    Raises:
        ValueError: the model has another backbone, the split does not fit the model or has fewer than two tracks,
            `ridge` is not a positive number, or all images have the weight 0.
    """
    if model.backbone != "mel_kernel":
        raise ValueError(f'`model` must have backbone="mel_kernel". Received: backbone={model.backbone!r}')
    if split.images.shape[1:] != model.image_model.input_shape[1:]:
        raise ValueError(
            f"`split` must contain images from the model's front end, of shape {model.image_model.input_shape[1:]}. "
            f"Received: images of shape {split.images.shape[1:]}"
        )
    if not 0 < ridge < np.inf:
        raise ValueError(f"`ridge` must be a number > 0. Received: ridge={ridge}")
    tracks = np.unique(split.track_ids, return_inverse=True)[1]
    if tracks.max(initial=0) < 1:
        raise ValueError(f"`split` must contain at least two tracks. Received: split={split!r}")
    weights = np.ones(len(split))
    genre_weights = checked_weights(class_weight, split)
    if genre_weights is not None:
        weights = genre_weights[split.labels].astype("float64")
        if not weights.any():
            raise ValueError(
                f"`class_weight` must give at least one image a weight > 0. Received: class_weight={class_weight!r}"
            )
    projection, kernel = (
        model.feature_extractor.get_layer(f"mel_kernel_{name}") for name in ("projection", "landmarks")
    )
    statistics, covariance_within, sizes = _statistics(model, split, batch_size)
    projection.set_weights(_projection(statistics, covariance_within, sizes))
    matrix, offset = projection.get_weights()
    points = (statistics @ matrix + offset).astype("float64")
    rng = np.random.default_rng(seed)
    landmark_rows = np.sort(rng.permutation(len(points))[:LANDMARKS])
    landmarks = rng.normal(0, _UNUSED_DEVIATION, (LANDMARKS, DIRECTIONS))
    landmarks[: len(landmark_rows)] = points[landmark_rows]
    kernel.set_weights([landmarks])

    targets = np.eye(len(model.genres))[split.labels]
    prior = np.average(targets, axis=0, weights=weights)
    coefficients, scores = _ridge_regression(points, points[landmark_rows], targets - prior, weights, ridge, tracks)
    scale = _logit_scale(scores + prior, split.labels, weights)
    output_kernel = np.zeros((LANDMARKS, len(model.genres)))
    output_kernel[: len(landmark_rows)] = scale * coefficients
    model.output_layer.set_weights([output_kernel, scale * prior])
    model.reset_card()
    return scipy.special.softmax(scale * (scores + prior), axis=1).astype("float32")


def _statistics(model, split, batch_size):
    """Compute the statistics of the images of a split.

    Returns:
        tuple: `(images, statistics)` float32 array of the statistics; `(statistics, statistics)` array, mean covariance
        between the parts of an image; list, number of statistics of each kind.
    """
    layer, image = SpectralStatistics(), keras.Input(split.images.shape[1:])
    parts = ops.split(image, [image.shape[2] * part // _PARTS for part in range(1, _PARTS)], axis=2)
    outputs = ops.stack([layer(part) for part in (image, *parts)], axis=1)  # (batch, 1 + parts, statistics)
    network = keras.Model(image, outputs)
    data = image_batches(split, batch_size)
    model.check_data(data)
    statistics = np.empty((len(split), network.output.shape[2]), "float32")
    covariance_within = np.zeros(2 * statistics.shape[1:])

    def compute(images):
        image_statistics, part_statistics = np.split(network.predict_on_batch(images), [1], axis=1)
        deviations = part_statistics - part_statistics.mean(axis=1, keepdims=True)
        deviations = deviations.reshape(-1, deviations.shape[2])
        covariance_within[:] += deviations.T @ deviations
        return image_statistics[:, 0]

    fill(statistics, data, compute, f"Statistics of {split.name}")
    return statistics, covariance_within / ((_PARTS - 1) * len(split)), layer.sizes(image.shape[1])


def _projection(statistics, covariance_within, sizes):
    """Return matrix and offset of the projection of statistics onto the directions of the kernel.

    In these directions, the total variance is largest relative to the variance within images. They are the solution of
    a generalized eigenvalue problem in the space of the principal components.
    """
    from sklearn.utils.extmath import randomized_svd  # a slow import that predictions do not need

    mean, deviation = statistics.mean(axis=0, dtype="float64"), statistics.std(axis=0, dtype="float64")
    weight = np.repeat([1 / np.sqrt(size * len(sizes)) for size in sizes], sizes)
    scale = np.where(deviation > 1e-4, weight / np.maximum(deviation, 1e-4), 0.0)  # 0 for a constant statistic
    standardized = ((statistics - mean) * scale).astype("float32")
    _, singular_values, vectors = randomized_svd(
        standardized, min(_NUM_COMPONENTS, *standardized.shape), n_iter=4, random_state=0
    )
    is_significant = singular_values >= 1e-5 * singular_values[0]
    basis = scale[:, None] * vectors[is_significant].T.astype("float64")
    within = basis.T @ covariance_within @ basis
    within[np.diag_indices(len(within))] += max(_SHRINKAGE * np.trace(within) / len(within), 1e-9)
    total = np.diag(singular_values[: len(within)].astype("float64") ** 2 / len(standardized))
    count = min(DIRECTIONS, len(within))
    ratios, directions = scipy.linalg.eigh(total, within, subset_by_index=[len(within) - count, len(within) - 1])
    matrix = np.zeros((len(mean), DIRECTIONS))
    matrix[:, :count] = basis @ directions * np.sqrt(_MEAN_SQUARED_NORM / max(ratios.sum(), 1e-9))
    return [matrix.astype("float32"), -(mean @ matrix).astype("float32")]


def _ridge_regression(points, landmarks, targets, weights, ridge, tracks):
    """Fit the coefficients of the landmarks, and predict each point by a fit without the track of the point.

    Points are converted to Nystroem coordinates, in which the ridge is the same in all directions. In these
    coordinates, leave-one-track-out predictions have a closed form.

    Returns:
        tuple: `(landmarks, genres)` coefficients, and `(points, genres)` leave-one-track-out scores.
    """
    kernel = _gaussian_kernel(landmarks, landmarks)
    kernel[np.diag_indices(len(kernel))] += _JITTER
    lower = scipy.linalg.cholesky(kernel, lower=True, overwrite_a=True, check_finite=False)
    coordinates = scipy.linalg.solve_triangular(
        lower, _gaussian_kernel(landmarks, points), lower=True
    ).T  # (points, landmarks)
    weighted = coordinates * weights[:, None]
    gram = coordinates.T @ weighted
    gram[np.diag_indices(len(gram))] += ridge
    factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    solution = scipy.linalg.cho_solve(factor, weighted.T @ targets)
    del weighted
    residuals = targets - coordinates @ solution
    # The inner products of the rows of `whitened` are leverages.
    whitened = scipy.linalg.solve_triangular(factor[0].T, coordinates.T, lower=True).T
    for rows in np.split(np.argsort(tracks, kind="stable"), np.cumsum(np.bincount(tracks))[:-1]):
        leverage = whitened[rows] @ (whitened[rows] * weights[rows, None]).T
        residuals[rows] = np.linalg.solve(np.eye(len(rows)) - leverage, residuals[rows])
    return scipy.linalg.solve_triangular(lower.T, solution, lower=False), targets - residuals


def _gaussian_kernel(first, second):
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    return np.exp(-np.maximum(squares - 2 * first @ second.T, 0))


def _logit_scale(scores, labels, weights):
    """Return the factor of the scores that minimizes the log-loss. Its bounds are exp(-3) and exp(5)."""

    def loss(log_scale):
        logits = np.exp(log_scale) * scores
        true_logits = logits[np.arange(len(labels)), labels]
        return np.average(scipy.special.logsumexp(logits, axis=1) - true_logits, weights=weights)

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-3, 5), method="bounded").x))
