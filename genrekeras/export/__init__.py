"""Export models to other runtimes, and load exported models."""

from genrekeras.export.base import CARD, ExportError, Format
from genrekeras.export.conversion import FORMATS, TOLERANCES, export, load

__all__ = ["CARD", "FORMATS", "TOLERANCES", "ExportError", "Format", "export", "load"]
