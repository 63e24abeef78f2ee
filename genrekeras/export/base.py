"""Definitions that all export formats share."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from genrekeras.models.track_classifier import OutputName

# Name of the card in an exported file. The card is a JSON object with genres, sample rate and so on.
CARD = "genrekeras.json"
# Names of the outputs of an exported model, in their order in the model.
OUTPUTS: tuple[OutputName, ...] = ("probabilities", "features", "ood_score")
Run: TypeAlias = Callable[[np.ndarray], dict[str, np.ndarray]]


class ExportError(ValueError):
    """Raised if an exported model differs from the Keras model, cannot be loaded by its runtime, or lacks its card."""


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        ending: ending of the file name. Empty if the format is a folder.
        backends: the Keras backends that can write the format.
        write: function `(functional model, path, card, clips)` that writes the exported model, see
            `GenreClassifier.for_export`. If `quantize` is not empty, the function also has an argument `quantize`.
        load: function that loads the model at a path into the runtime of the format. It returns a function that runs
            the model, and the text of the card, or `None` if there is none. The function returns output name -> array
            for clips `(batch, samples)`.
        quantize: types other than float32 in which weights can be stored.
    """

    ending: str
    backends: tuple[str, ...]
    write: Callable[..., None]
    load: Callable[[str], tuple[Run, str | None]]
    quantize: tuple[str, ...] = ()
