"""Write genres into the tags of audio files, and restore the old bytes."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from genrekeras.tags.containers import blocks
from genrekeras.tags.fingerprint import fingerprint
from genrekeras.tags.formats import write_copy
from genrekeras.tags.patch import Hunk, diff, restored, sha256
from genrekeras.tags.reading import TagError, key, mutagen_errors, open_tags, values
from genrekeras.tags.replacement import check_replaceable, replacement
from genrekeras.utils.io import StrPath
from mutagen.apev2 import APEv2File
from mutagen.asf import ASF
from mutagen.id3 import ID3
from mutagen.mp4 import MP4


class Change(NamedTuple):
    """A change of the genres of a file, from which the old file can be restored.

    Attributes:
        path: absolute path of the file, without symbolic links.
        old: genres of the old file.
        new: genres of the new file.
        audio: SHA-256 of the encoded audio, which is the same in both files.
        before: SHA-256 of the old file.
        after: SHA-256 of the new file.
        hunks: the parts of the file that are different, with the bytes of the old file.
    """

    path: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    audio: str
    before: str
    after: str
    hunks: tuple[Hunk, ...]


def check_genre(genre: str) -> None:
    """Raise `ValueError` if a genre cannot be written into tags."""
    if not genre.strip() or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in genre):
        raise ValueError(f"`genre` must be non-empty text without control characters. Received: genre={genre!r}")


def check_writable(path: StrPath) -> None:
    """Raise `TagError` if it is known in advance that genres cannot be written into the tags of a file.

    Args:
        path: see `write_genres`.
    """
    path = os.path.realpath(path)
    opened = open_tags(path)
    with mutagen_errors(path, "its tags cannot be written"):
        check_replaceable(path)
        fingerprint(opened)


def write_genres(
    path: StrPath, genres: Sequence[str], before_replacing: Callable[[Change], None] | None = None
) -> Change | None:
    """Replace the genres in the tags of a file.

    Several genres are written as several values: NUL-separated in an ID3v2 or APEv2 tag, and as several Vorbis
    comments, MP4 data atoms or ASF attributes.

    The encoded audio, the other tags, the pictures, the version of an ID3 tag, the owner, group, permissions and
    extended attributes of the file do not change. The modification time becomes the current time. If the file already
    has these genres, it is not written. If the path is a symbolic link, the target of the link is changed.

    An mp3 file may have ID3v1 or APEv2 tags at its end, a wav file may have an INFO list, and an m4a file may have a
    numeric genre (`gnre`). These are not changed. If an mp3 file has no ID3v2 tag, an ID3v2.4 tag is added. It gets the
    fields of an ID3v1 tag, and title, artist, album, track and year of an APEv2 tag.

    The genres are written into a copy in the same folder. The copy replaces the file only if the encoded audio and all
    other metadata of both are equal, if the genres can be read from the copy, and if the old file can be restored.
    After an interruption, the file is either unchanged or complete.

    Args:
        path: an mp3, flac, ogg, opus, m4a, wma, wav, aiff, wv, mpc or ape file.
        genres: at least one genre. A genre is non-empty text without control characters, such as a newline.
        before_replacing: function that is called when the copy is complete and checked. If it raises an exception, the
            file stays as it is.

    Returns:
        The change, from which `restore` restores the file. `None` if the file already has the genres.

    Raises:
        TagError: a genre is invalid, or the file cannot be tagged for one of these reasons:

            - The file is missing, damaged or read-only, or its format is not supported.
            - The sizes in its header are wrong, so the place of the audio is not certain.
            - The file has more than one hard link. The other links would still refer to the old file.
            - The owner, group, permissions or extended attributes cannot be set for the new file.
            - Another program changed the file at the same time.
    """
    path = os.path.realpath(path)
    genres = [genres] if isinstance(genres, str) else list(genres)
    try:
        if not genres:
            raise ValueError("`genres` must contain at least one genre. Received: genres=[]")
        for genre in genres:
            check_genre(genre)
    except ValueError as error:
        raise TagError(path, str(error)) from error
    try:
        opened = open_tags(path)
        old = values(opened, "genre")
        if old == genres:
            return None
        with replacement(path) as new:
            change = _write(opened, new.path, old, genres)
            new.check()
            if before_replacing is not None:
                before_replacing(change)
        return change
    except TagError as error:
        raise TagError(path, error.reason) from error  # `error.path` may be the new file
    except OSError as error:
        raise TagError(path, f"its tags cannot be written: {error}") from error


def restore(change: Change) -> bool:
    """Restore the bytes of a file that `write_genres` changed.

    Owner, group, permissions and extended attributes are kept. The modification time becomes the current time.

    Args:
        change: result of `write_genres`.

    Returns:
        Whether the file was restored. It is false if the file has its old content already.

    Raises:
        TagError: the file is missing, it was changed after the genres were written, the change is damaged, or the file
            cannot be written.
    """
    path = change.path
    try:
        with open(path, "rb") as file:
            current = sha256(blocks(file))
        if current == change.before:
            return False
        if current != change.after:
            raise TagError(path, "it was changed after its genres were written, so it is left as it is")
        with replacement(path) as new:
            with open(path, "rb") as file, open(new.path, "wb") as target:
                for block in restored(file, change.hunks):
                    target.write(block)
            with open(new.path, "rb") as file:
                if sha256(blocks(file)) != change.before:
                    raise TagError(path, "its old tags cannot be restored, because the journal is damaged")
        return True
    except TagError:
        raise
    except (OSError, ValueError) as error:
        raise TagError(path, f"its old tags cannot be restored: {getattr(error, 'strerror', None) or error}") from error


def _write(opened, target, old, genres):
    """Write genres into a copy of a file, compare the copy with the file, and return the `Change`.

    Args:
        opened: the file, see `open_tags`.
        target: path of the copy, an empty file.
        old: genres of the file.
        genres: the new genres.
    """
    path = opened.filename
    with mutagen_errors(path, "its tags cannot be written"):
        expected = fingerprint(opened)
        write_copy(opened, target, genres)
    tagged = open_tags(target)
    if (written := values(tagged, "genre")) != genres:
        raise TagError(path, f"the genres {genres} would be read as {written}")
    with mutagen_errors(path, "its tags cannot be written"):
        found = fingerprint(tagged)
    if found.audio != expected.audio:
        raise TagError(path, "its audio would change")
    others = _other_tags(opened)
    if found.others != expected.others or (others is not None and _other_tags(tagged) != others):
        raise TagError(path, "its other tags would change")
    with open(path, "rb") as file, open(target, "rb") as new:
        hunks = diff(file, new)
        before = sha256(blocks(file))
        if sha256(restored(new, hunks)) != before:
            raise TagError(path, "its old tags could not be restored")
        return Change(path, tuple(old), tuple(genres), expected.audio, before, sha256(blocks(new)), tuple(hunks))


def _other_tags(opened):
    """Return the tags of a file except the genre, as values that can be compared. `None` if there are no tags.

    The result is also `None` for MP4, because the fingerprint contains all atoms.
    """
    tags = opened.tags
    if isinstance(tags, ID3):
        return (tags.version, tags.unknown_frames) if tags.version[0] == 2 else None
    if tags is None or isinstance(opened, MP4):
        return None
    genre = key(opened, "genre").lower()
    names = [name for name in tags.keys() if name.lower() != genre]
    if isinstance(opened, ASF):
        return {name: [(v.TYPE, v.value, v.language, v.stream) for v in tags[name]] for name in names}
    if isinstance(opened, APEv2File):
        return {name: (tags[name].kind, tags[name].value) for name in names}
    return tags.vendor, {name: tags[name] for name in names}
