"""Find the table and the clips in a folder of FMA, and read the table."""

import contextlib
import csv
import glob
import itertools
import json
import os
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from genrekeras.genres import GENRES
from genrekeras.utils.io import StrPath, atomic_write

# Genres of each subset, in the order of the labels. The genres of fma_small have the same labels in all subsets.
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
# Each subset contains the smaller subsets. This table lists the values of the column `subset` for the tracks of each
# subset. `large` contains clips of 30 s, and `full` contains the same tracks in full length.
_CONTAINED_SUBSETS = {"small": ("small",), "medium": ("small", "medium")} | dict.fromkeys(
    ("large", "full"), ("small", "medium", "large")
)
_COLUMNS = {
    "subset": ("set", "subset"),
    "genre": ("track", "genre_top"),
    "genres": ("track", "genres_all"),
    "split": ("set", "split"),
    "title": ("track", "title"),
    "artist": ("artist", "name"),
    "artist_id": ("artist", "id"),
    "album": ("album", "title"),
    "album_id": ("album", "id"),
    "license": ("track", "license"),
}
LABELS = {"top": "genre", "all": "genres"}  # values of the argument `labels`, and the column that each uses
_TFDS_SPLITS = {"training": "train", "validation": "validation", "test": "test"}


def is_fma(data_dir: StrPath) -> bool:
    """Return whether a folder has the layout of FMA. The result is also True if the folder does not exist."""
    if not os.path.isdir(data_dir):
        return True
    if set(os.listdir(data_dir)) & {"train_labels.csv", "fma_metadata", *(f"fma_{subset}" for subset in SUBSETS)}:
        return True
    clips = os.path.join(glob.escape(os.fspath(data_dir)), "[0-9]" * 3, "[0-9]" * 6 + ".mp3")
    return any(map(os.path.isfile, glob.iglob(clips)))


