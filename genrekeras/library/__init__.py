"""The music collection of a person: train on its genres, find wrong genres, write genres into tags and restore them."""

import importlib
from typing import TYPE_CHECKING, Any

from genrekeras.library.apply import AppliedTags, apply_tags, undo_tags
from genrekeras.library.journal import JournalError
from genrekeras.library.plan import plan_tags
from genrekeras.library.taxonomy import Taxonomy, TaxonomyError

if TYPE_CHECKING:  # These modules import the datasets, which takes seconds.
    from genrekeras.library.label_errors import audit
    from genrekeras.runs.collection import TrainedCollection, train_collection

__all__ = [
    "AppliedTags",
    "JournalError",
    "Taxonomy",
    "TaxonomyError",
    "TrainedCollection",
    "apply_tags",
    "audit",
    "plan_tags",
    "train_collection",
    "undo_tags",
]

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
