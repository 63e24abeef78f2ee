"""Figures of metrics and of audio."""

from genrekeras.visualization.audio import collection_map, spectrogram, timeline
from genrekeras.visualization.metrics import comparison, confusion_matrix, label_pairs, learning_curves, reliability

__all__ = [
    "collection_map",
    "comparison",
    "confusion_matrix",
    "label_pairs",
    "learning_curves",
    "reliability",
    "spectrogram",
    "timeline",
]
