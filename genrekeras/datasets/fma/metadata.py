"""Find the tables and clips in a folder of FMA, and read the tables."""

import contextlib
import csv
import glob
import itertools
import os
import warnings

import numpy as np
import pandas as pd
from genrekeras.genres import GENRES
from genrekeras.utils.io import atomic_write

# Genres of each subset, in the order of their labels. The genres of fma_small have the same labels in all subsets.
ALL_GENRES = (
    *GENRES,
    "Blues",
    "Classical",
    "Country",
    "Easy Listening",
    "Jazz",
    "Old-Time / Historic",
    "Soul-RnB",
    "Spoken",
)
SUBSETS = {"small": GENRES, "medium": ALL_GENRES, "large": ALL_GENRES, "full": ALL_GENRES}
# Values of the column `subset` whose rows belong to a subset: each subset contains the smaller ones. `large` and `full`
# contain the same tracks, as clips of 30 s and in full length.
_CONTAINED_SUBSETS = {"small": ("small",), "medium": ("small", "medium")} | dict.fromkeys(
    ("large", "full"), ("small", "medium", "large")
)
_COLUMNS = {
    "subset": ("set", "subset"),
    "genre": ("track", "genre_top"),
    "split": ("set", "split"),
    "title": ("track", "title"),
    "artist": ("artist", "name"),
    "artist_id": ("artist", "id"),
    "album": ("album", "title"),
    "album_id": ("album", "id"),
    "license": ("track", "license"),
}
_REQUIRED = ("subset", "genre", "split")
_TFDS_SPLITS = {"training": "train", "validation": "validation", "test": "test"}


def is_fma(data_dir):
    """Return whether a folder has the layout of FMA; also True if the folder does not exist."""
    if not os.path.isdir(data_dir):
        return True
    if set(os.listdir(data_dir)) & {"train_labels.csv", "fma_metadata", *(f"fma_{subset}" for subset in SUBSETS)}:
        return True
    clips = os.path.join(glob.escape(os.fspath(data_dir)), "[0-9]" * 3, "[0-9]" * 6 + ".mp3")
    return any(map(os.path.isfile, glob.iglob(clips)))


