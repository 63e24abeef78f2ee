"""Read the tags of audio files, write the genre, and compare spellings of genres."""

import collections
import contextlib
import io
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import mutagen
from genrekeras import audio
from genrekeras.audio.decoders import FileProblem
from genrekeras.utils.io import StrPath, atomic_write
from mutagen.aiff import AIFF
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TCON, Frame, Frames, Frames_2_2, ID3JunkFrameError, ID3NoHeaderError
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE


class TagError(FileProblem, ValueError):
    """Exception for a file whose tags cannot be read or written. The file is not changed.

    Attributes:
        path: the file.
        reason: what is wrong with the file or the genre.
    """


class Tags(NamedTuple):
    """Tags of a file.

    Attributes:
        title, artist, album: the first value of each field, or "" if there is none.
        genres: all genres, as they are written in the file. The numbers of ID3 are replaced by names.
    """

    title: str
    artist: str
    album: str
    genres: list[str]


# Field -> ID3v2.3 and ID3v2.4 frame, ID3v2.2 frame, MP4 atom, ASF attribute, Vorbis comment.
_FIELDS = {
    "title": ("TIT2", "TT2", "\xa9nam", "Title", "title"),
    "artist": ("TPE1", "TP1", "\xa9ART", "Author", "artist"),
    "album": ("TALB", "TAL", "\xa9alb", "WM/AlbumTitle", "album"),
    "genre": ("TCON", "TCO", "\xa9gen", "WM/Genre", "genre"),
}
# Names of genres that contain a separator but are one genre, and names that mean no genre, by `spelling_key`.
_INDIVISIBLE = {"singer/songwriter", "folk,world,andcountry", "pop/funk"}
_NO_GENRES = {"", "other", "unknown", "none"}


class _Parser:
    """Parse a frame of an ID3 tag.

    Compressed frames are rejected, because a small compressed frame may expand to gigabytes.
    """

    def __init__(self, frame):
        self.frame = frame

    def _fromData(self, header, flags, data):
        if flags & (Frame.FLAG23_COMPRESS | Frame.FLAG24_COMPRESS):
            raise ID3JunkFrameError("the frame is compressed")
        return self.frame._fromData(header, flags, data)


class _KnownFrames(dict):
    """Table of the ID3 frames that mutagen parses. It contains only the frames of some fields.

    mutagen does not change the frames that are not in this table.
    """

    def __init__(self, *fields):
        for name, old_name, *_ in map(_FIELDS.get, fields):
            self[name], self[old_name] = _Parser(Frames[name]), Frames_2_2[old_name]

    def __contains__(self, name):
        # mutagen looks up names of frames to detect the wrong frame sizes that iTunes writes. All names must be known.
        return name in Frames


def _file_types(*fields):
    """Return subclasses of `mutagen.FileType` that parse only the frames of some fields of an ID3 tag."""
    options = {"known_frames": _KnownFrames(*fields), "translate": False, "load_v1": False}

    def with_raw_frames(file_type):
        class RawFrames(file_type):
            def load(self, *args, **kwargs):
                super().load(*args, **kwargs, **options)

        RawFrames.__name__ = file_type.__name__  # mutagen sorts file types by name
        return RawFrames

    return [FLAC, OggVorbis, OggOpus, OggFLAC, MP4, ASF, *map(with_raw_frames, (MP3, WAVE, AIFF))]


_FILE_TYPES = _file_types("genre")  # of files that are written
_READ_ONLY_FILE_TYPES = _file_types(*_FIELDS)


def read_tags(path: StrPath) -> Tags:
    """Return the title, the artist, the album and the genres in the tags of a file.

    Args:
        path: see `read_genres`.

    Raises:
        TagError: the file is missing or damaged, or its format is not supported.
    """
    file = _open(path, _READ_ONLY_FILE_TYPES)
    first = {name: next(iter(_values(file, name)), "").strip() for name in ("title", "artist", "album")}
    return Tags(**first, genres=_values(file, "genre"))


def read_genres(path: StrPath) -> list[str]:
    """Return the genres in the tags of a file.

    If an mp3 file has an ID3v2 tag and an ID3v1 tag, the ID3v2 tag is read.

    Args:
        path: an mp3, flac, ogg, opus, m4a, wma, wav or aiff file.

    Returns:
        The genres. The list is empty if the file has no genre.

    Raises:
        TagError: the file is missing or damaged, or its format is not supported.
    """
    return _values(_open(path), "genre")


