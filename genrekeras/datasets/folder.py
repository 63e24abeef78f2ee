"""Load a folder of music that has one folder per genre."""

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
    """TFDS dataset of a folder of music."""

    DESCRIPTION = "A folder of music with one folder per genre."


def load_folder(data_dir, protocol="artist_album", sample_rate=22050, seed=0, prepared_dir=None, beam_options=None):
    """Load a folder of music with one folder per genre: `data_dir/GENRE/.../file`.

    The genres are the names of the folders, sorted. They may contain folders of artists and albums. The folder that
    contains a file is an album. The first folder below the genre is an artist if it contains folders; artists of the
    same name in several genres are the same artist.

    Files are decoded once and stored, as by `load_fma`. Files that cannot be decoded, or that are shorter than 2 s, are
    left out, counted and named in one warning. Nothing is written to `data_dir`.

    Args:
        data_dir: str or path-like. Files may have any format that `genrekeras.audio` reads.
        protocol: `"artist_album"`, about 80/10/10 in each genre, with each artist and album in one split; or
            `"random"`, 80/20 at random within each genre, as in the 2023 system. See
            `genrekeras.datasets.splits.assign_splits`.
        sample_rate: int > 0, in Hz, at which clips are stored.
        seed: int, seed of the random assignment to splits.
        prepared_dir: str or path-like, folder for the decoded clips (2.6 MB per minute at 22,050 Hz, before
            compression); `None` is a folder in `genrekeras.utils.io.cache_dir()`.
        beam_options: as in `load_fma`.

    Returns:
        `Dataset`. A `track_id` is the position of a file in the sorted list of names; the table `tracks` of a split
        contains the paths.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there are fewer than two genres, no file can be decoded, or an argument is out of range.
        OSError: `prepared_dir` cannot be written, or its disk has too little free space.
    """
    tracks = find_files(data_dir)
    genres = tuple(dict.fromkeys(tracks["genre"]))
    data_dir = os.path.abspath(data_dir)
    prepared_dir = os.path.join(cache_dir(), "folders") if prepared_dir is None else prepared_dir
    with only_absl_errors():
        builder = prepare(MusicFolder, tracks, genres, "folder", sample_rate, protocol, prepared_dir, beam_options)
    print_message(f"The decoded clips of {data_dir} are stored in {builder.data_dir}")
    return as_dataset(builder, tracks, os.path.basename(data_dir), protocol, seed, data_dir)


def find_files(data_dir):
    """Find the audio files in a folder with one folder per genre.

    Folders and links that cannot be opened are skipped, with one warning.

    Args:
        data_dir: str or path-like.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted by genre and name, with the columns `genre`, `path`, `bytes`
        (-1 for a broken link), `changed` (modification time and folder), `folder` (the genre), `title` (the name of the
        file), `artist`, `artist_id`, `album` and `album_id`.

    Raises:
        FileNotFoundError, ValueError: as `load_folder`.
    """
    data_dir = os.fspath(data_dir)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` is not a folder. Received: data_dir={data_dir!r}")
    files, unreadable = files_below(data_dir)
    names, without_genre = [], []
    for name in files:
        if os.path.splitext(name)[1].lower() in audio.EXTENSIONS:
            (names if "/" in name else without_genre).append(name)
    if unreadable:
        warnings.warn(
            f"{data_dir}: {len(unreadable)} folders or links cannot be opened (the first: {unreadable[0]}). They are "
            "left out.",
            stacklevel=3,
        )
    genres = dict.fromkeys(name.split("/")[0] for name in names)
    if len(genres) < 2:
        raise ValueError(
            f"{data_dir} must contain at least two folders with audio files, one per genre. "
            f"Received: {list(genres) or 'no folder with audio files'}"
        )
    if without_genre:
        warnings.warn(
            f"{data_dir}: {len(without_genre)} audio files are not in the folder of a genre (the first: "
            f"{without_genre[0]}). They are left out.",
            stacklevel=3,
        )
    # A folder that contains folders is an artist, shared by all genres. A folder of files is an album of one genre.
    artists = {tuple(name.split("/")[:2]) for name in names if name.count("/") > 2}
    rows = [_row(data_dir, name, artists) for name in names]
    # The dtype is object because strings of pandas cannot hold a name that is not UTF-8.
    tracks = pd.DataFrame(rows, dtype=object).rename_axis("track_id").astype({"bytes": "int64"})
    for column in ("artist", "album"):
        tracks[f"{column}_id"] = pd.factorize(tracks.pop(f"{column}_key"))[0]
    return tracks


def _row(data_dir, name, artists):
    """Return the row of a file as a dict.

    Args:
        data_dir: str.
        name: str, the file relative to `data_dir`, with "/".
        artists: set of (genre, name of a folder that is an artist).
    """
    genre, *folders, file = name.split("/")
    path = os.path.join(data_dir, *name.split("/"))
    try:
        status = os.stat(path)
        size, changed = status.st_size, f"{status.st_mtime_ns} {os.path.realpath(data_dir)}"
    except OSError:  # a broken link
        size, changed = -1, ""
    # A file directly in the folder of its genre is its own artist and album.
    first = "/".join([genre, *folders[:1]])
    return {
        "genre": _text(genre),
        "path": path,
        "bytes": size,
        "changed": changed,
        "folder": _text(genre),
        "title": _text(os.path.splitext(file)[0]),
        "artist": _text(folders[0]) if folders else "",
        "album": _text("/".join(folders)),
        "artist_key": (folders[0] if (genre, folders[0]) in artists else first) if folders else path,
        "album_key": "/".join([genre, *folders]) if folders else path,
    }


def _text(name):
    """Return a file name in which bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")
