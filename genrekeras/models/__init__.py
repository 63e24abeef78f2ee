"""Models: `GenreClassifier`, its backbones, averages of models, and model files."""

from genrekeras.models.ensemble import average
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.models.saving import ModelFileError, load_model, save_float16
from genrekeras.models.thresholds import Thresholds

__all__ = ["GenreClassifier", "ModelFileError", "Thresholds", "average", "load_model", "save_float16"]
