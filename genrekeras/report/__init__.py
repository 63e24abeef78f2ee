"""Pictures of a run."""

from genrekeras.report.pictures import confusion_matrix, learning_curves

__all__ = ["confusion_matrix", "learning_curves"]
