"""Splits for training, validation and test, the protocols that assign clips to them, and leakage between them."""

import dataclasses
import hashlib
import itertools
import math
import unicodedata

import numpy as np
import pandas as pd
import scipy.sparse
from genrekeras.datasets.batches import batches

PROTOCOLS = ("official", "random", "artist_album")
SPLITS = ("train", "validation", "test")
UNKNOWN = -1  # id of an unknown artist or album


class Split:
    """Random-access sequence of clips, which are read from disk one by one.

    An element is a dict of `audio`, `(samples,)` float32, the clip in its full length; `genre`, int, its label; and
    `track_id`, int.

    Args:
        name: str, such as "validation".
        source: sequence of dicts of `audio`, `(samples,)` int16, and `scale`, float, which 32,767 stands for.
        rows: sequence of int, the indices in `source` of the clips of this split.
        tracks: `pandas.DataFrame` with a row for each clip, see the attribute.
        sample_rate: int, in Hz.
        genres: sequence of str, in the order of their labels.
        protocol: str, protocol by which clips were assigned to splits.
        fingerprint: str that identifies the content of `source`.

    Attributes:
        name, sample_rate, protocol: the arguments.
        tracks: `pandas.DataFrame` with a row for each clip, indexed by `track_id`: `label`, `genre`, `artist_id` and
            `album_id` (-1 if unknown), `checksum` (of the decoded audio) and, if they are known, `path`, `title`,
            `artist`, `album` and `license`.
        labels: `(n,)` int32, indices in `genres`.
        track_ids: `(n,)` int64.
        genres: tuple of str.
        fingerprint: str that identifies the clips, their labels, their order and the sample rate.
        groups: `(n,)` int array, group of each track, see `group_tracks`.
        inputs: `"waveform"`, the kind of inputs in the batches, see `GenreClassifier.for_inference`.
        max_crops: infinity, number of different crops of a clip.
    """

    inputs = "waveform"
    max_crops = math.inf

    def __init__(self, name, source, rows, tracks, sample_rate, genres, protocol, fingerprint):
        self.name = name
        self.tracks = tracks
        self.labels = tracks["label"].to_numpy("int32")
        self.track_ids = tracks.index.to_numpy("int64")
        self.sample_rate = sample_rate
        self.genres = tuple(genres)
        self.protocol = protocol
        self._source = source
        self._rows = np.asarray(rows, "int64")
        content = hashlib.sha256(fingerprint.encode())
        for array in (self.track_ids, self.labels):
            content.update(array.tobytes())
        self.fingerprint = content.hexdigest()[:16]

    def __len__(self):
        return len(self._rows)

    @property
    def groups(self):
        """Group of each track, see `group_tracks`."""
        return group_tracks(self.tracks)

    def batches(self, batch_size, clip_seconds, crop="start", crops=1, seed=0, workers=1):
        """Return `Batches` in the order of the split. The arguments are those of `genrekeras.datasets.batches`."""
        return batches(self, batch_size, clip_seconds, crop, crops, seed=seed, workers=workers)

    def input_coverage(self, clip_seconds, crop="start", crops=1):
        """Describe the part of each clip that batches with these arguments contain, such as "first 10 s"."""
        seconds = f"{clip_seconds:g} s"
        return f"first {seconds}" if (crop, crops) == ("start", 1) else f"{crops} crops of {seconds} ({crop})"

    def select(self, positions):
        """Return a split of some of the clips.

        Args:
            positions: sequence of int, positions of the clips, in the order of the new split.

        Returns:
            `Split`.
        """
        positions = as_positions(positions)
        return Split(
            self.name,
            self._source,
            self._rows[positions],
            self.tracks.iloc[positions],
            self.sample_rate,
            self.genres,
            self.protocol,
            self.fingerprint,
        )

    def with_genres(self, genres):
        """Return a split of the same clips whose labels are indices in other genres, such as those of a model.

        Args:
            genres: sequence of str. The genres of the split are matched with them by name, see `match_genres`.

        Returns:
            `Split`.

        Raises:
            ValueError: a genre of the split is not in `genres`.
        """
        tracks = relabelled_tracks(self, genres)
        return Split(
            self.name, self._source, self._rows, tracks, self.sample_rate, genres, self.protocol, self.fingerprint
        )

    def __getitem__(self, index):
        record = self._source[int(self._rows[index])]
        audio = record["audio"].astype("float32") * (record["scale"] / np.float32(32767))
        return {"audio": audio, "genre": int(self.labels[index]), "track_id": int(self.track_ids[index])}

    def __repr__(self):
        return f"Split({self.name!r}, {len(self)} clips, {self.sample_rate} Hz, protocol={self.protocol!r})"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Splits of a collection, with the numbers of its clips and reasons why clips could not be read.

    Attributes:
        name: str.
        protocol: str, `"official"`, `"random"` or `"artist_album"`.
        train, validation, test: `Split`. With `"random"`, `test` has the clips of `validation`, as in the 2023 system.
            Scores on it are then too high for two reasons: the best epoch is chosen on it, and its artists are in the
            training split as well.
        genres: tuple of str.
        sample_rate: int, in Hz.
        counts: dict of int: all `tracks`, `missing` files, `broken` files, `readable` clips, those of them that are
            `incomplete`, and clips in `train`, `validation` and `test`.
        incomplete: dict, track id -> reason, of clips that are damaged or shorter than their header states. They are in
            the splits.
        broken: dict, track id -> reason, of clips that cannot be decoded. They are not in the splits.
    """

    name: str
    protocol: str
    train: Split
    validation: Split
    test: Split
    genres: tuple
    sample_rate: int
    counts: dict
    incomplete: dict
    broken: dict

    @property
    def all(self):
        """`Split` of the clips of all splits, in the order of their track ids."""
        parts = [getattr(self, name) for name in SPLITS]
        tracks = pd.concat([part.tracks for part in parts if len(part)])
        rows = np.concatenate([part._rows for part in parts])
        positions = np.unique(tracks.index, return_index=True)[1]  # with "random", test and validation are the same
        first = parts[0]
        return Split(
            "all",
            first._source,
            rows[positions],
            tracks.iloc[positions],
            self.sample_rate,
            self.genres,
            self.protocol,
            first.fingerprint,
        )

    def __str__(self):
        counts = self.counts
        return (
            f"{self.name}, {len(self.genres)} genres, protocol {self.protocol}: {counts['train']} training, "
            f"{counts['validation']} validation, {counts['test']} test clips at {self.sample_rate} Hz "
            f"({counts['tracks']} tracks, {counts['missing']} without a file, {counts['broken']} broken, "
            f"{counts['incomplete']} incomplete)"
        )


def as_positions(positions):
    """Return the argument of `Split.select` as an int64 array.

    Raises:
        ValueError: it is a mask.
    """
    positions = np.asarray(positions)
    if positions.dtype == bool:
        raise ValueError("`positions` must be integers, not a mask. Use np.flatnonzero(mask).")
    return positions.astype("int64")


def match_genres(genres, model_genres):
    """Match the genres of data with those of a model by name.

    If there is no exact match, case, surrounding spaces and the Unicode normalization form are ignored.

    Args:
        genres: sequence of str, of the data.
        model_genres: sequence of str, of the model.

    Returns:
        dict, genre of the data -> its index in `model_genres`.

    Raises:
        ValueError: a genre is not in `model_genres`, has several matches, or has the same match as another genre.
    """

    def normalized(name):
        return unicodedata.normalize("NFC", name).strip().casefold()

    similar = {}
    for index, name in enumerate(model_genres):
        similar.setdefault(normalized(name), []).append(index)
    exact = {name: [index] for index, name in enumerate(model_genres)}
    matches = {genre: exact.get(genre) or similar.get(normalized(genre), []) for genre in genres}
    if missing := [genre for genre, indices in matches.items() if not indices]:
        raise ValueError(
            f"The data has genres that the model does not have: {', '.join(map(repr, missing))}. Rename or remove "
            f"them. The model's genres are {', '.join(map(repr, model_genres))}."
        )
    all_indices = [index for indices in matches.values() for index in indices]
    ambiguous = [genre for genre, indices in matches.items() if len(indices) > 1 or all_indices.count(indices[0]) > 1]
    if ambiguous:
        raise ValueError(
            f"These genres of the data cannot be matched uniquely with genres of the model: "
            f"{', '.join(map(repr, ambiguous))}. Rename them to genres of the model: "
            f"{', '.join(map(repr, model_genres))}."
        )
    return {genre: index for genre, [index] in matches.items()}


def relabelled_tracks(split, genres):
    """Return the table of tracks of a split with the labels and genres of `Split.with_genres`."""
    indices = match_genres(split.genres, genres)
    labels = np.array([indices[genre] for genre in split.genres], "int32")[split.labels]
    return split.tracks.assign(label=labels, genre=np.array(genres, object)[labels])


def assign_splits(protocol, tracks, seed=0):
    """Assign tracks to splits.

    Args:
        protocol: str, one of

            - `"official"`: the splits of the collection. In those of FMA, splits share no artist, except for
              compilations.
            - `"random"`: 80/20 at random within each folder of the collection. The 20 % are both the validation and
              the test split, as in the 2023 system.
            - `"artist_album"`: no split shares a group with another one. A group contains all tracks that are connected
              by a common artist, album or `checksum`, see `group_tracks`. If the collection has splits, each group is
              assigned to the split that contains most of its tracks (in case of a tie, to the first of train,
              validation and test). Otherwise groups are assigned at random, in each genre about 80/10/10. Of three or
              more groups of a genre, each split gets at least one; of two groups, one is assigned to test.
        tracks: `pandas.DataFrame` with a row for each track and the columns `label` and `folder`; for `"official"` also
            `split`; for `"artist_album"` also `artist_id` and `album_id`.
        seed: int, seed of the random assignment.

    Returns:
        dict of `train`, `validation` and `test`, each an ascending int array of positions in `tracks`.

    Raises:
        ValueError: the protocol is unknown or needs columns that `tracks` does not have.
    """
    check_protocol(protocol, tracks)
    if protocol == "random":
        return _random_splits(tracks, seed)
    if protocol == "official":
        splits = tracks["split"].to_numpy()
    else:
        groups = group_tracks(tracks)
        splits = _majority_splits(tracks["split"], groups) if "split" in tracks else _group_splits(tracks, groups, seed)
    return {split: np.flatnonzero(splits == split) for split in SPLITS}


def check_protocol(protocol, tracks):
    """Raise a `ValueError` if a protocol is unknown or needs columns that a table of tracks does not have."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}. Received: protocol={protocol!r}")
    has_groups = any(column in tracks and (tracks[column] != UNKNOWN).any() for column in ("artist_id", "album_id"))
    possible = {"official": "split" in tracks, "artist_album": has_groups, "random": True}
    required = {
        "official": "splits that come with the collection (those of FMA are in tracks.csv)",
        "artist_album": "artists or albums (those of FMA are in tracks.csv)",
    }
    if not possible[protocol]:
        others = " or ".join(f'"{name}"' for name, is_possible in possible.items() if is_possible)
        raise ValueError(
            f'`protocol="{protocol}"` needs {required[protocol]}, and this collection has none. Use {others}. '
            f'Received: protocol="{protocol}"'
        )


