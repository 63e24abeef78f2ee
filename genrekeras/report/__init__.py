"""Pictures: of a run, and of what a model hears."""

from genrekeras.report.listening import collection_map, spectrogram, timeline
from genrekeras.report.pictures import confusion_matrix, learning_curves, reliability

__all__ = ["collection_map", "confusion_matrix", "learning_curves", "reliability", "spectrogram", "timeline"]
