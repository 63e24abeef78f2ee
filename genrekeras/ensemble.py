"""Several models as one, in one file."""

import numpy as np
from genrekeras import backbones
from genrekeras.classifier import GenreClassifier


def join(models, weights=None):
    """One model that is the mean of several: of their logits, so that it is a model like any other.

    Networks of random weights that were trained apart err differently; their mean errs less. The logits of all are
    linear in their features, so that the mean is a last layer over all features side by side.

    Args:
        models: sequence of `GenreClassifier`, one at least, each with one of the `"mel_..."` backbones; of the same
            genres, clip length and front end.
        weights: sequence of float > 0, how much each counts; `None`, all alike.

    Returns:
        `GenreClassifier`, not compiled; its backbone is the list of theirs.

    Raises:
        ValueError: there are no models, or they do not go together; the weights are not one positive number a model.
    """
    models = list(models)
    weights = np.ones(len(models)) if weights is None else np.asarray(weights, "float64")
    if not models:
        raise ValueError("`models` must hold a model at least. Received: models=[]")
    if not all(isinstance(model.backbone, str) for model in models):
        raise ValueError("A joined model cannot be joined again: join all of its members at once.")
    if weights.shape != (len(models),) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"`weights` must be a number > 0 for each of {len(models)} models. Received: {weights}")
    weights = weights / weights.sum()
    shared = ("genres", "clip_seconds", "front_end")
    configs = [{key: model.get_config()[key] for key in shared} for model in models]
    for config in configs:
        if _without_names(config) != _without_names(configs[0]):
            raise ValueError(f"`models` must have the same {', '.join(shared)}. Received: {config} and {configs[0]}")
    config = {**models[0].get_config(), "backbone": [model.backbone for model in models], "card": None}
    config |= {"waveform_augmentation": [], "image_augmentation": []}
    joined = GenreClassifier.from_config(config)
    for model, (name, prefix) in zip(models, backbones.members(joined.backbone), strict=True):
        for layer in model.feature_extractor.layers:
            if layer.weights:
                twin = joined.feature_extractor.get_layer(layer.name.replace(name, prefix, 1))
                twin.set_weights(layer.get_weights())
    kernels, biases = zip(*(model.head.layers[-1].get_weights() for model in models), strict=True)
    kernels = [weight * kernel for weight, kernel in zip(weights, kernels, strict=True)]
    joined.head.layers[-1].set_weights([np.concatenate(kernels), weights @ np.stack(biases)])
    return joined


def _without_names(config):
    """Layers are named by number, each model's anew."""
    layers = [(layer["class_name"], {**layer["config"], "name": None}) for layer in config["front_end"]]
    return {**config, "front_end": layers}