def split_genres(values: Iterable[str]) -> list[str]:
    """Return the separate genres in the values of a genre field.

    Programs write several genres as several values, or as one value with separators. The rules are:

    - The separators are ";", NUL, "/" and ",": "Rock; Pop/Folk" contains three genres, and iTunes' "Hip-Hop/Rap" and
      "R&B/Soul" contain two each. "&", "-" and "+" do not separate: "Drum & Bass" is one genre.
    - "Singer/Songwriter" (iTunes), "Folk, World, & Country" (Discogs) and "Pop/Funk" (ID3) are one genre each.
    - The numbers of ID3, such as "(17)" or "17", are replaced by their names ("Rock").
    - "Other", "Unknown" and "None" are not genres. ID3 has numbers for the first two.
    - Spaces at the ends are removed, and other white space is one space. Repeated genres are removed. The letters are
      in the Unicode normalization form NFC.

    Args:
        values: such as `Tags.genres`.
    """
    parts = list(values)
    for separators in (";\0", ",", "/"):
        parts = [
            piece
            for part in parts
            for piece in ([part] if spelling_key(part) in _INDIVISIBLE else re.split(f"[{separators}]", part))
        ]
    parts = [part.strip() for part in parts]
    names = [" ".join(unicodedata.normalize("NFC", name).split()) for name in TCON(encoding=3, text=parts).genres]
    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(spelling_key(name), name)
    return [name for key, name in by_key.items() if key not in _NO_GENRES]


def spelling_key(genre: str) -> str:
    """Return a text that is equal for different spellings of a genre.

    Case, spaces, hyphens and underscores are ignored, and "&" equals "and": "Hip Hop" and "hip-hop" are the same genre,
    and so are "Drum & Bass" and "drum and bass".
    """
    folded = unicodedata.normalize("NFKC", genre).casefold().replace("&", "and")
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) not in ("Pd", "Pc"))


def merge_spellings(genres: Iterable[str]) -> dict[str, str]:
    """Choose one spelling for each genre: the most frequent one. In case of a tie, it is the first in the alphabet.

    Args:
        genres: genres of all tracks. `spelling_key` says which are the same.

    Returns:
        Spelling -> chosen spelling.
    """
    counts = collections.Counter(genres)
    chosen: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        chosen.setdefault(spelling_key(name), name)
    return {name: chosen[spelling_key(name)] for name in counts}


def write_genre(path: StrPath, genre: str, copy: StrPath | None = None) -> None:
    """Replace the genres in the tags of a file by one genre.

    The audio, the other tags, the pictures, the version of an ID3 tag, the owner, group, permissions and extended
    attributes of the file do not change. The modification time changes. If the file already has this genre and no other
    genre, the file is not written. If the path is a symbolic link, the target of the link is changed.

    An mp3 file may have ID3v1 or APEv2 tags at its end, and a wav file may have an INFO list. These tags are not
    changed. If an mp3 file has only an ID3v1 tag, an ID3v2.4 tag with the same fields is added.

    The genre is written to a temporary copy in the same folder. The copy replaces the file only if the decoded audio
    and the other tags of both are equal, and if the copy has the new genre. After an interruption, the file is either
    unchanged or complete.

    Args:
        path: an mp3, flac, ogg, opus, m4a, wma, wav or aiff file.
        genre: not empty and without control characters, such as a newline.
        copy: path of a copy of the original file. An existing file at this path is kept, because it is an older
            original. `None` writes no copy.

    Raises:
        TagError: the genre is invalid, or the file cannot be tagged for one of these reasons:

            - The file is missing, damaged or read-only, or its format is not supported.
            - The audio cannot be decoded, so it cannot be compared. For m4a and wma files, ffmpeg must be installed.
            - The file has more than one hard link. The other links would still refer to the old file.
            - The file has an ID3v2.2 tag, which mutagen can only write as another version.
            - The file has damaged Vorbis comments, which mutagen would change.
            - The owner, group, permissions or extended attributes cannot be set for the new file.
            - Another program changed the file at the same time.
    """
    path = os.path.realpath(path)
    if not genre.strip() or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in genre):
        raise TagError(path, f"`genre` must be non-empty text without control characters. Received: genre={genre!r}")
    try:
        _replace(path, genre, copy)
    except TagError as error:
        raise TagError(path, error.reason) from error  # `error.path` may be the temporary file
    except audio.AudioError as error:
        raise TagError(path, f"its audio cannot be decoded and compared: {error.reason}") from error
    except OSError as error:
        raise TagError(path, f"its tags cannot be written: {error}") from error


def _replace(path, genre, copy):
    """Write a genre like `write_genre`. The path in an exception may be the path of the temporary file."""
    identity = _identity(path)
    if read_genres(path) == [genre]:
        return
    if os.stat(path).st_nlink > 1:
        raise TagError(path, "it has more than one hard link. Tag a copy of it instead")
    if not os.access(path, os.W_OK):
        raise TagError(path, "its tags cannot be written: the file is read-only")
    checksum = audio.checksum(path)
    with atomic_write(path) as temporary:
        _copy(path, temporary)
        other_tags = _write(path, temporary, genre)
        if audio.checksum(temporary) != checksum:
            raise TagError(path, "its audio would change, probably because the sizes in its header are wrong")
        tagged = _open(temporary)
        if (written := _values(tagged, "genre")) != [genre]:
            raise TagError(path, f"the genre {genre!r} would be read as {written}")
        if _other_tags(tagged) != other_tags:
            raise TagError(path, "its other tags would change")
        if copy is not None and not os.path.exists(copy):
            with atomic_write(copy) as temporary_copy:
                _copy(path, temporary_copy)
        if _identity(path) != identity:
            raise TagError(path, "another program changed it at the same time")