def group_tracks(tracks):
    """Group tracks that share an artist, an album or their audio, directly or through other tracks.

    Args:
        tracks: `pandas.DataFrame` of n rows with the columns `artist_id`, `album_id` and, optionally, `checksum` (of
            the audio). The value -1 means unknown and connects nothing.

    Returns:
        `(n,)` int array, number of the group of each track.
    """
    count = len(tracks)
    ids = [tracks[column].to_numpy() for column in ("artist_id", "album_id")]
    if "checksum" in tracks:
        ids.append(tracks["checksum"].to_numpy(object))
    # Graph whose nodes are tracks, artists, albums and checksums. An edge connects a track to each of its values.
    edges, nodes = [], count
    for values in ids:
        rows = np.flatnonzero(values != UNKNOWN)
        unique, index = np.unique(values[rows], return_inverse=True)
        edges.append(np.stack([rows, nodes + index]))
        nodes += len(unique)
    edges = np.concatenate(edges, axis=1)
    graph = scipy.sparse.coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(nodes, nodes))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1][:count]


def leakage(splits):
    """Count the artists, albums and duplicate clips that splits share, from which a model could learn the test data.

    Args:
        splits: `Dataset`, or dict, name -> `Split`.

    Returns:
        `pandas.DataFrame` with a row for each pair of splits (index: their names). `artists`, `albums` and `duplicates`
        are the numbers of artists, albums and checksums in both splits; `<NA>` if none is known. `clips` is the number
        of clips of the second split that share any of them with the first one, and `of` the number of all its clips.
    """
    if isinstance(splits, Dataset):
        splits = {name: getattr(splits, name) for name in SPLITS}
    tables = {name: split.tracks for name, split in splits.items()}
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


