"""The music collection of a person: train a model on its genres, and find wrong genres."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # These modules import the datasets, which takes seconds.
    from genrekeras.library.label_errors import audit
    from genrekeras.runs.collection import TrainedCollection, train_collection

__all__ = ["TrainedCollection", "audit", "train_collection"]

_MODULE_OF = {
    "TrainedCollection": "runs.collection",
    "audit": "library.label_errors",
    "train_collection": "runs.collection",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'genrekeras.library' has no attribute {name!r}")
    return getattr(importlib.import_module(f"genrekeras.{_MODULE_OF[name]}"), name)
