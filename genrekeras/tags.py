"""The genre in a file's own tags, where players look for it."""

import os
import shutil

import mutagen
from genrekeras.files import whole_file
from mutagen.asf import ASF
from mutagen.id3 import ID3, TCON


class TagError(ValueError):
    """A file whose tags cannot be written; it is as it was.

    Attributes:
        path: str, the file.
        reason: str.
    """

    def __init__(self, path, reason):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


def read_genres(path):
    """The genres in a file's tags, list of str; empty if there are none.

    Raises:
        TagError: the file is missing or of a kind without tags.
    """
    file = _opened(path)
    if isinstance(file.tags, ID3):
        return [genre for frame in file.tags.getall("TCON") for genre in frame.genres]
    return [str(genre) for genre in (file.tags or {}).get("WM/Genre" if isinstance(file, ASF) else "genre", [])]


def write_genre(path, genre, copy=None):
    """Put a genre into a file's tags in place of those that are there; all else in the file stays.

    The tags are written to a copy beside the file, which then takes its place: a break leaves the old file or the new
    one.

    Args:
        path: str or path-like: mp3, flac, ogg, opus, m4a, wma, wav, aiff.
        genre: str.
        copy: str or path-like, where to keep the file as it was, or `None`. A copy that is there already stays: it is
            older.

    Raises:
        TagError: the file is missing, of a kind without tags, or cannot be written.
    """
    path = os.path.realpath(path)  # of a link, what it leads to
    _opened(path)
    try:
        if copy is not None and not os.path.exists(copy):
            with whole_file(copy) as temporary:
                shutil.copy2(path, temporary)
        with whole_file(path) as temporary:
            shutil.copy2(path, temporary)
            file = _opened(temporary)
            if file.tags is None:
                file.add_tags()
            if isinstance(file.tags, ID3):
                file.tags.setall("TCON", [TCON(encoding=3, text=[genre])])
            else:
                file.tags["WM/Genre" if isinstance(file, ASF) else "genre"] = [genre]
            file.save()
    except (OSError, mutagen.MutagenError) as error:
        raise TagError(path, f"its tags cannot be written: {error}") from error


def _opened(path):
    try:
        file = mutagen.File(path, easy=True)
    except (OSError, mutagen.MutagenError) as error:
        raise TagError(path, f"its tags cannot be read: {error}") from error
    if file is None:
        raise TagError(path, "a kind of file whose tags are not known")
    return file