def _random_splits(tracks, seed):
    """Return the result of `assign_splits` for the protocol `"random"`."""
    rng = np.random.default_rng(seed)
    folders = tracks["folder"].to_numpy()
    held_out = [
        rng.permutation(rows)[: round(0.2 * len(rows))]
        for rows in (np.flatnonzero(folders == folder) for folder in np.unique(folders))
    ]
    held_out = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, int)
    train = np.setdiff1d(np.arange(len(tracks)), held_out)
    return {"train": train, "validation": held_out, "test": held_out}


def _majority_splits(splits, groups):
    """Return for each track the split that contains most tracks of its group, a `(n,)` array of str."""
    counts = pd.crosstab(groups, splits).reindex(columns=SPLITS, fill_value=0)  # (group, split)
    return counts.idxmax(axis=1).loc[groups].to_numpy()  # in case of a tie, idxmax returns the first split


def _group_splits(tracks, groups, seed):
    """Assign groups at random, in each genre about 80/10/10 of the tracks. Return a `(n,)` array of str."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"label": tracks["label"].to_numpy(), "group": groups})
    genre = table.groupby("group")["label"].agg(lambda labels: labels.mode()[0])  # the genre of most of its tracks
    sizes = table["group"].value_counts()
    splits = pd.Series("train", sizes.index)
    for label in sorted(set(genre)):
        remaining = rng.permutation(genre.index[genre == label])
        target = 0.1 * sizes[remaining].sum()
        for split in ("test", "validation"):
            selected, total = [], 0
            for group in remaining:
                if sizes[group] < 2 * (target - total):  # the group brings the total closer to the target
                    selected.append(group)
                    total += sizes[group]
            if not selected and len(remaining) > 1:
                selected = [min(remaining, key=sizes.get)]
            splits[selected] = split
            remaining = remaining[~np.isin(remaining, selected)]
    return splits[groups].to_numpy()
