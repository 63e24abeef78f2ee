"""Read the tags of audio files."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mutagen
from genrekeras.audio.decoders import FileProblem
from genrekeras.tags.containers import mp4_atoms, read_part, riff_info
from genrekeras.utils.io import StrPath
from mutagen.aiff import AIFF
from mutagen.apev2 import TEXT, APENoHeaderError, APEv2, APEv2File
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.id3 import ID3, Frame, Frames, Frames_2_2, ID3JunkFrameError, ID3NoHeaderError
from mutagen.monkeysaudio import MonkeysAudio
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4, Atoms
from mutagen.musepack import Musepack
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE
from mutagen.wavpack import WavPack


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


class _Names(NamedTuple):
    """Names of a field in the formats of tags: ID3v2.3 and ID3v2.4, ID3v2.2, MP4, ASF, Vorbis comments, APEv2, INFO."""

    id3: str
    id3_2: str
    mp4: str
    asf: str
    vorbis: str
    ape: str
    info: str


_FIELDS = {
    "title": _Names("TIT2", "TT2", "\xa9nam", "Title", "title", "Title", "INAM"),
    "artist": _Names("TPE1", "TP1", "\xa9ART", "Author", "artist", "Artist", "IART"),
    "album": _Names("TALB", "TAL", "\xa9alb", "WM/AlbumTitle", "album", "Album", "IPRD"),
    "album_artist": _Names("TPE2", "TP2", "aART", "WM/AlbumArtist", "albumartist", "Album Artist", ""),
    "genre": _Names("TCON", "TCO", "\xa9gen", "WM/Genre", "genre", "Genre", "IGNR"),
}


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
        for names in map(_FIELDS.get, fields):
            self[names.id3], self[names.id3_2] = _Parser(Frames[names.id3]), Frames_2_2[names.id3_2]

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

    others = [FLAC, OggVorbis, OggOpus, OggFLAC, MP4, ASF, MonkeysAudio, Musepack, WavPack]
    return [*others, *map(with_raw_frames, (MP3, WAVE, AIFF))]


_GENRE_ONLY = _file_types("genre")
_ALL_FIELDS = _file_types(*_FIELDS)


def read_tags(path: StrPath) -> Tags:
    """Return the title, the artist, the album and the genres in the tags of a file.

    Args:
        path: see `read_genres`.

    Raises:
        TagError: the file is missing or damaged, or its format is not supported.
    """
    file = open_tags(path, _ALL_FIELDS)
    first = {name: _first(file, name) for name in ("title", "artist", "album")}
    return Tags(**first, genres=values(file, "genre"))


def read_genres(path: StrPath) -> list[str]:
    """Return the genres in the tags of a file.

    If an mp3 file has no genre in an ID3v2 tag, its APEv2 tag is read, or else its ID3v1 tag unless it has an ID3v2
    tag. If a wav file has no genre in an ID3 tag, its INFO list is read.

    Args:
        path: an mp3, flac, ogg, opus, m4a, wma, wav, aiff, wv, mpc or ape file.

    Returns:
        The genres. The list is empty if the file has no genre.

    Raises:
        TagError: the file is missing or damaged, or its format is not supported.
    """
    return values(open_tags(path), "genre")


def read_album(path: StrPath) -> tuple[str, str]:
    """Return the album and the album artist in the tags of a file, or "" for a field that is missing.

    Args:
        path: see `read_genres`.

    Raises:
        TagError: the file is missing or damaged, or its format is not supported.
    """
    file = open_tags(path, _ALL_FIELDS)
    return _first(file, "album"), _first(file, "album_artist")


@contextlib.contextmanager
def mutagen_errors(path: StrPath, summary: str) -> Iterator[None]:
    """Context manager that converts the exceptions of mutagen to `TagError`.

    For damaged files, mutagen raises exceptions of many types.

    Args:
        path: the file, for the exception.
        summary: what failed, for the exception.
    """
    try:
        yield
    except TagError:
        raise
    except Exception as error:
        has_message = isinstance(error, (OSError, mutagen.MutagenError, ValueError))
        reason = getattr(error, "strerror", None) or str(error) if has_message else f"the file is damaged ({error!r})"
        raise TagError(path, f"{summary}: {reason or 'the file is damaged or cut short'}") from error


def open_tags(path: StrPath, file_types: Sequence[type[mutagen.FileType]] = _GENRE_ONLY) -> mutagen.FileType:
    """Open a file with mutagen.

    Args:
        path: the file.
        file_types: classes of files that are accepted.

    Raises:
        TagError: the file is missing or damaged, or its format is not supported.
    """
    with mutagen_errors(path, "its tags cannot be read"):
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        file: Any = mutagen.File(path, options=file_types) if is_regular else None
        if isinstance(file, MP3) and file.tags is None:
            with contextlib.suppress(ID3NoHeaderError):
                file.tags = ID3(path)  # type: ignore[assignment]  # mutagen also reads ID3v1 tags here
    if file is None:
        raise TagError(path, "tags of this file format are not supported")
    return file


def key(file: mutagen.FileType, field: str) -> str:
    """Return the name of a field, such as "genre", in the tags of a file that has no ID3 tag."""
    names = _FIELDS[field]
    for file_type, name in ((MP4, names.mp4), (ASF, names.asf), (APEv2File, names.ape)):
        if isinstance(file, file_type):
            return name
    return names.vorbis


def values(file: mutagen.FileType, field: str) -> list[str]:
    """Return the values of a field, such as "genre".

    Raises:
        TagError: the file is damaged.
    """
    with mutagen_errors(str(file.filename), "its tags cannot be read"):
        found = _values(file, field)
        if isinstance(file, MP3) and (not found or is_id3v1(file)):
            found = ape_values(str(file.filename), _FIELDS[field].ape) or found
        if isinstance(file, WAVE) and not found:
            with open(str(file.filename), "rb") as opened:
                text = riff_info(opened).get(_FIELDS[field].info, "")
            found = [text] if text.strip() else []
        return found


def is_id3v1(file: MP3) -> bool:
    """Return whether the only ID3 tag of an mp3 file is an ID3v1 tag."""
    return isinstance(file.tags, ID3) and file.tags.version[0] == 1


def ape_values(path: str, item: str) -> list[str]:
    """Return the values of an item, such as "Title", in the APEv2 tag of an mp3 file."""
    try:
        return _texts(APEv2(path).get(item))
    except APENoHeaderError:
        return []


def _values(file, field):
    """Return the values of a field in the main tag of a file."""
    if isinstance(file.tags, ID3):
        frames = file.tags.getall(_FIELDS[field].id3)
        return [str(value) for frame in frames for value in (frame.genres if field == "genre" else frame.text)]
    if not file.tags or isinstance(file, (MP3, WAVE, AIFF)):
        return []
    if isinstance(file, MP4) and field == "genre" and (texts := _mp4_genres(file)):
        return texts
    value = file.tags.get(key(file, field))
    return _texts(value) if isinstance(file, APEv2File) else [str(text) for text in value or ()]


def _texts(value):
    """Return the texts in an item of an APEv2 tag. The list is empty for `None` and for binary items."""
    return list(value) if value is not None and value.kind == TEXT else []


def _first(file, field):
    return next(iter(values(file, field)), "").strip()


def _mp4_genres(file):
    """Return the genres in text atoms. mutagen reads a numeric genre (`gnre`) too, although it may be older."""
    with open(str(file.filename), "rb") as opened:
        for atom in Atoms(opened).path(b"moov", b"udta", b"meta", b"ilst")[-1].children or ():
            if atom.name == _FIELDS["genre"].mp4.encode("latin-1"):
                data = mp4_atoms(opened, atom.offset + 8, atom.offset + atom.length)
                return [read_part(opened, part.data + 8, part.stop).decode("utf-8", "replace") for part in data]
    return []