def find_tracks(data_dir, subset, genres):
    """Return the table of the tracks of a subset, with the paths and sizes of their files.

    The table is `fma_metadata/tracks.csv`, `tracks.csv` or `train_labels.csv`, in `data_dir` or beside it. The clips
    are `fma_small/000/000002.mp3` etc. or `000/000002.mp3` etc. in `data_dir`. The folder of an archive may be nested
    in a folder of the same name. The clips of a subset may also be in the folder of a larger subset.

    Args:
        data_dir: str or path-like.
        subset: str, a key of `SUBSETS`.
        genres: sequence of str, the allowed genres.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted, with the columns `genre` (str), `path` (str), `bytes` (int, -1
        for a missing file), `folder` (int, thousands of the id) and, for tracks.csv, the other columns of
        `read_tracks`. A warning counts files without a row.

    Raises:
        FileNotFoundError: there is no folder, no table, or no clip.
        ValueError: the table has another format, or contains another genre.
    """
    data_dir = os.fspath(data_dir)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` is not a folder. Received: data_dir={data_dir!r}")
    table = find_table(data_dir)
    tracks = read_labels(table) if os.path.basename(table) == "train_labels.csv" else read_tracks(table, subset)
    unknown = sorted(set(tracks["genre"]) - set(genres))
    if unknown:
        raise ValueError(f"{table} contains genres that are not in {tuple(genres)}: {unknown[:5]}")

    audio_dir = _find_audio(data_dir, subset)
    sizes = _file_sizes(audio_dir)
    names = [f"{track_id // 1000:03d}/{track_id:06d}.mp3" for track_id in tracks.index]
    tracks["path"] = [os.path.join(audio_dir, *name.split("/")) for name in names]
    tracks["bytes"] = [sizes.pop(name, -1) for name in names]
    tracks["folder"] = tracks.index // 1000
    if (tracks["bytes"] < 0).all():
        raise FileNotFoundError(f"{audio_dir} contains no clip of the {len(tracks)} tracks in {table}.")
    without_row = sorted(name for name in sizes if name.endswith(".mp3") and "/." not in name)
    if without_row and os.path.basename(audio_dir) == f"fma_{subset}":  # otherwise it may be that of a larger subset
        warnings.warn(
            f"{audio_dir}: {len(without_row)} files have no row with a genre in {os.path.basename(table)} (the first: "
            f"{without_row[0]}). They are left out.",
            stacklevel=2,
        )
    return tracks


def read_tracks(path, subset="small"):
    """Read the rows of a subset from FMA's tracks.csv.

    Rows without a genre, a split or an id are left out, and a warning counts them. More than half of the tracks of
    `large` have no top genre.

    Args:
        path: str or path-like.
        subset: str, a key of `SUBSETS`.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted, with the columns `genre` (str), `split` ("train", "validation"
        or "test") and, if the file has them, `title`, `artist`, `artist_id`, `album`, `album_id` (ids are -1 if they
        are unknown) and `license`.

    Raises:
        ValueError: the file is not FMA's tracks.csv, or contains no track of the subset.
    """
    try:
        table = _read_columns(path)
    except (KeyError, ValueError, csv.Error) as error:  # parser errors of pandas are ValueErrors
        raise ValueError(f"{path} is not FMA's tracks.csv: {error}") from error
    _warn_if_cut(path)
    table = table[table["subset"].isin(_CONTAINED_SUBSETS[subset])]
    unusable = table["genre"].isna() | ~table["split"].isin(_TFDS_SPLITS) | ~_are_ids(table.index)
    if unusable.any():
        warnings.warn(
            f"{path}: {unusable.sum()} of {len(table)} rows of subset {subset!r} lack a genre, split or id. "
            "They are left out.",
            stacklevel=2,
        )
        table = table[~unusable]
    if table.empty:
        raise ValueError(f"{path} contains no track of subset {subset!r}.")
    tracks = table.drop(columns="subset").assign(split=table["split"].map(_TFDS_SPLITS))
    for column in tracks:
        if column.endswith("_id"):
            tracks[column] = pd.to_numeric(tracks[column], errors="coerce").fillna(-1).astype("int64")
        else:
            tracks[column] = tracks[column].fillna("").astype(str)
    return _indexed(tracks, path)


def read_labels(path):
    """Read a train_labels.csv of the 2023 system, a table with the columns `track_id` and `genre`.

    Args:
        path: str or path-like.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted, with the column `genre` (str).

    Raises:
        ValueError: the file is not such a table.
    """
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # parser errors of pandas are ValueErrors
        raise ValueError(f"{path} is not a table of track_id and genre: {error}") from error
    if not {"track_id", "genre"} <= set(table.columns) or table.empty:
        raise ValueError(f"{path} must have the columns track_id and genre, and rows. Received: {list(table.columns)}")
    if table[["track_id", "genre"]].isna().any(axis=None) or not _are_ids(table["track_id"]).all():
        raise ValueError(
            f"{path} contains rows without a genre, or with a track_id that is not an integer of at most six digits."
        )
    return _indexed(table.set_index("track_id")[["genre"]], path)


def write_labels(tracks, path):
    """Write a train_labels.csv, see `read_labels`.

    Args:
        tracks: `pandas.DataFrame` indexed by `track_id`, with the column `genre`, such as `read_tracks` returns.
        path: str or path-like.
    """
    with atomic_write(path) as temporary:
        tracks[["genre"]].to_csv(temporary, index_label="track_id")


def _read_columns(path):
    """Read the columns of `_COLUMNS` from tracks.csv. The three lines of its header name columns by group and field."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        names = list(zip(next(lines, ()), next(lines, ()), strict=False))
        if next(lines, [""])[0] != "track_id":
            raise ValueError("its third line does not start with track_id")
    missing = [_COLUMNS[column] for column in _REQUIRED if _COLUMNS[column] not in names]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
    columns = {names.index(name): column for column, name in _COLUMNS.items() if name in names}
    table = pd.read_csv(path, skiprows=3, header=None, usecols=[0, *columns], index_col=0, low_memory=False)
    return table.rename(columns=columns)[[column for column in _COLUMNS if column in columns.values()]]


def _warn_if_cut(path):
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            warnings.warn(f"{path} does not end with a line break: it may be cut short.", stacklevel=3)


def _are_ids(ids):
    """Return which values are integers from 0 to 999,999, as in the file names of FMA: `(n,)` bool."""
    numbers = pd.to_numeric(pd.Series(list(ids)), errors="coerce").to_numpy("float64")
    return (numbers >= 0) & (numbers <= 999_999) & (numbers == np.floor(numbers))


def _indexed(tracks, path):
    """Return a table sorted by its index, the track ids. Raise a `ValueError` if an id occurs twice."""
    tracks.index = pd.to_numeric(tracks.index).astype("int64").rename("track_id")
    if tracks.index.has_duplicates:
        raise ValueError(f"{path} contains a track twice: {tracks.index[tracks.index.duplicated()][0]}")
    return tracks.sort_index()


def find_table(data_dir):
    """Return the path of the table in a folder of FMA or beside it.

    Args:
        data_dir: str or path-like.

    Returns:
        str, path of a tracks.csv or train_labels.csv.

    Raises:
        FileNotFoundError: there is no table.
    """
    beside = os.path.dirname(os.path.abspath(data_dir))
    folders = [
        data_dir,
        os.path.join(data_dir, "fma_metadata"),
        os.path.join(data_dir, "fma_metadata", "fma_metadata"),
        os.path.join(beside, "fma_metadata"),
        beside,
    ]
    for folder in folders:
        for name in ("tracks.csv", "train_labels.csv"):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
    raise FileNotFoundError(
        f"There is no tracks.csv or train_labels.csv in {data_dir}, in its folder fma_metadata, or beside it. "
        "FMA's fma_metadata.zip contains tracks.csv."
    )


def _find_audio(data_dir, subset):
    """Return the folder that contains the track folders 000, 001, ... of a subset."""
    # The clips of a subset are also in larger subsets, except in `full`, which contains tracks in full length.
    larger = ("small", "medium", "large")
    names = [f"fma_{name}" for name in (larger[larger.index(subset) :] if subset in larger else (subset,))]
    nested = [[os.path.join(data_dir, name), os.path.join(data_dir, name, name)] for name in names]
    folders = [*itertools.chain.from_iterable(nested), data_dir]
    for folder in folders:
        if _track_folders(folder):
            return folder
    raise FileNotFoundError(f"There are no clips in {data_dir}: none of {folders} contains folders 000, 001, ...")


def _track_folders(folder):
    """Return the names of the folders 000, 001, ... in a folder, sorted."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if len(name) == 3 and name.isdecimal()]
    return sorted(name for name in names if os.path.isdir(os.path.join(folder, name)))


def _file_sizes(audio_dir):
    """Return the sizes of the files in the track folders: dict, "000/000002.mp3" -> bytes."""
    sizes = {}
    for folder in _track_folders(audio_dir):
        with os.scandir(os.path.join(audio_dir, folder)) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # a link to itself, or a file that has just been removed
                    if entry.is_file():
                        sizes[f"{folder}/{entry.name}"] = entry.stat().st_size
    return sizes
