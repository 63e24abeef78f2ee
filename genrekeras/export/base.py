"""What all formats of exported models share."""

from typing import NamedTuple

CARD = "genrekeras.json"  # name of the card: genres, sample rate and clip length in the exported file


class ExportError(ValueError):
    """Raised if an exported model differs from the Keras model, cannot be loaded by its runtime, or lacks its card."""


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        ending: str, ending of the file name; empty for a folder.
        backends: tuple of str, the Keras backends that can write the format.
        write: function of (functional model, path, card, clips), and of `quantize` if there are such options.
        run: function of a path that returns a function, `(batch, samples)` -> `(batch, genres)`, which runs the model
            in the runtime of the format.
        read_card: function of a path that returns the card.
        quantize: tuple of str, number types other than float32 in which weights can be stored.
    """

    ending: str
    backends: tuple
    write: object
    run: object
    read_card: object
    quantize: tuple = ()
