"""Read and write the genre in the tags of audio files, where music players look for it."""

import contextlib
import io
import os
import shutil
import stat
import unicodedata

import mutagen
from genrekeras import audio
from genrekeras.utils.io import atomic_write
from mutagen.aiff import AIFF
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TCO, TCON, Frame, Frames, ID3JunkFrameError, ID3NoHeaderError
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE


class TagError(ValueError):
    """The tags of a file cannot be read or written. The file is unchanged.

    Attributes:
        path: str, the file.
        reason: str.
    """

    def __init__(self, path, reason):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


class _GenreFrame:
    """Parser of the genre frame of an ID3 tag. Compressed frames are rejected: a small one may expand to gigabytes."""

    @staticmethod
    def _fromData(header, flags, data):
        if flags & (Frame.FLAG23_COMPRESS | Frame.FLAG24_COMPRESS):
            raise ID3JunkFrameError("a compressed genre")
        return TCON._fromData(header, flags, data)


class _KnownFrames(dict):
    """The ID3 frames that mutagen parses: only the genre. It keeps all other frames byte for byte."""

    def __contains__(self, name):  # mutagen counts known names to recognize frame sizes that iTunes wrote wrongly
        return name in Frames


_RAW_FRAMES = {"known_frames": _KnownFrames(TCON=_GenreFrame, TCO=TCO), "translate": False, "load_v1": False}


def _with_raw_frames(kind):
    class Kind(kind):
        def load(self, *args, **options):
            super().load(*args, **options, **_RAW_FRAMES)

    Kind.__name__ = kind.__name__  # mutagen sorts by it
    return Kind


_KINDS = [FLAC, OggVorbis, OggOpus, OggFLAC, MP4, ASF, *map(_with_raw_frames, (MP3, WAVE, AIFF))]


def read_genres(path):
    """Return the genres in the tags of a file.

    In an mp3 file, the ID3v2 tag is read, or the ID3v1 tag if there is no ID3v2 tag.

    Args:
        path: str or path-like: mp3, flac, ogg, opus, m4a, wma, wav or aiff.

    Returns:
        list of str; empty if there are none.

    Raises:
        TagError: the file is missing or damaged, or its format has no known tags.
    """
    return _genres(_opened(path))


def write_genre(path, genre, copy=None):
    """Replace the genres in the tags of a file by one genre.

    Everything else is kept: the audio, all other tags, pictures, the version of an ID3 tag, owner, group, permissions
    and extended attributes. The modification time changes. ID3v1 and APEv2 tags at the end of an mp3 file and the INFO
    list of a wav file are not changed, so they keep their genre. If an mp3 file has only an ID3v1 tag, an ID3v2.4 tag
    with the same fields is added. If the path is a symbolic link, its target is tagged. A file whose only genre is this
    one is not written.

    The tags are written to a copy in the same folder. The copy replaces the file only if the decoded audio and the
    other tags of both are equal, and the genre reads back. After an interruption, the file is the old or the new one.

    Args:
        path: str or path-like: mp3, flac, ogg, opus, m4a, wma, wav or aiff.
        genre: str, not empty and without control characters, such as a newline.
        copy: str or path-like, path for a copy of the original file, or `None`. An existing copy is not replaced: it is
            older.

    Raises:
        TagError: the genre is invalid, or the file is unchanged because it
            - is missing, damaged or read-only, or its format has no known tags;
            - cannot be decoded, so that the audio cannot be compared (m4a and wma files need an installed ffmpeg);
            - has more than one hard link: the other names would still refer to the old file;
            - has an ID3v2.2 tag, which mutagen can only convert to another version, or damaged Vorbis comments;
            - belongs to a user or group that the new file cannot be given to;
            - was changed by another program at the same time.
    """
    path = os.path.realpath(path)
    if not genre.strip() or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in genre):
        raise TagError(path, f"`genre` must be non-empty text without control characters. Received: genre={genre!r}")
    try:
        _replace(path, genre, copy)
    except TagError as error:
        raise TagError(path, error.reason) from error  # it may name the temporary file
    except audio.AudioError as error:
        raise TagError(path, f"its audio cannot be decoded and compared: {error.reason}") from error
    except OSError as error:
        raise TagError(path, f"its tags cannot be written: {error}") from error


def _replace(path, genre, copy):
    identity = _identity(path)
    if read_genres(path) == [genre]:
        return
    if os.stat(path).st_nlink > 1:
        raise TagError(path, "it has more than one hard link. Tag a copy of it instead")
    if not os.access(path, os.W_OK):
        raise TagError(path, "its tags cannot be written: the file is read-only")
    sound = audio.checksum(path)
    with atomic_write(path) as temporary:
        _copy(path, temporary)
        other_tags = _write(path, temporary, genre)
        if audio.checksum(temporary) != sound:
            raise TagError(path, "its audio would change, probably because the sizes in its header are wrong")
        written = _opened(temporary)
        if _genres(written) != [genre]:
            raise TagError(path, f"the genre {genre!r} would read back as {_genres(written)}")
        if _other_tags(written) != other_tags:
            raise TagError(path, "its other tags would change")
        if copy is not None and not os.path.exists(copy):
            with atomic_write(copy) as kept:
                _copy(path, kept)
        if _identity(path) != identity:
            raise TagError(path, "another program changed it at the same time")


