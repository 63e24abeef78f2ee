"""Kernel ridge regression on statistics of spectra: a classifier without epochs, fitted at once, in two minutes.

Two images are as alike as `exp(-d^2)` says, d their distance over all statistics (`SpectralStatistics`), each
standardized and each kind counting as much as the others, along those directions in which images differ most, compared
with how much the quarters of an image differ among themselves: what stays while a clip goes on is its own. The logit of
a genre is a sum of how like each of the training images an image is, with the weights that fit the labels best in the
least squares, with a ridge. Where there are more training images than landmarks, some by lot stand for all (Nystroem's
method).

Sources: Saunders et al., "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998; Rudi et al., "Less is
More: Nystroem Computational Regularization", NeurIPS 2015; Rifkin and Klautau, "In Defense of One-Vs-All
Classification", JMLR 2004 (labels as targets, and each clip as the others tell it); Hatch et al., "Within-Class
Covariance Normalization for SVM-based Speaker Recognition", Interspeech 2006 (the directions; a class is a clip here).
"""

import keras
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
from genrekeras.datasets.batches import checked_weights, fill
from genrekeras.datasets.spectrograms import image_batches
from genrekeras.layers.statistics import SpectralStatistics
from genrekeras.models.backbones.mel_kernel import DIRECTIONS, LANDMARKS
from keras import ops

_PARTS = 4  # of an image, whose differences do not count
_BASIS = 1024  # widest directions, among which those that count are sought
_SHRINKAGE = 0.3  # of what images hide in their parts, towards the same in each direction; times its mean
_SPREAD = 2.0  # mean square of the distance of a point to the middle
_JITTER = 1e-3  # images may be all but the same: without it, their weights would be huge and cancel
_FAR = 100.0  # deviation of the landmarks that are not needed: nothing is like them


def fit_kernel_ridge(model, split, ridge=0.3, seed=0, class_weight=None, batch_size=64):
    """Fit a `"mel_kernel"`: its directions, landmarks, and last layer, whatever they were before.

    How sure the model is comes from the training tracks, each as all others tell it (150 times as sure as the ridge
    makes it at the most); `genrekeras.evaluation.calibrate` finds it anew on tracks of other artists. It takes 3 GB
    of memory for 6,000 images and 200 KB for each of more than there are landmarks.

    Args:
        model: `GenreClassifier` with `backbone="mel_kernel"`.
        split: `genrekeras.datasets.SpectrogramSplit`, images as the front end of the model makes them (`compute_spectrograms` makes
            them of clips), of two tracks at least.
        ridge: float > 0; more is smoother.
        seed: int, of which images are landmarks if there are more than 8,192.
        class_weight: as in `genrekeras.datasets.batches`.
        batch_size: int > 0, images at a time.

    Returns:
        `(images, genres)` float32 array, probabilities of the training images, each as all other tracks tell it (but
            for directions and landmarks, which are of all).

    Raises:
        ValueError: the model is another one, the split does not belong to it or holds fewer than two tracks, the
            ridge is not a positive number, or no image has any weight.
    """
    if model.backbone != "mel_kernel":
        raise ValueError(f'`model` must have backbone="mel_kernel". Received: backbone={model.backbone!r}')
    if split.images.shape[1:] != model.image_model.input_shape[1:]:
        raise ValueError(
            f"`split` must hold images of {model.image_model.input_shape[1:]}, which the model's front end makes. "
            f"Received: split={split!r}"
        )
    if not 0 < ridge < np.inf:
        raise ValueError(f"`ridge` must be a number > 0. Received: ridge={ridge}")
    tracks = np.unique(split.track_ids, return_inverse=True)[1]
    if tracks.max(initial=0) < 1:
        raise ValueError(f"`split` must hold two tracks at least. Received: split={split!r}")
    weights = np.ones(len(split))
    if class_weight is not None:
        weights = checked_weights(class_weight, split)[split.labels].astype("float64")
        if not weights.any():
            raise ValueError(f"`class_weight` gives no image any weight. Received: class_weight={class_weight!r}")
    layers = (model.feature_extractor.get_layer(f"mel_kernel_{name}") for name in ("projection", "landmarks"))
    projection, kernel = layers
    statistics, within, sizes = _statistics(model, split, batch_size)
    projection.set_weights(_projection(statistics, within, sizes))
    matrix, offset = projection.get_weights()
    points = (statistics @ matrix + offset).astype("float64")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(points))[:LANDMARKS])
    landmarks = rng.normal(0, _FAR, (LANDMARKS, DIRECTIONS))
    landmarks[: len(chosen)] = points[chosen]
    kernel.set_weights([landmarks])

    targets = np.eye(len(model.genres))[split.labels]
    prior = np.average(targets, axis=0, weights=weights)
    own, others = _ridge(points, points[chosen], targets - prior, weights, ridge, tracks)
    sureness = _sureness(others + prior, split.labels, weights)
    last = np.zeros((LANDMARKS, len(model.genres)))
    last[: len(chosen)] = sureness * own
    model.output_layer.set_weights([last, sureness * prior])
    model.reset_card()
    return scipy.special.softmax(sureness * (others + prior), axis=1).astype("float32")


