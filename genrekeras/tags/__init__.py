"""Read the tags of audio files, write genres, and compare spellings of genres."""

from genrekeras.tags.reading import TagError, Tags, read_album, read_genres, read_tags
from genrekeras.tags.spelling import merge_spellings, spelling_key, split_genres
from genrekeras.tags.writing import Change, check_genre, check_writable, restore, write_genres

__all__ = [
    "Change",
    "TagError",
    "Tags",
    "check_genre",
    "check_writable",
    "merge_spellings",
    "read_album",
    "read_genres",
    "read_tags",
    "restore",
    "spelling_key",
    "split_genres",
    "write_genres",
]
