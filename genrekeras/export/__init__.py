"""Export of models to other runtimes, and loading of exported models."""

from genrekeras.export.base import CARD, ExportError, Format
from genrekeras.export.conversion import FORMATS, TOLERANCES, export, load

__all__ = ["CARD", "FORMATS", "TOLERANCES", "ExportError", "Format", "export", "load"]
