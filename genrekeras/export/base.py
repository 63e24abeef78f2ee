"""Definitions that all export formats share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

# Name of the card in an exported file. The card is a JSON object with genres, sample rate and clip length.
CARD = "genrekeras.json"


class ExportError(ValueError):
    """Raised if an exported model differs from the Keras model, cannot be loaded by its runtime, or lacks its card."""


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        ending: ending of the file name. Empty if the format is a folder.
        backends: the Keras backends that can write the format.
        write: function `(functional model, path, card, clips)` that writes the exported model. If `quantize` is not
            empty, the function also has an argument `quantize`.
        run: function that loads the model at a path into the runtime of the format. It returns a function
            `(batch, samples)` -> `(batch, genres)` that runs the model.
        read_card: function that returns the card of the exported model at a path.
        quantize: types other than float32 in which weights can be stored.
        outputs: what the exported model computes, see `GenreClassifier.for_export`. The probabilities come first.
    """

    ending: str
    backends: tuple[str, ...]
    write: Callable[..., None]
    run: Callable[[str], Callable[[np.ndarray], np.ndarray]]
    read_card: Callable[[str], dict[str, Any]]
    quantize: tuple[str, ...] = ()
    outputs: tuple[Literal["probabilities", "ood_score"], ...] = ("probabilities",)
