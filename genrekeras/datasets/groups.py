"""Artists of the tracks of a collection: groups of related tracks, leakage between splits, and folds by artist."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import scipy.sparse
from genrekeras.datasets.labels import label_rows, stratification_labels

if TYPE_CHECKING:  # These modules import `groups`.
    from genrekeras.datasets.spectrograms import SpectrogramSplit
    from genrekeras.datasets.splits import Dataset, Split

FOLD_PROTOCOLS = ("artist_folds", "random_folds")
UNKNOWN = -1  # id of an unknown artist or album


def group_tracks(tracks: pd.DataFrame) -> np.ndarray:
    """Group tracks that share an artist, an album or their audio.

    If track A shares a value with track B, and track B shares a value with track C, all three are in the same group.

    Args:
        tracks: table of n rows with the columns `artist_id`, `album_id` and, optionally, `checksum` (of the audio). The
            value -1 means unknown. Tracks with unknown values are not grouped by these values.

    Returns:
        `(n,)` int array, number of the group of each track.
    """
    count = len(tracks)
    ids = [tracks[column].to_numpy() for column in ("artist_id", "album_id")]
    if "checksum" in tracks:
        ids.append(tracks["checksum"].to_numpy(object))
    # The groups are the connected components of a graph. Its nodes are the tracks, artists, albums and checksums. Edges
    # connect each track with its artist, its album and its checksum.
    parts, nodes = [], count
    for values in ids:
        rows = np.flatnonzero(values != UNKNOWN)
        unique, index = np.unique(values[rows], return_inverse=True)
        parts.append(np.stack([rows, nodes + index]))
        nodes += len(unique)
    edges = np.concatenate(parts, axis=1)
    graph = scipy.sparse.coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(nodes, nodes))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1][:count]


def artist_groups(tracks: pd.DataFrame) -> np.ndarray | None:
    """Return the artist of each track, as `Report.groups`.

    Args:
        tracks: table of n rows with the column `artist_id`. The value -1 means unknown.

    Returns:
        `(n,)` int array, or `None` if no artist is known. If only some artists are unknown, each of their tracks gets a
        number of its own.
    """
    ids = tracks["artist_id"].to_numpy("int64")
    unknown = ids == UNKNOWN
    return None if unknown.all() else np.where(unknown, -2 - np.arange(len(ids)), ids)


def leakage(splits: Dataset | Mapping[str, Split | SpectrogramSplit]) -> pd.DataFrame:
    """Count the artists, albums and duplicate clips that splits share.

    If the training and the test split share artists, albums or clips, test scores are too high.

    Args:
        splits: a dataset, or splits by name.

    Returns:
        A table with a row for each pair of splits. The index contains the names `first` and `second` of the splits. The
        columns are:

        - `artists`, `albums`, `duplicates`: numbers of artists, albums and checksums that are in both splits. The value
          is `<NA>` if no artist, album or checksum is known.
        - `clips`: number of clips in the second split that share an artist, an album or a checksum with the first
          split.
        - `of`: number of all clips in the second split.
    """
    tables = {name: split.tracks for name, split in _splits_by_name(splits).items()}
    columns = {"artists": "artist_id", "albums": "album_id", "duplicates": "checksum"}
    rows = {}
    for (first, first_table), (second, second_table) in itertools.combinations(tables.items(), 2):
        row, is_shared = {}, np.zeros(len(second_table), bool)
        for name, column in columns.items():
            known = [set(table[column]) - {UNKNOWN} for table in (first_table, second_table)]
            shared = known[0] & known[1]
            row[name] = len(shared) if any(known) else pd.NA
            is_shared |= second_table[column].isin(shared).to_numpy()
        rows[first, second] = {**row, "clips": int(is_shared.sum()), "of": len(second_table)}
    table = pd.DataFrame.from_dict(rows, orient="index", dtype="Int64")
    table.index = pd.MultiIndex.from_tuples(rows, names=["first", "second"])
    return table


def concentration(splits: Dataset | Mapping[str, Split | SpectrogramSplit]) -> pd.DataFrame:
    """Count the artists of each split and genre, and measure how much a few artists dominate.

    A track with several labels counts for each of its genres.

    Tracks of one artist are similar, so a score on a split is about as precise as a score on as many independent tracks
    as the effective size. It is 1 / sum(s_a^2), where s_a is the share of artist a in the tracks.

    Source: Kish, "Survey Sampling", 1965 (effective size).

    Args:
        splits: a dataset, or splits by name.

    Returns:
        A table with a row for each split and for each genre of the split. The index contains the names `split` and
        `genre`; the genre of the row for the complete split is "all". Rows without tracks are omitted. The columns are:

        - `tracks`: number of tracks.
        - `artists`: number of artists. Each track of an unknown artist counts as an artist. The value is `<NA>` if no
          artist of the split is known.
        - `largest`: number of tracks of the artist with the most tracks, or `<NA>`.
        - `effective_size`: 1 to `artists`, or `<NA>`.
    """
    rows = {}
    for name, split in _splits_by_name(splits).items():
        artists = artist_groups(split.tracks)
        parts = {"all": np.ones(len(split), bool)}
        parts |= dict(zip(split.genres, label_rows(split.labels, len(split.genres)).T > 0, strict=True))
        for genre, mask in parts.items():
            if not mask.any():
                continue
            row = {"tracks": int(mask.sum()), "artists": pd.NA, "largest": pd.NA, "effective_size": pd.NA}
            if artists is not None:
                sizes = np.unique(artists[mask], return_counts=True)[1]
                shares = sizes / sizes.sum()
                row |= {"artists": len(sizes), "largest": sizes.max(), "effective_size": 1 / (shares**2).sum()}
            rows[name, genre] = row
    columns = {"tracks": "Int64", "artists": "Int64", "largest": "Int64", "effective_size": "Float64"}
    table = pd.DataFrame(list(rows.values()), columns=list(columns)).astype(columns)
    table.index = pd.MultiIndex.from_tuples(rows, names=["split", "genre"])
    return table


def assign_folds(
    split: Split | SpectrogramSplit,
    folds: int = 5,
    seed: int = 0,
    protocol: Literal["artist_folds", "random_folds"] = "artist_folds",
) -> np.ndarray:
    """Assign the tracks of a split to folds for cross-validation, with about the same share of each genre in each fold.

    Of a track with several labels, only the rarest genre is taken into account, see
    `genrekeras.datasets.labels.stratification_labels`.

    Args:
        split: the tracks. Each track must occur once.
        folds: `>= 2`, number of folds.
        seed: seed of the random assignment.
        protocol: `"artist_folds"` assigns all tracks of a group to the same fold. A group contains the tracks that
            share an artist, an album or a checksum (scikit-learn's `StratifiedGroupKFold`). `"random_folds"` assigns
            tracks at random (`StratifiedKFold`), so artists are in several folds.

    Returns:
        `(n,)` int array, fold of each track, in 0..folds - 1.

    Raises:
        ValueError: the protocol is unknown, a track occurs several times, no artist and no album is known
            (`"artist_folds"`), or there are fewer groups or tracks than folds.
    """
    from sklearn import model_selection  # imported here because the import is slow

    if protocol not in FOLD_PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {FOLD_PROTOCOLS}. Received: protocol={protocol!r}")
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise ValueError(f"`folds` must be an integer >= 2. Received: folds={folds!r}")
    if len(np.unique(split.track_ids)) < len(split):
        raise ValueError("`split` must contain each track once. Received: several clips or images of a track")
    by_artist = protocol == "artist_folds"
    if by_artist and not has_groups(split.tracks):
        raise ValueError(
            '`protocol="artist_folds"` needs artists or albums, but none is known. Use "random_folds" only if each '
            "track is of another artist. If artists have several tracks, scores of random folds are too high."
        )
    groups = _ordered_groups(split) if by_artist else np.arange(len(split))
    count = len(np.unique(groups))
    if count < folds:
        kind = "groups of tracks by artist or album" if by_artist else "tracks"
        raise ValueError(f"`folds` must not exceed the number of {kind}, {count}. Received: folds={folds}")
    kind = model_selection.StratifiedGroupKFold if by_artist else model_selection.StratifiedKFold
    result = np.empty(len(split), int)
    labels = stratification_labels(split.tracks)
    splitter = kind(folds, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(split)), labels, groups if by_artist else None)
    for fold, (_, rows) in enumerate(parts):
        result[rows] = fold
    return result


def has_groups(tracks: pd.DataFrame) -> bool:
    """Return whether an artist or an album of a table of tracks is known."""
    return any(column in tracks and (tracks[column] != UNKNOWN).any() for column in ("artist_id", "album_id"))


def _ordered_groups(split):
    """Return the groups of a split, numbered by their smallest artist id, so that the order of tracks has no effect."""
    groups = split.groups
    smallest = pd.Series(split.tracks["artist_id"].to_numpy()).groupby(groups).transform("min")
    return np.unique(np.stack([smallest, groups], axis=1), axis=0, return_inverse=True)[1]


def _splits_by_name(splits):
    """Return the splits of a dataset by name. A mapping is returned unchanged."""
    if isinstance(splits, Mapping):
        return splits
    return {name: getattr(splits, name) for name in ("train", "validation", "test")}
