"""What the formats of exported models have in common."""

from typing import NamedTuple

CARD = "genrekeras.json"  # what the file carries of genres, sample rate and clip length


class ExportError(ValueError):
    """Raised if an exported model differs from the Keras model, cannot be loaded by its runtime, or lacks its card."""


class Format(NamedTuple):
    """A row of the table.

    Attributes:
        ending: str, of the file; empty for a folder.
        backends: tuple of str, from which it can be made.
        write: function of (functional model, path, card, clips), and of `quantize` where there are such.
        run: function of a path; gives a function, `(batch, samples)` -> `(batch, genres)` by the format's own runtime.
        read_card: function of a path; gives the card.
        quantize: tuple of str, how else than in 32 bits it can keep weights.
    """

    ending: str
    backends: tuple
    write: object
    run: object
    read_card: object
    quantize: tuple = ()
