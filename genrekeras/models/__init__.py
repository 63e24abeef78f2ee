"""Models: `GenreClassifier`, its backbones, averages of models, and model files.

The modules that import Keras are imported when they are needed, since exported models need `Thresholds` only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrekeras.models.ensemble import average
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.saving import ModelFileError, load_model, save_float16
    from genrekeras.models.thresholds import Thresholds

__all__ = ["GenreClassifier", "ModelFileError", "Thresholds", "average", "load_model", "save_float16"]

_MODULE_OF = {
    "GenreClassifier": "genre_classifier",
    "ModelFileError": "saving",
    "Thresholds": "thresholds",
    "average": "ensemble",
    "load_model": "saving",
    "save_float16": "saving",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'genrekeras.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"genrekeras.models.{_MODULE_OF[name]}"), name)
