"""Compute the statistics of batch normalization again after training."""

import keras
import numpy as np
from genrekeras.models.genre_classifier import GenreClassifier
from keras import ops


def recalibrate_batch_norm(model: GenreClassifier, images: np.ndarray, batch_size: int = 64) -> None:
    """Replace the moving statistics of batch normalization by those of images as in inference.

    In training, the moving statistics are computed from augmented and mixed images, and from random parts of images. In
    inference, the network processes complete images without augmentation, whose statistics are different. With a moving
    average of the weights (`use_ema`), the statistics also belong to other weights. This function computes the mean and
    the variance of the inputs of each batch normalization, from the first to the last one, without augmentation. It
    processes the images once for each batch normalization.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018 (statistics
    of batch normalization for averaged weights).

    Args:
        model: a trained model. The layers of its `feature_extractor` change, also if they are frozen.
        images: `(n, mels, frames, 1)` in the range of the images of the front end, training images.
        batch_size: `> 0`, number of images that are processed at once.

    Raises:
        ValueError: there are no images, they have another shape than the images of the front end, or the model has no
            batch normalization.
    """
    network = model.feature_extractor
    if not len(images) or images.shape[1:] != network.input_shape[1:]:
        raise ValueError(
            f"`images` must have the shape (n, {', '.join(map(str, network.input_shape[1:]))}), n > 0. "
            f"Received: shape {images.shape}"
        )
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not layers:
        raise ValueError(f"`model` has no batch normalization. Received: backbone={model.backbone!r}")
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    weights = [len(batch) / len(images) for batch in batches]
    for layer in layers:
        inputs = ops.cast(layer.input, "float32")
        axes = [axis for axis in range(len(inputs.shape)) if axis != layer.axis % len(inputs.shape)]
        moments = keras.Model(network.input, ops.moments(inputs, axes))
        results = np.array([moments.predict_on_batch(batch.astype("float32")) for batch in batches], "float64")
        means, variances = results[:, 0], results[:, 1]
        mean = np.average(means, axis=0, weights=weights)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.average(variances + (means - mean) ** 2, axis=0, weights=weights))
