"""Pictures of a run and of what a model hears, the page of a run, the card of a model."""

from genrekeras.report.card import describe, model_card
from genrekeras.report.listening import collection_map, spectrogram, timeline
from genrekeras.report.page import Run, html, load_run
from genrekeras.report.pictures import comparison, confusion_matrix, learning_curves, reliability

__all__ = [
    "Run",
    "collection_map",
    "comparison",
    "confusion_matrix",
    "describe",
    "html",
    "learning_curves",
    "load_run",
    "model_card",
    "reliability",
    "spectrogram",
    "timeline",
]
