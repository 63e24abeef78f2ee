"""Write genres into the tags of a collection, and restore the old tags."""

from genrekeras.library.apply import AppliedTags, apply_tags, undo_tags
from genrekeras.library.journal import JournalError
from genrekeras.library.plan import plan_tags
from genrekeras.library.taxonomy import Taxonomy, TaxonomyError

__all__ = [
    "AppliedTags",
    "JournalError",
    "Taxonomy",
    "TaxonomyError",
    "apply_tags",
    "plan_tags",
    "undo_tags",
]
