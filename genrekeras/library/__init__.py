"""The music collection of a person: train on its genres, find wrong genres, write genres into tags and restore them."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from genrekeras.library.apply import AppliedTags, apply_tags, undo_tags
    from genrekeras.library.journal import JournalError
    from genrekeras.library.label_errors import audit
    from genrekeras.library.plan import plan_tags
    from genrekeras.library.taxonomy import Taxonomy, TaxonomyError
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

__getattr__, __dir__, _ = lazy_loader.attach(
    "genrekeras",
    submod_attrs={
        "library.apply": ["AppliedTags", "apply_tags", "undo_tags"],
        "library.journal": ["JournalError"],
        "library.label_errors": ["audit"],
        "library.plan": ["plan_tags"],
        "library.taxonomy": ["Taxonomy", "TaxonomyError"],
        "runs.collection": ["TrainedCollection", "train_collection"],
    },
)
