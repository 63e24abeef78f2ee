"""Models: `GenreClassifier`, its backbones, averages of models, and model files.

The modules that import Keras are imported when they are needed, since exported models need `Thresholds` only.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from genrekeras.models.ensemble import average
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.saving import ModelFileError, load_model, save_float16
    from genrekeras.models.thresholds import Thresholds

__all__ = ["GenreClassifier", "ModelFileError", "Thresholds", "average", "load_model", "save_float16"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ensemble": ["average"],
        "genre_classifier": ["GenreClassifier"],
        "saving": ["ModelFileError", "load_model", "save_float16"],
        "thresholds": ["Thresholds"],
    },
)