def find_tracks(
    data_dir: StrPath, subset: str, genres: Sequence[str], labels: Literal["top", "all"] = "top"
) -> pd.DataFrame:
    """Return a table of the tracks of a subset, with the paths and sizes of the files.

    The genres come from `fma_metadata/tracks.csv`, `tracks.csv` or `train_labels.csv`, in `data_dir` or in its parent
    folder. The clips are `fma_small/000/000002.mp3` etc. or `000/000002.mp3` etc. in `data_dir`. Each of the folders
    `fma_metadata` and `fma_small` may be in another folder of the same name. The clips of a subset may also be in the
    folder of a larger subset. A warning counts the files that have no row in the table.

    Args:
        data_dir: the folder.
        subset: a key of `SUBSETS`.
        genres: the allowed top genres.
        labels: see `read_tracks`.

    Returns:
        A table with a row for each track, indexed by `track_id` and sorted. The columns are `genre` (str), `path`
        (str), `bytes` (int, size of the file, -1 for a missing file) and `folder` (int, `track_id // 1000`). If the
        genres come from tracks.csv, the other columns of `read_tracks` are added.

    Raises:
        FileNotFoundError: there is no folder, no table or no clip.
        ValueError: the table has another format or contains another genre.
    """
    data_dir = os.fspath(data_dir)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` is not a folder. Received: data_dir={data_dir!r}")
    table = find_table(data_dir)
    if os.path.basename(table) == "tracks.csv":
        tracks = read_tracks(table, subset, labels)
    elif labels == "top":
        tracks = read_labels(table)
    else:
        raise ValueError(f'`labels="all"` needs tracks.csv, because {table} has one genre per track.')
    unknown = sorted(set(tracks["genre"]) - {*genres, ""})
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
    # The folder of a larger subset also contains other tracks, so no warning is issued for such a folder.
    if without_row and os.path.basename(audio_dir) == f"fma_{subset}":
        warnings.warn(
            f"{audio_dir}: {len(without_row)} files have no row with a genre in {os.path.basename(table)} (the first: "
            f"{without_row[0]}). These files are left out.",
            stacklevel=2,
        )
    return tracks


def read_tracks(path: StrPath, subset: str = "small", labels: Literal["top", "all"] = "top") -> pd.DataFrame:
    """Read the rows of a subset from FMA's tracks.csv.

    Rows without a genre, a split or an id are left out, and a warning counts these rows. More than half of the tracks
    of `large` have no top genre.

    Args:
        path: path of tracks.csv.
        subset: a key of `SUBSETS`.
        labels: `"top"` reads the top genre of each track. `"all"` also reads all genres of each track, and uses the
            file genres.csv in the folder of tracks.csv.

    Returns:
        A table with a row for each track, indexed by `track_id` and sorted. The columns are `genre` (str, the top
        genre) and `split` ("train", "validation" or "test"). With `labels="all"`, the column `genres` (tuple of str) is
        added, and `genre` is empty for a track without a top genre. The columns `title`, `artist`, `artist_id`,
        `album`, `album_id` and `license` exist if the file contains them. An unknown id is -1.

    Raises:
        ValueError: the file is not FMA's tracks.csv, contains no track of the subset, or genres.csv is missing or does
            not fit.
    """
    try:
        table = _read_columns(path, labels)
    except (KeyError, ValueError, csv.Error) as error:  # the parser errors of pandas are subclasses of ValueError
        raise ValueError(f"{path} is not FMA's tracks.csv: {error}") from error
    _warn_if_cut(path)
    table = table[table["subset"].isin(_CONTAINED_SUBSETS[subset])]
    if labels == "all":
        table = table.assign(genres=_genre_titles(table["genres"], path))
    unusable = table[LABELS[labels]].isna() | ~table["split"].isin(_TFDS_SPLITS) | ~_are_ids(table.index)
    if unusable.any():
        warnings.warn(
            f"{path}: {unusable.sum()} of {len(table)} rows of subset {subset!r} lack a genre, split or id. "
            "These rows are left out.",
            stacklevel=2,
        )
        table = table[~unusable]
    if table.empty:
        raise ValueError(f"{path} contains no track of subset {subset!r}.")
    tracks = table.drop(columns="subset").assign(split=table["split"].map(_TFDS_SPLITS))
    for column in tracks:
        if column.endswith("_id"):
            tracks[column] = pd.to_numeric(tracks[column], errors="coerce").fillna(-1).astype("int64")
        elif column != "genres":
            tracks[column] = tracks[column].fillna("").astype(str)
    return _indexed(tracks, path)


def read_genres(path: StrPath) -> pd.DataFrame:
    """Read FMA's genres.csv, the hierarchy of genres.

    Args:
        path: path of genres.csv.

    Returns:
        A table with a row for each genre, indexed by `genre_id` and sorted. The columns are `title` (str), `parent`
        (int, id of the parent, 0 for a top genre) and `top_level` (int, id of the top genre).

    Raises:
        ValueError: the file cannot be read or has another format, or two genres have the same title.
    """
    columns = ["title", "parent", "top_level"]
    try:
        table = pd.read_csv(path, index_col="genre_id", usecols=["genre_id", *columns])[columns].sort_index()
        table = table.astype({"parent": "int64", "top_level": "int64"})
    except (OSError, ValueError) as error:  # the parser errors of pandas are subclasses of ValueError
        raise ValueError(f"{os.fspath(path)} is not FMA's genres.csv: {error}") from error
    if table.empty or table["title"].isna().any() or table["title"].duplicated().any() or table.index.has_duplicates:
        raise ValueError(f"{os.fspath(path)} must have one row and one title per genre.")
    return table


def read_labels(path: StrPath) -> pd.DataFrame:
    """Read a train_labels.csv, the table of the PyTorch system of 2023.

    The table has the columns `track_id` and `genre`.

    Args:
        path: path of the table.

    Returns:
        A table with the column `genre` (str), indexed by `track_id` and sorted.

    Raises:
        ValueError: the file is not a table with these columns.
    """
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # the parser errors of pandas are subclasses of ValueError
        raise ValueError(f"{path} is not a table of track_id and genre: {error}") from error
    if not {"track_id", "genre"} <= set(table.columns) or table.empty:
        raise ValueError(
            f"{path} must have the columns track_id and genre, and at least one row. Received: {len(table)} rows with "
            f"the columns {list(table.columns)}"
        )
    if table[["track_id", "genre"]].isna().any(axis=None) or not _are_ids(table["track_id"]).all():
        raise ValueError(
            f"{path} contains rows that have no genre, or a track_id that is not an integer of at most six digits."
        )
    return _indexed(table.set_index("track_id")[["genre"]], path)


def write_labels(tracks: pd.DataFrame, path: StrPath) -> None:
    """Write a train_labels.csv, see `read_labels`.

    Args:
        tracks: table with the column `genre`, indexed by `track_id`.
        path: path of the file to write.
    """
    with atomic_write(path) as temporary:
        tracks[["genre"]].to_csv(temporary, index_label="track_id")


def _read_columns(path, labels):
    """Read the columns of `_COLUMNS` from tracks.csv, `genres` only with `labels="all"`.

    The header of tracks.csv has three lines. The first two lines name the group and the field of each column.
    """
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        names = list(zip(next(lines, ()), next(lines, ()), strict=False))
        if next(lines, [""])[0] != "track_id":
            raise ValueError("its third line does not start with track_id")
    wanted = {column: name for column, name in _COLUMNS.items() if column != "genres" or labels == "all"}
    required = [_COLUMNS[column] for column in ("subset", "genre", "split", LABELS[labels])]
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")
    columns = {names.index(name): column for column, name in wanted.items() if name in names}
    table = pd.read_csv(path, skiprows=3, header=None, usecols=[0, *columns], index_col=0, low_memory=False)
    return table.rename(columns=columns)[[column for column in wanted if column in columns.values()]]


def _genre_titles(values, path):
    """Return the titles of the genres of each track as tuples. Tracks without genres have the value `None`.

    Args:
        values: `pandas.Series` of the column `genres_all`, such as "[12, 25]".
        path: path of tracks.csv.
    """
    titles = read_genres(os.path.join(os.path.dirname(path), "genres.csv"))["title"].to_dict()
    result = {}
    for value in values.dropna().unique():
        try:
            result[value] = tuple(titles[genre_id] for genre_id in json.loads(value)) or None
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: `genres_all` must list ids of genres.csv. Received: {value!r}") from error
    return values.map(result)


def _warn_if_cut(path):
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            warnings.warn(f"{path} does not end with a line break. The file may be cut short.", stacklevel=3)


def _are_ids(ids):
    """Return a `(n,)` bool array that is true for the valid track ids, the integers from 0 to 999,999."""
    numbers = pd.to_numeric(pd.Series(list(ids)), errors="coerce").to_numpy("float64")
    return (numbers >= 0) & (numbers <= 999_999) & (numbers == np.floor(numbers))


def _indexed(tracks, path):
    """Return a table sorted by track id. Raise a `ValueError` if a track id occurs twice."""
    tracks.index = pd.to_numeric(tracks.index).astype("int64").rename("track_id")
    if tracks.index.has_duplicates:
        raise ValueError(f"{path} contains a track twice: {tracks.index[tracks.index.duplicated()][0]}")
    return tracks.sort_index()


def find_table(data_dir: StrPath) -> str:
    """Return the path of FMA's table of tracks.

    It is searched in `data_dir`, in the parent folder, and in a folder `fma_metadata` in either of them.

    Args:
        data_dir: the folder.

    Returns:
        Path of a tracks.csv or train_labels.csv.

    Raises:
        FileNotFoundError: there is no table.
    """
    parent = os.path.dirname(os.path.abspath(data_dir))
    folders = [
        data_dir,
        os.path.join(data_dir, "fma_metadata"),
        os.path.join(data_dir, "fma_metadata", "fma_metadata"),
        os.path.join(parent, "fma_metadata"),
        parent,
    ]
    for folder in folders:
        for name in ("tracks.csv", "train_labels.csv"):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
    raise FileNotFoundError(
        f"There is no tracks.csv or train_labels.csv in {data_dir}, its parent folder, or a folder fma_metadata in one "
        "of them. FMA's fma_metadata.zip contains tracks.csv."
    )


def _find_audio(data_dir, subset):
    """Return the folder that contains the folders 000, 001, ... of a subset."""
    # Each larger subset contains the clips of the smaller subsets. `full` contains no clips, but complete tracks.
    larger = ("small", "medium", "large")
    names = [f"fma_{name}" for name in (larger[larger.index(subset) :] if subset in larger else (subset,))]
    nested = [[os.path.join(data_dir, name), os.path.join(data_dir, name, name)] for name in names]
    folders = [*itertools.chain.from_iterable(nested), data_dir]
    for folder in folders:
        if _track_folders(folder):
            return folder
    raise FileNotFoundError(f"There are no clips in {data_dir}. None of {folders} contains folders 000, 001, ...")


def _track_folders(folder):
    """Return the sorted names of the folders 000, 001, ... in a folder."""
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if len(name) == 3 and name.isdecimal()]
    return sorted(name for name in names if os.path.isdir(os.path.join(folder, name)))


def _file_sizes(audio_dir):
    """Return the sizes of the clips as a dict, such as `{"000/000002.mp3": 800000}`."""
    sizes = {}
    for folder in _track_folders(audio_dir):
        with os.scandir(os.path.join(audio_dir, folder)) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # the entry is a link that refers to itself, or was just removed
                    if entry.is_file():
                        sizes[f"{folder}/{entry.name}"] = entry.stat().st_size
    return sizes