def _statistics(model, split, batch_size):
    """Statistics of the images of a split, their covariance within an image, and how many there are of each kind."""
    layer, image = SpectralStatistics(), keras.Input(split.images.shape[1:])
    parts = ops.split(image, [image.shape[2] * part // _PARTS for part in range(1, _PARTS)], axis=2)
    way = keras.Model(image, ops.stack([layer(part) for part in (image, *parts)], axis=1))  # (batch, 5, numbers)
    data = image_batches(split, batch_size)
    model.check_data(data)
    statistics = np.empty((len(split), way.output.shape[2]), "float32")
    within = np.zeros(2 * statistics.shape[1:])

    def of_batch(images):
        found = way.predict_on_batch(images)
        rest = found[:, 1:] - found[:, 1:].mean(axis=1, keepdims=True)
        rest = rest.reshape(-1, rest.shape[2])
        within[:] += rest.T @ rest
        return found[:, 0]

    fill(statistics, data, of_batch, f"Statistics of {split.name}")
    return statistics, within / ((_PARTS - 1) * len(split)), layer.sizes(image.shape[1])


def _projection(statistics, within, sizes):
    """Matrix and offset, statistics -> points."""
    from sklearn.utils.extmath import randomized_svd  # not for those who only predict

    mean, deviation = statistics.mean(axis=0, dtype="float64"), statistics.std(axis=0, dtype="float64")
    share = np.repeat([1 / np.sqrt(size * len(sizes)) for size in sizes], sizes)
    scale = np.where(deviation > 1e-4, share / np.maximum(deviation, 1e-4), 0.0)  # 0 of what never moves
    standard = ((statistics - mean) * scale).astype("float32")
    _, lengths, vectors = randomized_svd(standard, min(_BASIS, *standard.shape), n_iter=4, random_state=0)
    basis = scale[:, None] * vectors[lengths >= 1e-5 * lengths[0]].T.astype("float64")
    within = basis.T @ within @ basis
    within[np.diag_indices(len(within))] += max(_SHRINKAGE * np.trace(within) / len(within), 1e-9)
    total = np.diag(lengths[: len(within)].astype("float64") ** 2 / len(standard))
    count = min(DIRECTIONS, len(within))
    widths, directions = scipy.linalg.eigh(total, within, subset_by_index=[len(within) - count, len(within) - 1])
    matrix = np.zeros((len(mean), DIRECTIONS))
    matrix[:, :count] = basis @ directions * np.sqrt(_SPREAD / max(widths.sum(), 1e-9))
    return [matrix.astype("float32"), -(mean @ matrix).astype("float32")]


def _ridge(points, landmarks, targets, weights, ridge, tracks):
    """Weights of the landmarks, and what all other tracks tell of each point.

    In the coordinates of Nystroem, in which the ridge is the same along each. Leaving a track out has a closed form.
    """
    between = _gaussian(landmarks, landmarks)
    between[np.diag_indices(len(between))] += _JITTER
    lower = scipy.linalg.cholesky(between, lower=True, overwrite_a=True, check_finite=False)
    coordinates = scipy.linalg.solve_triangular(
        lower, _gaussian(landmarks, points), lower=True
    ).T  # (points, landmarks)
    weighted = coordinates * weights[:, None]
    gram = coordinates.T @ weighted
    gram[np.diag_indices(len(gram))] += ridge
    factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    solution = scipy.linalg.cho_solve(factor, weighted.T @ targets)
    del weighted
    residuals = targets - coordinates @ solution
    spread = scipy.linalg.solve_triangular(factor[0].T, coordinates.T, lower=True).T  # its products are the leverages
    for rows in np.split(np.argsort(tracks, kind="stable"), np.cumsum(np.bincount(tracks))[:-1]):
        leverage = spread[rows] @ (spread[rows] * weights[rows, None]).T
        residuals[rows] = np.linalg.solve(np.eye(len(rows)) - leverage, residuals[rows])
    return scipy.linalg.solve_triangular(lower.T, solution, lower=False), targets - residuals


def _gaussian(first, second):
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    return np.exp(-np.maximum(squares - 2 * first @ second.T, 0))


def _sureness(scores, labels, weights):
    """The factor of the scores with which they tell the labels best, as logits."""

    def loss(logarithm):
        logits = np.exp(logarithm) * scores
        own = logits[np.arange(len(labels)), labels]
        return np.average(scipy.special.logsumexp(logits, axis=1) - own, weights=weights)

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-3, 5), method="bounded").x))