@contextlib.contextmanager
def _mutagen_errors(path, summary):
    """Context manager that converts the exceptions of mutagen to `TagError`.

    For damaged files, mutagen raises exceptions of many types.
    """
    try:
        yield
    except Exception as error:
        has_message = isinstance(error, (OSError, mutagen.MutagenError))
        reason = str(error) if has_message else f"the file is damaged ({error!r})"
        raise TagError(path, f"{summary}: {reason or 'the file is damaged or cut short'}") from error


def _open(path, file_types=_FILE_TYPES):
    """Open a file with mutagen. Return a `mutagen.FileType`."""
    with _mutagen_errors(path, "its tags cannot be read"):
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        file = mutagen.File(path, options=file_types) if is_regular else None
        if isinstance(file, MP3) and file.tags is None:
            with contextlib.suppress(ID3NoHeaderError):
                file.tags = ID3(path)  # mutagen also reads ID3v1 tags here
    if file is None:
        raise TagError(path, "tags of this file format are not supported")
    return file


def _key(file, field):
    """Return the name of a field in the tags of a file that has no ID3 tag."""
    *_, atom, attribute, comment = _FIELDS[field]
    return atom if isinstance(file, MP4) else attribute if isinstance(file, ASF) else comment


def _values(file, field):
    """Return the values of a field as a list of str."""
    if isinstance(file.tags, ID3):
        frames = file.tags.getall(_FIELDS[field][0])
        return [value for frame in frames for value in (frame.genres if field == "genre" else frame.text)]
    return [str(value) for value in (file.tags or {}).get(_key(file, field), [])]


def _other_tags(file):
    """Return the tags of a file as values that can be compared. The genre in an ID3 tag is left out."""
    if isinstance(file.tags, ID3):
        return file.tags.version[:2], file.tags.unknown_frames
    tags = file.tags or {}
    return {key: tags[key] for key in tags.keys()}, getattr(file, "pictures", [])


def _write(path, temporary, genre):
    """Write a genre into a copy of a file. Return the expected result of `_other_tags` for the copy."""
    file = _open(temporary)
    with _mutagen_errors(path, "its tags cannot be written"):
        if file.tags is None:
            file.add_tags()
        if isinstance(file.tags, ID3):
            return _write_id3(path, temporary, file, genre)
        size = getattr(file.tags, "_size", 0)  # size of the Vorbis comments in the file
        if size and size != len(file.tags.write(framing=isinstance(file, OggVorbis))):
            raise mutagen.MutagenError(
                "some of its Vorbis comments would change, because they have no name or are not UTF-8"
            )
        file.tags[_key(file, "genre")] = [genre]
        file.save()
        return _other_tags(file)


def _write_id3(path, temporary, file, genre):
    """Write a genre into the ID3 tag of a copy of a file. Return the expected result of `_other_tags` for the copy."""
    tags = file.tags
    if tags.version[:2] == (2, 2):
        raise mutagen.MutagenError("it has an ID3v2.2 tag. Convert it to ID3v2.3 or ID3v2.4 with a tag editor first")
    minor = 3 if tags.version[:2] == (2, 3) else 4
    if tags.f_unsynch and minor == 4:  # mutagen clears this flag of the tag, so it is set in each frame
        flag = Frame.FLAG24_UNSYNCH
        tags.unknown_frames = [frame[:9] + bytes([frame[9] | flag]) + frame[10:] for frame in tags.unknown_frames]
    tags.setall("TCON", [TCON(encoding=3, text=[genre])])
    if not isinstance(file, MP3):
        file.save(v2_version=minor)
        return _other_tags(file)
    # `file.save` would change the ID3v1 tag at the end of the file. Therefore, mutagen writes only the ID3v2 tag here.
    tag = io.BytesIO()
    tags.save(tag, v2_version=minor, padding=lambda info: 1024)
    with open(path, "rb") as old, open(temporary, "wb") as new:
        new.write(tag.getvalue())
        old.seek(tags.size)
        shutil.copyfileobj(old, new)
    return _other_tags(file if tags.version[0] == 2 else _open(temporary))  # an ID3v1 tag has no frames


def _copy(path, target):
    """Copy a file with its owner, group, permissions, times and extended attributes."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(path, target)
    status = os.stat(path)
    if _attributes(path)[:2] != _attributes(target)[:2]:
        with contextlib.suppress(OSError):
            os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(path, target)
    if _attributes(path) != _attributes(target):
        raise TagError(path, "its owner, group, permissions or extended attributes cannot be set for the new file")


def _attributes(path):
    """Return the owner, group, permissions and extended attributes of a file."""
    status = os.stat(path)
    try:
        names = os.listxattr(path)
    except (AttributeError, OSError):  # the operating system or the file system does not support extended attributes
        names = []
    attributes = {name: os.getxattr(path, name) for name in names}
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), attributes


def _identity(path):
    """Return values that change when another program replaces or changes the file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
