"""Load a folder of music that has one folder per genre."""

import os
import warnings
from collections.abc import Sequence
from typing import Literal

import pandas as pd
from genrekeras import audio
from genrekeras.datasets.prepare import as_dataset, prepare
from genrekeras.datasets.splits import Dataset, Split
from genrekeras.datasets.store import Store
from genrekeras.utils.io import StrPath, cache_dir, files_below
from genrekeras.utils.logging import only_absl_errors
from genrekeras.utils.progress import print_message


class MusicFolder(Store):
    """TFDS dataset of a folder of music."""

    DESCRIPTION = "A folder of music with one folder per genre."


def load_folder(
    data_dir: StrPath,
    protocol: Literal["artist_album", "random"] = "artist_album",
    sample_rate: int = 22050,
    seed: int = 0,
    prepared_dir: StrPath | None = None,
    beam_options: Sequence[str] | None = None,
) -> Dataset[Split]:
    """Load a folder of music that has one folder per genre.

    A file has the path `data_dir/GENRE/file`, `data_dir/GENRE/ALBUM/file` or `data_dir/GENRE/ARTIST/ALBUM/file`. The
    genres are sorted by name. The folder of a file is the album of the file. If a folder in the folder of a genre
    contains other folders, it is an artist. Artists of the same name in several genres are the same artist.

    The first call decodes all files and stores them, like `load_fma`. Nothing is written to `data_dir`. Files that
    cannot be decoded or are shorter than 2 s are left out. A warning counts and lists these files.

    Args:
        data_dir: the folder. The files may have all formats that `genrekeras.audio` reads.
        protocol: see `genrekeras.datasets.splits.assign_splits`. `"artist_album"` assigns about 80 % of each genre to
            training, 10 % to validation and 10 % to test. All files of an artist or album are in the same split.
            `"random"` assigns 80 % of each genre to training. The other 20 % are both the validation and the test split
            (the protocol of the PyTorch system of 2023).
        sample_rate: `> 0`, in Hz, sample rate of the stored clips.
        seed: seed of the random assignment to splits.
        prepared_dir: folder for the stored clips. A minute at 22,050 Hz needs 2.6 MB before compression. `None` is a
            folder in `genrekeras.utils.io.cache_dir()`.
        beam_options: see `load_fma`.

    Returns:
        The `track_id` of a file is its index in the sorted list of all files. The table `tracks` of a split
        contains the paths of the files.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there are fewer than two genres, no file can be decoded, or an argument is out of range.
        OSError: `prepared_dir` cannot be written, or the disk has too little free space.
    """
    tracks = find_files(data_dir)
    genres = tuple(dict.fromkeys(tracks["genre"]))
    data_dir = os.path.abspath(data_dir)
    prepared_dir = os.path.join(cache_dir(), "folders") if prepared_dir is None else prepared_dir
    with only_absl_errors():
        builder = prepare(MusicFolder, tracks, genres, "folder", sample_rate, protocol, prepared_dir, beam_options)
    print_message(f"The decoded clips of {data_dir} are stored in {builder.data_dir}")
    return as_dataset(builder, tracks, genres, os.path.basename(data_dir), protocol, seed, data_dir)


def find_files(data_dir: StrPath) -> pd.DataFrame:
    """Find the audio files in a folder that has one folder per genre.

    Folders and links that cannot be opened are skipped. A warning counts them.

    Args:
        data_dir: the folder.

    Returns:
        A table with a row for each file, indexed by `track_id`, sorted by genre and name. The columns are `genre`,
        the columns of `file_columns`, `title` (the file name without extension), `artist`, `artist_id`, `album` and
        `album_id`.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: there are fewer than two genres.
    """
    data_dir = os.fspath(data_dir)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` is not a folder. Received: data_dir={data_dir!r}")
    files, unreadable = files_below(data_dir)
    names: list[str] = []
    without_genre: list[str] = []
    for name in files:
        if os.path.splitext(name)[1].lower() in audio.EXTENSIONS:
            (names if "/" in name else without_genre).append(name)
    if unreadable:
        warnings.warn(
            f"{data_dir}: {len(unreadable)} folders or links cannot be opened (the first: {unreadable[0]}). These are "
            "left out.",
            stacklevel=3,
        )
    genres = dict.fromkeys(name.split("/")[0] for name in names)
    if len(genres) < 2:
        raise ValueError(
            f"{data_dir} must contain at least two folders with audio files, one per genre. "
            f"Received: {list(genres) or 'no folder with audio files'}. If the genres are in the tags of the files, "
            "use `load_tagged`, or the option `--labels tags` of the commands `train` and `audit`."
        )
    if without_genre:
        warnings.warn(
            f"{data_dir}: {len(without_genre)} audio files are not in the folder of a genre (the first: "
            f"{without_genre[0]}). These files are left out.",
            stacklevel=3,
        )
    # A folder in the folder of a genre is an artist if it contains folders: "GENRE/ARTIST/ALBUM/file".
    artists = {tuple(name.split("/")[:2]) for name in names if name.count("/") > 2}
    rows = [_row(data_dir, name, artists) for name in names]
    # The dtype is object because the string type of pandas does not support names that are not UTF-8.
    tracks = pd.DataFrame(rows, dtype=object).rename_axis("track_id").astype({"bytes": "int64"})
    for column in ("artist", "album"):
        tracks[f"{column}_id"] = pd.factorize(tracks.pop(f"{column}_key"))[0]
    return tracks


def _row(data_dir, name, artists):
    """Return the row of a file as a dict.

    Args:
        data_dir: str.
        name: str, path of the file relative to `data_dir`, separated by "/".
        artists: set of tuples (genre, artist) of the folders that are artists.
    """
    genre, *folders, file = name.split("/")
    path = os.path.join(data_dir, *name.split("/"))
    # The artist of a file without a folder of an artist or album is unknown. The file gets an album of its own.
    first_folder = "/".join([genre, *folders[:1]])
    return {
        "genre": displayed(genre),
        **file_columns(path),
        "title": displayed(os.path.splitext(file)[0]),
        "artist": displayed(folders[0]) if folders else "",
        "album": displayed("/".join(folders)),
        "artist_key": (folders[0] if (genre, folders[0]) in artists else first_folder) if folders else None,
        "album_key": "/".join([genre, *folders]) if folders else path,
    }


def file_columns(path: str) -> dict[str, str | int]:
    """Return the columns of a table of tracks that identify the content of a file.

    Returns:
        `path`, `bytes` (size of the file, -1 for a broken link) and `changed` (modification time and path without
        links).
    """
    try:
        status = os.stat(path)
    except OSError:
        return {"path": path, "bytes": -1, "changed": ""}
    return {"path": path, "bytes": status.st_size, "changed": f"{status.st_mtime_ns} {os.path.realpath(path)}"}


def displayed(name: str) -> str:
    """Replace the bytes in a file name that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
