"""SavedModel: folders that TensorFlow loads."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from genrekeras.export.base import CARD, Format


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to a SavedModel. See `Format`."""
    model.export(path, format="tf_saved_model", verbose=False)
    os.makedirs(os.path.join(path, "assets.extra"))  # TensorFlow reserves this folder for other files.
    with open(os.path.join(path, "assets.extra", CARD), "w", encoding="utf-8") as file:
        json.dump(card, file)


def run(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an exported model in TensorFlow. See `Format`."""
    import tensorflow

    loaded = tensorflow.saved_model.load(path)
    return lambda waveforms: loaded.serve(waveforms).numpy()


def read_card(path: str) -> dict[str, Any]:
    """Return the card of a SavedModel."""
    with open(os.path.join(path, "assets.extra", CARD), encoding="utf-8") as file:
        return json.load(file)


FORMAT = Format("", ("tensorflow", "jax"), write, run, read_card)
