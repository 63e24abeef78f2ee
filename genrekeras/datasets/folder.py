"""One's own music: a folder with one folder a genre."""

import os
import warnings

import pandas as pd
from genrekeras import audio
from genrekeras.datasets.prepare import as_dataset, prepare
from genrekeras.datasets.store import Store
from genrekeras.utils.io import cache_dir, files_below
from genrekeras.utils.logging import only_absl_errors
from genrekeras.utils.progress import print_message


class MusicFolder(Store):
    """A folder of music as a TFDS dataset."""

    DESCRIPTION = "A folder of music with one folder a genre."


def load_folder(data_dir, protocol="artist_album", sample_rate=22050, seed=0, prepared_dir=None, beam_options=None):
    """Music of one's own: `data_dir/GENRE/.../file`, in any format that libsndfile reads.

    The genres are the names of the folders, sorted. Below them may be more folders: the one that holds a file is taken
    for an album, the first one, if it holds folders, for an artist (the same in all genres), and what lies in one of
    them stays in one split.
    Files are decoded once and stored, as by `load_fma`; those that cannot be read, or that are shorter than 2 s, are
    left out, named in one warning and counted. Nothing is written to `data_dir`.

    Args:
        data_dir: str or path-like.
        protocol: `"artist_album"`, some 80/10/10 by lot with whole artists and albums, as even in genres as these
            allow; or `"random"`, 80/20 by lot within each genre, as in 2023. See `genrekeras.datasets.splits.assign_splits`.
        sample_rate: int > 0, in Hz, at which clips are stored.
        seed: int, of the lots.
        prepared_dir: str or path-like, where to store the decoded clips (2.6 MB a minute at 22,050 Hz, before
            compression); `None` is a folder in the user's cache (or in the environment variable GENREKERAS_CACHE).
        beam_options: as in `load_fma`.

    Returns:
        `Dataset`. A `track_id` is the place of a file in the order of their names; `tracks` of a split tell the paths.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: fewer than two genres, or not one file that can be read.
        OSError: `prepared_dir` cannot be written, or its disk has too little room.
    """
    tracks = find_files(data_dir)
    genres = tuple(dict.fromkeys(tracks["genre"]))
    data_dir = os.path.abspath(data_dir)
    prepared_dir = os.path.join(cache_dir(), "folders") if prepared_dir is None else prepared_dir
    with only_absl_errors():
        builder = prepare(MusicFolder, tracks, genres, "own", sample_rate, protocol, prepared_dir, beam_options)
    print_message(f"The decoded clips of {data_dir} are in {builder.data_dir}")
    return as_dataset(builder, tracks, os.path.basename(data_dir), protocol, seed, data_dir)


def find_files(data_dir):
    """Find the audio files in a folder with one folder per genre.

    Folders and links that cannot be opened are skipped, with one warning.

    Args:
        data_dir: str or path-like.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, in the order of genres and names, with `genre`, `path`, `bytes` (-1: a
        link to nowhere), `changed` (when, and in which folder), `folder` (the genre), `title` (the file's name),
        `artist`, `artist_id`, `album`, `album_id`.

    Raises:
        FileNotFoundError, ValueError: as `load_folder`.
    """
    data_dir = os.fspath(data_dir)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` is not a folder. Received: data_dir={data_dir!r}")
    found, closed = files_below(data_dir)
    names, strange = [], []
    for name in found:
        extension = os.path.splitext(name)[1].lower()
        if extension in audio.EXTENSIONS and "/" in name:
            names.append(name)
        elif extension in audio.EXTENSIONS:
            strange.append(name)
    if closed:
        warnings.warn(
            f"{data_dir}: {len(closed)} folders or links cannot be opened (the first: {closed[0]}). They are left out.",
            stacklevel=3,
        )
    genres = dict.fromkeys(name.split("/")[0] for name in names)
    if len(genres) < 2:
        raise ValueError(
            f"{data_dir} must hold at least two folders with audio files, one a genre. "
            f"Received: {list(genres) or 'no folder with audio files'}"
        )
    if strange:
        warnings.warn(
            f"{data_dir}: {len(strange)} audio files are not in the folder of a genre (the first: {strange[0]}). They "
            "are left out.",
            stacklevel=3,
        )
    # A folder of folders is an artist, and the same in two genres; one of files only is an album, of one genre.
    artists = {tuple(name.split("/")[:2]) for name in names if name.count("/") > 2}
    rows = [_row(data_dir, name, artists) for name in names]
    # Of type object: pandas' strings cannot hold a name that is not UTF-8.
    rows = pd.DataFrame(rows, dtype=object).rename_axis("track_id").astype({"bytes": "int64"})
    for column in ("artist", "album"):
        rows[f"{column}_id"] = pd.factorize(rows.pop(f"{column}_key"))[0]
    return rows


def _row(data_dir, name, artists):
    genre, *folders, file = name.split("/")
    path = os.path.join(data_dir, *name.split("/"))
    try:
        status = os.stat(path)
        count, changed = status.st_size, f"{status.st_mtime_ns} {os.path.realpath(data_dir)}"
    except OSError:  # a link to nowhere
        count, changed = -1, ""
    alone = path  # a file that lies in no folder below its genre
    first = "/".join([genre, *folders[:1]])
    return {
        "genre": _text(genre),
        "path": path,
        "bytes": count,
        "changed": changed,
        "folder": _text(genre),
        "title": _text(os.path.splitext(file)[0]),
        "artist": _text(folders[0]) if folders else "",
        "album": _text("/".join(folders)),
        "artist_key": (folders[0] if (genre, folders[0]) in artists else first) if folders else alone,
        "album_key": "/".join([genre, *folders]) if folders else alone,
    }


def _text(name):
    """A file's name without bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
