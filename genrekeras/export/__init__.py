"""Export models to other runtimes, and load exported models."""

from genrekeras.export.base import CARD, OUTPUTS, ExportError, Format
from genrekeras.export.conversion import TOLERANCES, export
from genrekeras.export.loading import FORMATS, ExportedModel, load

__all__ = ["CARD", "FORMATS", "OUTPUTS", "TOLERANCES", "ExportError", "ExportedModel", "Format", "export", "load"]
