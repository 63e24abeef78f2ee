"""Which clip belongs to training, validation and test: splits, the protocols that make them, and what leaks."""

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
UNKNOWN = -1  # the id of an artist or album that nobody knows


class Split:
    """A random-access sequence of clips, read from disk one by one.

    An element is a dict of `audio`, `(samples,)` float32, the whole clip; `genre`, int, its label; and `track_id`, int.

    Attributes:
        name: str, such as "validation".
        tracks: `pandas.DataFrame`, a row a clip, indexed by `track_id`: `label`, `genre`, `artist_id`, `album_id` (-1:
            unknown), `checksum` (of the decoded audio) and, as far as they are known, `path`, `title`, `artist`,
            `album`, `license`.
        labels: `(len,)` int32, index in `genres`.
        track_ids: `(len,)` int64.
        sample_rate: int, in Hz.
        genres: tuple of str.
        protocol: str, how clips were dealt to splits.
        fingerprint: str, changes with the clips, their labels, their order and the sample rate.
        groups: `(len,)` int64, number of the group of each track, see `group_tracks`.
        inputs: `"waveform"`, the inputs of a model that the batches are for, see `GenreClassifier.for_inference`.
        max_crops: float, infinity, the number of different crops of a clip.
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
        return group_tracks(self.tracks)

    def batches(self, batch_size, clip_seconds, crop="start", crops=1, seed=0, workers=1):
        """Return `Batches` in the order of the split; arguments as in `genrekeras.datasets.batches`."""
        return batches(self, batch_size, clip_seconds, crop, crops, seed=seed, workers=workers)

    def input_coverage(self, clip_seconds, crop="start", crops=1):
        """Describe which part of each clip such batches contain, such as "first 10 s"."""
        seconds = f"{clip_seconds:g} s"
        return f"first {seconds}" if (crop, crops) == ("start", 1) else f"{crops} crops of {seconds} ({crop})"

    def select(self, positions):
        """A split of some of its clips.

        Args:
            positions: sequence of int, in the order wanted.

        Returns:
            `Split`.
        """
        positions = np.asarray(positions)
        if positions.dtype == bool:
            raise ValueError("`positions` must be integers, not a mask (np.flatnonzero makes them of one).")
        positions = positions.astype("int64")
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
        """Return the same clips with labels that are indices in other genres, such as those of a model.

        Args:
            genres: sequence of str, with which the genres of the split are matched by name, see `match_genres`.

        Returns:
            `Split`.

        Raises:
            ValueError: `genres` lacks a genre of the split.
        """
        tracks = relabelled(self, genres)
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
    """The splits of a collection and what there is to know of them.

    Attributes:
        name: str.
        protocol: str, `"official"`, `"random"` or `"artist_album"`.
        train, validation, test: `Split`. Under `"random"` the test split is the validation split, as in the 2023
            system, and the figures on it are too good for two reasons: it chose the epoch, and artists stand on both
            sides.
        genres: tuple of str.
        sample_rate: int, in Hz.
        counts: dict of int: all `tracks`, `missing` files, `broken` files, `readable` clips, `incomplete` ones among
            them, and clips in `train`, `validation` and `test`.
        incomplete: dict, track id -> reason, of clips that are damaged or shorter than their header states. They are
            in the splits.
        broken: dict, track id -> reason, of clips that were left out.
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
        places = np.unique(tracks.index, return_index=True)[1]  # under "random", test and validation are the same
        first = parts[0]
        return Split(
            "all",
            first._source,
            rows[places],
            tracks.iloc[places],
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


def match_genres(genres, known):
    """Match the genres of data with those of a model by name.

    If there is no exact match, case, surrounding spaces and the Unicode normalization form are ignored.

    Args:
        genres: sequence of str, of the data.
        known: sequence of str, of the model.

    Returns:
        dict, genre of the data -> its index in `known`.

    Raises:
        ValueError: a genre is not in `known`, has several matches, or has the same match as another genre.
    """

    def plain(name):
        return unicodedata.normalize("NFC", name).strip().casefold()

    alike = {}
    for index, name in enumerate(known):
        alike.setdefault(plain(name), []).append(index)
    exact = {name: [index] for index, name in enumerate(known)}
    found = {genre: exact.get(genre) or alike.get(plain(genre), []) for genre in genres}
    if missing := [genre for genre, indices in found.items() if not indices]:
        raise ValueError(
            f"The data has genres that the model does not have: {', '.join(map(repr, missing))}. Rename or remove "
            f"them. The model's genres are {', '.join(map(repr, known))}."
        )
    indices = [index for matches in found.values() for index in matches]
    unclear = [genre for genre, own in found.items() if len(own) > 1 or indices.count(own[0]) > 1]
    if unclear:
        raise ValueError(
            f"It is not clear which of the model's genres these are: {', '.join(map(repr, unclear))}. Rename them to "
            f"names of the model: {', '.join(map(repr, known))}."
        )
    return {genre: index for genre, [index] in found.items()}


def relabelled(split, genres):
    """Return the tracks of a split with `label` and `genre` in other genres, see `Split.with_genres`."""
    places = match_genres(split.genres, genres)
    labels = np.array([places[genre] for genre in split.genres], "int32")[split.labels]
    return split.tracks.assign(label=labels, genre=np.array(genres, object)[labels])


def assign_splits(protocol, tracks, seed=0):
    """Give each track a split.

    Args:
        protocol: one of
            `"official"`, the splits that come with the collection (FMA's: no artist on two sides, but for those that
            meet on a compilation);
            `"random"`, the 2023 system's: 80/20 by lot within each folder of the collection, where the 20 % are
            validation and test at once;
            `"artist_album"`: tracks that share an artist, an album or (where `checksum` tells) their sound, also by way
            of others, stay together. Where the collection has splits, each such group goes whole to the split that
            holds most of its tracks (train, if two hold as many), and all else stays. Where it has none, groups are
            dealt by lot, in each genre some 80/10/10, and at least one to each split if it has three (of two, one
            goes to test).
        tracks: `pandas.DataFrame`, a row a track: `label`, `folder`; for `"official"` also `split`; for
            `"artist_album"` also `artist_id` and `album_id`.
        seed: int, of the lots.

    Returns:
        dict of `train`, `validation` and `test`, each an int array of positions in `tracks`, in their order.

    Raises:
        ValueError: an unknown protocol, or one that needs what `tracks` does not say.
    """
    check_protocol(protocol, tracks)
    if protocol == "random":
        return _by_lot(tracks, seed)
    if protocol == "official":
        splits = tracks["split"].to_numpy()
    else:
        groups = group_tracks(tracks)
        splits = _with_whole_groups(tracks["split"], groups) if "split" in tracks else _shares(tracks, groups, seed)
    return {split: np.flatnonzero(splits == split) for split in SPLITS}


def check_protocol(protocol, tracks):
    """Raise a `ValueError` for an unknown protocol, or one that needs what a table of tracks does not say."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}. Received: protocol={protocol!r}")
    knows_groups = any(column in tracks and (tracks[column] != UNKNOWN).any() for column in ("artist_id", "album_id"))
    possible = {"official": "split" in tracks, "artist_album": knows_groups, "random": True}
    needs = {
        "official": "splits that come with the collection (for FMA in tracks.csv)",
        "artist_album": "to know artists or albums (for FMA from tracks.csv)",
    }
    if not possible[protocol]:
        others = " or ".join(f'"{name}"' for name, works in possible.items() if works)
        raise ValueError(
            f'`protocol="{protocol}"` needs {needs[protocol]}, and this collection has none. '
            f'Received: protocol="{protocol}"; {others} would work.'
        )


def group_tracks(tracks):
    """Number the groups of tracks that share an artist, an album or their sound, also by way of other tracks.

    Args:
        tracks: `pandas.DataFrame` with `artist_id` and `album_id` (-1 is unknown, and shared with nobody), and
            `checksum` of the sound where it is known.

    Returns:
        `(n,)` int array.
    """
    count = len(tracks)
    ids = [tracks[column].to_numpy() for column in ("artist_id", "album_id")]
    if "checksum" in tracks:
        ids.append(tracks["checksum"].to_numpy(object))
    # A graph of tracks, artists, albums and sounds, in which each track touches its own.
    edges, nodes = [], count
    for values in ids:
        known = np.flatnonzero(values != UNKNOWN)
        names, number = np.unique(values[known], return_inverse=True)
        edges.append(np.stack([known, nodes + number]))
        nodes += len(names)
    edges = np.concatenate(edges, axis=1)
    graph = scipy.sparse.coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(nodes, nodes))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1][:count]


def leakage(splits):
    """What two splits share that a model could learn by heart: artists, albums, and clips of the same sound.

    Args:
        splits: `Dataset`, or dict of name -> `Split`.

    Returns:
        `pandas.DataFrame`, a row for each two splits (index: their names). `artists`, `albums` and `duplicates` count
        the artists, albums and sounds that are in both; where no clip of either tells its artist or album, `<NA>`.
        `clips` counts the clips of the second split that share any of these with the first, `of` all of its clips.
    """
    if isinstance(splits, Dataset):
        splits = {name: getattr(splits, name) for name in SPLITS}
    tables = {name: split.tracks for name, split in splits.items()}
    columns = {"artists": "artist_id", "albums": "album_id", "duplicates": "checksum"}
    rows = {}
    for (first, mine), (second, theirs) in itertools.combinations(tables.items(), 2):
        row, touched = {}, np.zeros(len(theirs), bool)
        for name, column in columns.items():
            known = [set(table[column]) - {UNKNOWN} for table in (mine, theirs)]
            shared = known[0] & known[1]
            row[name] = len(shared) if any(known) else pd.NA
            touched |= theirs[column].isin(shared).to_numpy()
        rows[first, second] = {**row, "clips": int(touched.sum()), "of": len(theirs)}
    table = pd.DataFrame.from_dict(rows, orient="index", dtype="Int64")
    table.index = pd.MultiIndex.from_tuples(rows, names=["first", "second"])
    return table


def _by_lot(tracks, seed):
    rng = np.random.default_rng(seed)
    folders = tracks["folder"].to_numpy()
    held_out = [
        rng.permutation(members)[: round(0.2 * len(members))]
        for members in (np.flatnonzero(folders == folder) for folder in np.unique(folders))
    ]
    held_out = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, int)
    train = np.setdiff1d(np.arange(len(tracks)), held_out)
    return {"train": train, "validation": held_out, "test": held_out}


def _with_whole_groups(splits, groups):
    counts = pd.crosstab(groups, splits).reindex(columns=SPLITS, fill_value=0)  # (group, split); the first wins a tie
    return counts.idxmax(axis=1).loc[groups].to_numpy()


def _shares(tracks, groups, seed):
    """A tenth of each genre for test and for validation, in whole groups, at least one each if there are three."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"label": tracks["label"].to_numpy(), "group": groups})
    genre = table.groupby("group")["label"].agg(lambda labels: labels.mode()[0])  # of most of its tracks
    sizes = table["group"].value_counts()
    splits = pd.Series("train", sizes.index)
    for label in sorted(set(genre)):
        left = rng.permutation(genre.index[genre == label])
        target = 0.1 * sizes[left].sum()
        for split in ("test", "validation"):
            taken, total = [], 0
            for group in left:
                if sizes[group] < 2 * (target - total):  # it brings the total nearer to the target
                    taken.append(group)
                    total += sizes[group]
            if not taken and len(left) > 1:
                taken = [min(left, key=sizes.get)]
            splits[taken] = split
            left = left[~np.isin(left, taken)]
    return splits[groups].to_numpy()
