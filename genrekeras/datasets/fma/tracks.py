"""Where the files of an FMA folder are, and what its tables say of each track."""

import os
import warnings

import numpy as np
import pandas as pd
from genrekeras.files import whole_file
from genrekeras.genres import GENRES

# Genres of each subset, in the order of their labels.
SUBSETS = {"small": GENRES}
_TFDS_SPLITS = {"training": "train", "validation": "validation", "test": "test"}


def find_tracks(data_dir, subset, genres):
    """The tracks of a subset that an FMA folder should have, and where their files would be.

    Found are, below `data_dir` or (if `data_dir` is the audio folder) beside it: the table `fma_metadata/tracks.csv`,
    `tracks.csv` or `train_labels.csv`, and the clips as `fma_small/000/000002.mp3` or `000/000002.mp3`; archives that
    were unpacked into a folder of their own name are found too.

    Args:
        data_dir: str or path-like.
        subset: str, "small".
        genres: sequence of str, in the order of their labels.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted, with `genre` (str), `split` ("train", "validation", "test";
        missing if only labels are known), `path` (str) and `bytes` (int; -1 for a missing file).

    Raises:
        FileNotFoundError: there is no folder, no table, or no clip at all.
        ValueError: a table is not what it should be, or names an unknown genre.
    """
    data_dir = os.fspath(data_dir)
    if not os.path.isdir(data_dir):
        raise FileNotFoundError(f"`data_dir` is not a folder. Received: data_dir={data_dir!r}")
    table = _find_table(data_dir)
    tracks = read_labels(table) if os.path.basename(table) == "train_labels.csv" else read_tracks(table, subset)
    unknown = sorted(set(tracks["genre"]) - set(genres))
    if unknown:
        raise ValueError(f"{table} has genres that are not in {tuple(genres)}: {unknown[:5]}")

    audio_dir = _find_audio(data_dir, subset)
    sizes = _file_sizes(audio_dir)
    names = [f"{track_id // 1000:03d}/{track_id:06d}.mp3" for track_id in tracks.index]
    tracks["path"] = [os.path.join(audio_dir, *name.split("/")) for name in names]
    tracks["bytes"] = [sizes.get(name, -1) for name in names]
    if (tracks["bytes"] < 0).all():
        raise FileNotFoundError(f"None of the {len(tracks)} tracks of {table} has its clip in {audio_dir}.")
    return tracks


def read_tracks(path, subset="small"):
    """FMA's tracks.csv, the rows of a subset.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted, with `genre` (str) and `split` ("train", "validation",
        "test").

    Raises:
        ValueError: the file is not FMA's tracks.csv, or holds no track of the subset.
    """
    try:
        table = pd.read_csv(path, index_col=0, header=[0, 1], low_memory=False)
        columns = [table["set", "subset"], table["track", "genre_top"], table["set", "split"]]
    except (KeyError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{path} is not FMA's tracks.csv: {error}") from error
    table = pd.concat(columns, axis=1, keys=["subset", "genre", "split"])
    table = table[table["subset"] == subset]
    unusable = table["genre"].isna() | ~table["split"].isin(_TFDS_SPLITS) | ~_are_ids(table.index)
    if unusable.any():
        warnings.warn(f"{path}: {unusable.sum()} rows of subset {subset!r} lack a genre, split or id.", stacklevel=2)
        table = table[~unusable]
    if table.empty:
        raise ValueError(f"{path} has no track of subset {subset!r}.")
    tracks = pd.DataFrame({"genre": table["genre"].astype(str), "split": table["split"].map(_TFDS_SPLITS)})
    return _indexed(tracks, path)


def read_labels(path):
    """The 2023 system's train_labels.csv: columns `track_id` and `genre`.

    Returns:
        `pandas.DataFrame` indexed by `track_id`, sorted, with `genre` (str).
    """
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        raise ValueError(f"{path} is not a table of track_id and genre: {error}") from error
    if not {"track_id", "genre"} <= set(table.columns) or table.empty:
        raise ValueError(f"{path} must have the columns track_id and genre, and rows. Received: {list(table.columns)}")
    if table[["track_id", "genre"]].isna().any(axis=None) or not _are_ids(table["track_id"]).all():
        raise ValueError(f"{path} has rows without a genre, or whose track_id is not a number of at most six digits.")
    return _indexed(table.set_index("track_id")[["genre"]], path)


def write_labels(tracks, path):
    """Write `track_id` and `genre` of a table from `read_tracks` as train_labels.csv."""
    with whole_file(path) as temporary:
        tracks[["genre"]].to_csv(temporary, index_label="track_id")


def _are_ids(ids):
    """Array of bool: which are whole numbers from 0 to 999,999, as the names of FMA's files hold them."""
    numbers = pd.to_numeric(pd.Series(list(ids)), errors="coerce").to_numpy("float64")
    return (numbers >= 0) & (numbers <= 999_999) & (numbers == np.floor(numbers))


def _indexed(tracks, path):
    tracks.index = tracks.index.astype("int64").rename("track_id")
    if tracks.index.has_duplicates:
        raise ValueError(f"{path} names a track twice: {tracks.index[tracks.index.duplicated()][0]}")
    return tracks.sort_index()


def _find_table(data_dir):
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
        f"There is no tracks.csv (nor train_labels.csv) in {data_dir}, its folder fma_metadata, or beside it. "
        "It comes with FMA's fma_metadata.zip."
    )


def _find_audio(data_dir, subset):
    name = f"fma_{subset}"
    folders = [os.path.join(data_dir, name), os.path.join(data_dir, name, name), data_dir]
    for folder in folders:
        if _track_folders(folder):
            return folder
    raise FileNotFoundError(f"There are no clips in {data_dir}: looked for folders 000, 001, ... in {folders}.")


def _track_folders(folder):
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if len(name) == 3 and name.isdecimal())


def _file_sizes(audio_dir):
    sizes = {}
    for folder in _track_folders(audio_dir):
        with os.scandir(os.path.join(audio_dir, folder)) as entries:
            sizes.update({f"{folder}/{entry.name}": entry.stat().st_size for entry in entries if entry.is_file()})
    return sizes
