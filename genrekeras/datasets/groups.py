"""Artists of the tracks of a collection: groups of related tracks, leakage between splits, and folds by artist."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd
import scipy.sparse
from genrekeras.datasets.labels import stratification_labels

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
        `(n,)` int array, or `None` if no artist is known. If only some artists are unknown, each track of an unknown
        artist gets a different negative number.
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

    Tracks of one artist are similar, so a score on a split is less precise than its number of tracks suggests. The
    effective size is the number of independent tracks that would give an equally precise score, if all tracks of an
    artist had the same outcome. It is n^2 / sum(n_a^2), where n_a is the number of tracks of artist a, and n their sum.

    Source: Kish, "Survey Sampling", 1965 (effective size).

    Args:
        splits: a dataset, or splits by name.

    Returns:
        A table with a row for each split and for each genre of the split. The index contains the names `split` and
        `genre`; the genre of the row for the complete split is "all". Rows without tracks are omitted. The columns are:

        - `tracks`: number of tracks.
        - `artists`: number of artists. Each track of an unknown artist counts as an artist. The value is `<NA>` if no
          artist of the row is known.
        - `largest`: number of tracks of the artist with the most tracks, or `<NA>`.
        - `effective_size`: 1 to `artists`, or `<NA>`.
    """
    return concentration_of_tables({name: split.tracks for name, split in _splits_by_name(splits).items()})


def concentration_of_tables(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the result of `concentration` for tables with the columns `artist_id` and `genre` or `genres`."""
    rows = {}
    for name, tracks in tables.items():
        genres = tracks["genres" if "genres" in tracks else "genre"].reset_index(drop=True).explode()
        for genre in ("all", *genres.unique()) if len(tracks) else ():
            part = tracks if genre == "all" else tracks.iloc[genres.index[genres == genre]]
            rows[name, genre] = {"tracks": len(part)}
            artists = artist_groups(part)
            if artists is not None:
                sizes = np.unique(artists, return_counts=True)[1]
                effective_size = sizes.sum() ** 2 / (sizes**2).sum()
                rows[name, genre] |= {"artists": len(sizes), "largest": sizes.max(), "effective_size": effective_size}
    columns = {"tracks": "Int64", "artists": "Int64", "largest": "Int64", "effective_size": "Float64"}
    index = pd.MultiIndex.from_tuples(rows, names=["split", "genre"])
    return pd.DataFrame(list(rows.values()), index, list(columns)).astype(columns)


class HasTracks(Protocol):
    """A split of waveforms, spectrograms or features."""

    @property
    def tracks(self) -> pd.DataFrame:
        """A row for each track, see `genrekeras.datasets.Split`."""

    @property
    def track_ids(self) -> np.ndarray:
        """`(n,)` int."""

    @property
    def groups(self) -> np.ndarray:
        """`(n,)` int, see `group_tracks`."""

    def __len__(self) -> int: ...


def assign_folds(
    split: HasTracks,
    folds: int = 5,
    seed: int = 0,
    protocol: Literal["artist_folds", "random_folds"] = "artist_folds",
) -> np.ndarray:
    """Assign the tracks of a split to folds for cross-validation, with about the same share of each genre in each fold.

    A track with several labels counts only for its rarest genre, see
    `genrekeras.datasets.labels.stratification_labels`.

    Args:
        split: the tracks, or another object with the same attributes. Each track must occur once.
        folds: `>= 2`, number of folds.
        seed: seed of the random assignment.
        protocol: `"artist_folds"` assigns all tracks of a group to the same fold. A group contains the tracks that
            share an artist, an album or a checksum (scikit-learn's `StratifiedGroupKFold`). `"random_folds"` assigns
            tracks at random (`StratifiedKFold`), so artists are in several folds.

    Returns:
        `(n,)` int array, fold of each track, in 0..folds - 1.

    Raises:
        ValueError: the protocol is unknown, `folds` is not an integer >= 2, a track occurs several times, neither an
            artist nor an album is known (`"artist_folds"`), or there are fewer groups or tracks than folds.
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
            "track is by a different artist. If artists have several tracks, scores of random folds are too high."
        )
    groups = _ordered_groups(split) if by_artist else None
    count = len(split) if groups is None else len(np.unique(groups))
    if count < folds:
        kind = "groups of tracks by artist or album" if by_artist else "tracks"
        raise ValueError(f"`folds` must not exceed the number of {kind}, {count}. Received: folds={folds}")
    kind = model_selection.StratifiedGroupKFold if by_artist else model_selection.StratifiedKFold
    result = np.empty(len(split), int)
    labels = stratification_labels(split.tracks)
    splitter = kind(folds, shuffle=True, random_state=seed)
    parts = splitter.split(labels, labels, groups if by_artist else None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # some folds then lack a genre
        for fold, (_, rows) in enumerate(parts):
            result[rows] = fold
    return result


def has_groups(tracks: pd.DataFrame) -> bool:
    """Return whether at least one artist or album of a table of tracks is known."""
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
