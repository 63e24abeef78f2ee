"""Average several models in one model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from genrekeras.models import backbones
from genrekeras.models.genre_classifier import GenreClassifier


def average(models: Sequence[GenreClassifier], weights: npt.ArrayLike | None = None) -> GenreClassifier:
    """Average the logits of several models in one model, optionally weighted.

    Networks that were trained from different random weights make different errors, so their average makes fewer errors.
    The logits of each model are linear in its features. Therefore the average is one dense layer over the features of
    all models.

    Args:
        models: at least one model. Each model has one backbone, and the backbones are all `"mel_..."` or all
            `"musicnn"`. All models have the same genres, `multi_label`, clip length and front end.
        weights: `(models,)`, > 0; `None` for equal weights.

    Returns:
        Model that is not compiled. Its backbone is the list of the backbones of the models.

    Raises:
        ValueError: `models` is empty, the models differ, a model is an average itself, or `weights` is not one positive
            number for each model.
    """
    models = list(models)
    weights = np.ones(len(models)) if weights is None else np.asarray(weights, "float64")
    if not models:
        raise ValueError("`models` must contain at least one model. Received: models=[]")
    if not all(isinstance(model.backbone, str) for model in models):
        raise ValueError("`models` must not contain averages of models. Average the single models in one call.")
    if weights.shape != (len(models),) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            f"`weights` must be a number > 0 for each of {len(models)} models. Received: weights={weights}"
        )
    shared = ("genres", "multi_label", "clip_seconds", "front_end")
    configs = [{key: model.get_config()[key] for key in shared} for model in models]
    for config in configs:
        if _without_names(config) != _without_names(configs[0]):
            raise ValueError(f"`models` must have the same {', '.join(shared)}. Received: {config} and {configs[0]}")
    config = {
        **models[0].get_config(),
        "backbone": [model.backbone for model in models],
        "thresholds": None,
        "card": None,
    }
    config |= {"waveform_augmentation": [], "image_augmentation": []}
    ensemble = GenreClassifier.from_config(config)
    for model, (name, prefix) in zip(models, backbones.members(ensemble.backbone), strict=True):
        for layer in model.feature_extractor.layers:
            if layer.weights:
                target = ensemble.feature_extractor.get_layer(layer.name.replace(name, prefix, 1))
                target.set_weights(layer.get_weights())
    kernels, biases = zip(*(model.output_layer.get_weights() for model in models), strict=True)
    shares = weights / weights.sum()
    weighted_kernels = [share * kernel for share, kernel in zip(shares, kernels, strict=True)]
    ensemble.output_layer.set_weights([np.concatenate(weighted_kernels), shares @ np.stack(biases)])
    return ensemble


def _without_names(config):
    """Return a config without the names of its layers. Keras numbers these names automatically."""
    layers = [(layer["class_name"], {**layer["config"], "name": None}) for layer in config["front_end"]]
    return {**config, "front_end": layers}