@contextlib.contextmanager
def _mutagen_errors(path, what):
    """Convert errors of mutagen to `TagError`; on damaged files, it raises errors of many types."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, (OSError, mutagen.MutagenError))
        reason = str(error) if known else f"the file is damaged ({error!r})"
        raise TagError(path, f"{what}: {reason or 'the file is damaged or cut short'}") from error


def _opened(path):
    with _mutagen_errors(path, "its tags cannot be read"):
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        file = mutagen.File(path, options=_KINDS) if is_regular else None
        if isinstance(file, MP3) and file.tags is None:
            with contextlib.suppress(ID3NoHeaderError):
                file.tags = ID3(path)  # the fields of an ID3v1 tag
    if file is None:
        raise TagError(path, "a kind of file whose tags are not known")
    return file


def _genre_key(file):
    return "\xa9gen" if isinstance(file, MP4) else "WM/Genre" if isinstance(file, ASF) else "genre"


def _genres(file):
    if isinstance(file.tags, ID3):
        return [genre for frame in file.tags.getall("TCON") for genre in frame.genres]
    return [str(genre) for genre in (file.tags or {}).get(_genre_key(file), [])]


def _other_tags(file):
    """Return the tags of a file for comparison; of ID3 tags, all but the genre."""
    if isinstance(file.tags, ID3):
        return file.tags.version[:2], file.tags.unknown_frames
    tags = file.tags or {}
    return {key: tags[key] for key in tags.keys()}, getattr(file, "pictures", [])


def _write(path, temporary, genre):
    """Write a genre into a copy of a file. Return the `_other_tags` that the copy must have."""
    file = _opened(temporary)
    with _mutagen_errors(path, "its tags cannot be written"):
        if file.tags is None:
            file.add_tags()
        if isinstance(file.tags, ID3):
            return _write_id3(path, temporary, file, genre)
        size = getattr(file.tags, "_size", 0)  # of Vorbis comments as they were read
        if size and size != len(file.tags.write(framing=isinstance(file, OggVorbis))):
            raise mutagen.MutagenError("some of its Vorbis comments are not UTF-8, or have no name, and would change")
        file.tags[_genre_key(file)] = [genre]
        file.save()
        return _other_tags(file)


def _write_id3(path, temporary, file, genre):
    tags = file.tags
    if tags.version[:2] == (2, 2):
        raise mutagen.MutagenError("it has an ID3v2.2 tag. Convert it to ID3v2.3 or ID3v2.4 with a tag editor first")
    minor = 3 if tags.version[:2] == (2, 3) else 4
    if tags.f_unsynch and minor == 4:  # mutagen clears this flag of the tag and keeps that of each frame
        flag = Frame.FLAG24_UNSYNCH
        tags.unknown_frames = [frame[:9] + bytes([frame[9] | flag]) + frame[10:] for frame in tags.unknown_frames]
    tags.setall("TCON", [TCON(encoding=3, text=[genre])])
    if not isinstance(file, MP3):
        file.save(v2_version=minor)
        return _other_tags(file)
    # mutagen would write the ID3v1 tag at the end of the file anew, from the frames that it has parsed.
    tag = io.BytesIO()
    tags.save(tag, v2_version=minor, padding=lambda info: 1024)
    with open(path, "rb") as old, open(temporary, "wb") as new:
        new.write(tag.getvalue())
        old.seek(tags.size)
        shutil.copyfileobj(old, new)
    return _other_tags(file if tags.version[0] == 2 else _opened(temporary))  # ID3v1: there are no frames to compare


def _copy(path, to):
    """Copy a file with its owner, group, permissions, times and extended attributes."""
    os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(path, to)
    status = os.stat(path)
    if _attributes(path)[:2] != _attributes(to)[:2]:
        with contextlib.suppress(OSError):
            os.chown(to, status.st_uid, status.st_gid)
    shutil.copystat(path, to)
    if _attributes(path) != _attributes(to):
        raise TagError(path, "its owner, group, permissions or extended attributes cannot be given to a new file")


def _attributes(path):
    status = os.stat(path)
    try:
        names = os.listxattr(path)
    except (AttributeError, OSError):  # not on this system, or not in this file system
        names = []
    attributes = {name: os.getxattr(path, name) for name in names}
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), attributes


def _identity(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
