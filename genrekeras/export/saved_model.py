"""SavedModel: folders that TensorFlow loads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from genrekeras.export.base import CARD, OUTPUTS, Format, Run

if TYPE_CHECKING:
    import keras


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to a SavedModel. See `Format`."""
    import keras

    named = keras.Model(model.input, dict(zip(OUTPUTS, model.output, strict=True)))
    named.export(path, format="tf_saved_model", verbose=False)
    os.makedirs(os.path.join(path, "assets.extra"))  # TensorFlow reserves this folder for other files.
    with open(os.path.join(path, "assets.extra", CARD), "w", encoding="utf-8") as file:
        json.dump(card, file)


def load(path: str) -> tuple[Run, str | None]:
    """Load an exported model into TensorFlow. See `Format`."""
    import tensorflow

    loaded = tensorflow.saved_model.load(path)
    card_path = os.path.join(path, "assets.extra", CARD)
    text = None
    if os.path.exists(card_path):
        with open(card_path, encoding="utf-8") as file:
            text = file.read()
    return lambda waveforms: {name: value.numpy() for name, value in loaded.serve(waveforms).items()}, text


FORMAT = Format("", ("tensorflow", "jax"), write, load)
