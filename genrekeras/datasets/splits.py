"""Splits of a collection for training, validation and test, and the protocols that assign clips to them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from genrekeras.datasets.batches import Batches, Crop, batches
from genrekeras.datasets.groups import assign_folds, group_tracks, has_groups
from genrekeras.datasets.labels import label_array, stratification_labels
from genrekeras.tags import spelling_key

if TYPE_CHECKING:  # This module imports `splits`.
    from genrekeras.datasets.spectrograms import SpectrogramSplit

PROTOCOLS = ("official", "random", "artist_album")
SPLITS = ("train", "validation", "test")
AnySplit = TypeVar("AnySplit", bound="Split | SpectrogramSplit")


class Split:
    """Sequence of clips with random access. Each clip is read from disk when it is accessed.

    An element is a dict with these keys:

    - `audio`: `(samples,)` float32 array, the complete clip.
    - `genre`: int, label of the clip. If clips have several labels, the row of the clip in `labels`.
    - `track_id`: int.

    Args:
        name: such as "validation".
        source: sequence of dicts with the keys `audio`, a `(samples,)` int16 array, and `scale`, a float. The value
            32,767 in `audio` represents the amplitude `scale`.
        rows: `(n,)` int, indices of the clips in `source`.
        tracks: table with a row for each clip. See the attribute `tracks` for the columns.
        sample_rate: in Hz.
        genres: in the order of the labels.
        protocol: protocol that assigned the clips to splits.
        fingerprint: hash of the content of `source`.

    Attributes:
        name, sample_rate, genres, protocol: the arguments.
        tracks: table with a row for each clip, indexed by `track_id`. The columns are `label`, `genre`, `artist_id`,
            `album_id` and `checksum`. If clips have several labels, the columns `labels` and `genres` (tuples) replace
            `label` and `genre`. Unknown artists and albums have the id -1. The checksum is computed from the decoded
            audio. The columns `path`, `title`, `artist`, `album` and `license` exist if they are known.
        labels: `(n,)` int32 array, indices in `genres`. If clips have several labels, `(n, len(genres))` float32 array,
            1 for the genres of a clip and 0 for the others.
        multi_label: whether clips have several labels.
        track_ids: `(n,)` int64 array.
        fingerprint: hash of the clips, their labels, their order and the sample rate.
        groups: `(n,)` int array, group of each track, see `genrekeras.datasets.groups.group_tracks`.
        inputs: `"waveform"`, the kind of inputs in the batches, see `GenreClassifier.for_inference`.
        max_crops: infinity, the number of different crops of a clip.
    """

    inputs: Literal["waveform"] = "waveform"
    max_crops = math.inf

    def __init__(
        self,
        name: str,
        source: Any,
        rows: npt.ArrayLike,
        tracks: pd.DataFrame,
        sample_rate: int,
        genres: Sequence[str],
        protocol: str,
        fingerprint: str,
    ):
        self.name = name
        self.tracks = tracks
        self.track_ids = tracks.index.to_numpy("int64")
        self.sample_rate = sample_rate
        self.genres = tuple(genres)
        self.labels = label_array(tracks, len(self.genres))
        self.multi_label = self.labels.ndim == 2
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
    def groups(self) -> np.ndarray:
        """Group of each track, see `genrekeras.datasets.groups.group_tracks`."""
        return group_tracks(self.tracks)

    def batches(
        self,
        batch_size: int,
        clip_seconds: float,
        crop: Crop = "start",
        crops: int = 1,
        seed: int = 0,
        workers: int = 1,
    ) -> Batches:
        """Return batches in the order of the split.

        See `genrekeras.datasets.batches` for the arguments.
        """
        return batches(self, batch_size, clip_seconds, crop, crops, seed=seed, workers=workers)

    def input_coverage(self, clip_seconds: float, crop: Crop = "start", crops: int = 1) -> str:
        """Describe the part of each clip that the batches contain, such as "first 10 s".

        The arguments are those of `batches`.
        """
        seconds = f"{clip_seconds:g} s"
        return f"first {seconds}" if (crop, crops) == ("start", 1) else f"{crops} crops of {seconds} ({crop})"

    def select(self, positions: npt.ArrayLike) -> Split:
        """Return a new split with the selected clips.

        Args:
            positions: `(n,)` int, indices of the clips to keep, in the order of the new split.
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

    def join(self, others: Sequence[Split], name: str) -> Split:
        """Return a split with the clips of this split and of other splits of the same dataset."""
        rows = np.concatenate([part._rows for part in (self, *others)])
        tracks = pd.concat([part.tracks for part in (self, *others)])
        return Split(name, self._source, rows, tracks, self.sample_rate, self.genres, self.protocol, self.fingerprint)

    def with_genres(self, genres: Sequence[str], ignore_others: bool = False) -> Split:
        """Return a split with the same clips and labels that are indices in `genres`.

        Args:
            genres: such as the genres of a model. `match_genres` finds each genre of the split in this sequence.
            ignore_others: whether genres of the split that `genres` does not contain are removed from the clips. This
                is possible if clips have several labels. A clip may then have no label.

        Raises:
            ValueError: `genres` does not contain a genre of the split, or the match is not unique.
        """
        tracks = relabelled_tracks(self, genres, ignore_others)
        return Split(
            self.name, self._source, self._rows, tracks, self.sample_rate, genres, self.protocol, self.fingerprint
        )

    def __getitem__(self, index):
        record = self._source[int(self._rows[index])]
        audio = record["audio"].astype("float32") * (record["scale"] / np.float32(32767))
        label = self.labels[index] if self.multi_label else int(self.labels[index])
        return {"audio": audio, "genre": label, "track_id": int(self.track_ids[index])}

    def __repr__(self):
        return f"Split({self.name!r}, {len(self)} clips, {self.sample_rate} Hz, protocol={self.protocol!r})"


@dataclasses.dataclass(frozen=True)
class Dataset(Generic[AnySplit]):
    """Training, validation and test split of a collection.

    With the protocol `"random"`, the validation and the test split contain the same clips (the protocol of the PyTorch
    system of 2023). Scores on this test split are too high for two reasons. The best epoch is selected on the same
    clips, and the training split contains other clips of the same artists.

    Attributes:
        name: name of the collection.
        protocol: `"official"`, `"random"`, `"artist_album"`, or `"artist_folds"` (see `fold`).
        train, validation, test: the splits. `Dataset[Split]` contains audio, and `Dataset[SpectrogramSplit]` contains
            spectrograms.
        genres: in the order of the labels.
        sample_rate: in Hz.
        counts: numbers with these keys:

            - `tracks`: number of all tracks.
            - `missing`: number of tracks without a file.
            - `broken`: number of clips that cannot be read or are shorter than 2 s.
            - `readable`: number of all other clips.
            - `incomplete`: number of readable clips that are damaged or cut short.
            - `train`, `validation`, `test`: numbers of clips in the splits.
        incomplete: track id -> reason. It contains the clips that are damaged or shorter than their headers
            state. These clips are in the splits.
        broken: track id -> reason. It contains the clips that cannot be read or are shorter than 2 s. These clips are
            not in the splits.
    """

    name: str
    protocol: str
    train: AnySplit
    validation: AnySplit
    test: AnySplit
    genres: tuple[str, ...]
    sample_rate: int
    counts: dict[str, int]
    incomplete: dict[int, str]
    broken: dict[int, str]

    @property
    def all(self) -> AnySplit:
        """Split with the clips of all splits, sorted by track id."""
        parts = [part for name in SPLITS if len(part := getattr(self, name))]
        joined = parts[0].join(parts[1:], "all")
        # With the protocol "random", validation and test contain the same clips. Use each clip once.
        return joined.select(np.unique(joined.track_ids, return_index=True)[1])

    def fold(self, fold: int, folds: int = 5, seed: int = 0) -> Dataset[AnySplit]:
        """Return the dataset of a fold of cross-validation by artist, with the protocol "artist_folds".

        No artist is in two splits. The test split contains the tracks of the fold. The tracks of the other folds are
        assigned to the training and the validation split. The validation split has about half as many tracks as a fold.

        Args:
            fold: in 0..folds - 1, number of the fold.
            folds: `>= 2`, number of folds.
            seed: seed of the assignment to folds, see `genrekeras.datasets.assign_folds`.

        Raises:
            ValueError: `fold` is out of range, neither an artist nor an album is known, or there are too few artists.
        """
        if fold not in range(folds):
            raise ValueError(f"`fold` must be in 0..{folds - 1}. Received: fold={fold!r}")
        tracks: Any = self.all
        is_test = assign_folds(tracks, folds, seed) == fold
        others = np.flatnonzero(~is_test)
        is_validation = assign_folds(tracks.select(others), 2 * (folds - 1), seed) == 0
        rows = others[~is_validation], others[is_validation], np.flatnonzero(is_test)
        train, validation, test = parts = [tracks.select(positions) for positions in rows]
        for name, part in zip(SPLITS, parts, strict=True):
            part.name, part.protocol = name, "artist_folds"
        counts = {**self.counts, **{part.name: len(part) for part in parts}}
        return dataclasses.replace(
            self, protocol="artist_folds", counts=counts, train=train, validation=validation, test=test
        )

    def __str__(self):
        counts = self.counts
        return (
            f"{self.name}, {len(self.genres)} genres, protocol {self.protocol}: {counts['train']} training, "
            f"{counts['validation']} validation, {counts['test']} test clips at {self.sample_rate} Hz "
            f"({counts['tracks']} tracks, {counts['missing']} without a file, {counts['broken']} broken, "
            f"{counts['incomplete']} incomplete)"
        )


def as_positions(positions: npt.ArrayLike) -> np.ndarray:
    """Return the argument `positions` of `Split.select` as an int64 array.

    Raises:
        ValueError: `positions` is a mask.
    """
    positions = np.asarray(positions)
    if positions.dtype == bool:
        raise ValueError("`positions` must be integers, not a mask. Use np.flatnonzero(mask).")
    return positions.astype("int64")


def match_genres(genres: Iterable[str], model_genres: Sequence[str], ignore_others: bool = False) -> dict[str, int]:
    """Find each genre of a collection among the genres of a model.

    If a model has no genre of exactly the same name, spellings are compared by `genrekeras.tags.spelling_key`: case,
    spaces, hyphens and underscores are ignored, and "&" equals "and".

    Args:
        genres: genres of the collection.
        model_genres: genres of the model.
        ignore_others: whether genres that are not in `model_genres` are left out of the result.

    Returns:
        Genre of the collection -> index in `model_genres`.

    Raises:
        ValueError: a genre is not in `model_genres`, has several matches, or has the same match as another genre.
    """
    similar: dict[str, list[int]] = {}
    for index, name in enumerate(model_genres):
        similar.setdefault(spelling_key(name), []).append(index)
    exact = {name: [index] for index, name in enumerate(model_genres)}
    matches = {genre: exact.get(genre) or similar.get(spelling_key(genre), []) for genre in genres}
    missing = [genre for genre, indices in matches.items() if not indices]
    if ignore_others:
        matches = {genre: indices for genre, indices in matches.items() if indices}
    elif missing:
        raise ValueError(
            f"The data has genres that the model does not have: {', '.join(map(repr, missing))}. Rename or remove "
            f"these genres. The genres of the model are {', '.join(map(repr, model_genres))}."
        )
    all_indices = [index for indices in matches.values() for index in indices]
    ambiguous = [genre for genre, indices in matches.items() if len(indices) > 1 or all_indices.count(indices[0]) > 1]
    if ambiguous:
        raise ValueError(
            f"These genres of the data cannot be matched uniquely with genres of the model: "
            f"{', '.join(map(repr, ambiguous))}. Rename these genres. The genres of the model are "
            f"{', '.join(map(repr, model_genres))}."
        )
    return {genre: index for genre, [index] in matches.items()}


def relabelled_tracks(
    split: Split | SpectrogramSplit, genres: Sequence[str], ignore_others: bool = False
) -> pd.DataFrame:
    """Return the table `tracks` of a split with new labels and genres, see `Split.with_genres`."""
    indices = match_genres(split.genres, genres, ignore_others=ignore_others and split.multi_label)
    if split.multi_label:
        names = [[split.genres[label] for label in labels] for labels in split.tracks["labels"]]
        rows = [tuple(indices[name] for name in row if name in indices) for row in names]
        return split.tracks.assign(labels=rows, genres=[tuple(genres[label] for label in row) for row in rows])
    labels = np.array([indices[genre] for genre in split.genres], "int32")[split.labels]
    return split.tracks.assign(label=labels, genre=np.array(genres, object)[labels])


def assign_splits(protocol: str, tracks: pd.DataFrame, seed: int = 0) -> dict[str, np.ndarray]:
    """Assign tracks to splits.

    Args:
        protocol: one of

            - `"official"`: Use the splits of the collection. The official splits of FMA share no artists, except for
              compilations.
            - `"random"`: Assign 80 % of each folder of the collection to training, at random. The other 20 % are both
              the validation and the test split (the protocol of the PyTorch system of 2023).
            - `"artist_album"`: Assign all tracks of a group to the same split. A group contains the tracks that share
              an artist, an album or a checksum, see `genrekeras.datasets.groups.group_tracks`. If the collection has
              official splits, a group is assigned to the official split of most of its tracks. In case of a tie, it is
              assigned to the first of these splits in the order train, validation, test. If the collection has no
              official splits, the groups are assigned at random: about 80 % of the tracks of each genre to training,
              10 % to validation and 10 % to test. If a genre has at least three groups, each split gets at least one.
              If a genre has two groups, one is assigned to training and the other to test. If tracks have several
              labels, a group counts for its rarest genre, see `genrekeras.datasets.labels.stratification_labels`.
        tracks: table with a row for each track. `"random"` needs the column `folder`, and `"official"` needs `split`.
            `"artist_album"` needs `label` or `labels`, `artist_id` and `album_id`, and uses `split` and `checksum` if
            they exist.
        seed: seed of the random assignment.

    Returns:
        The keys are `train`, `validation` and `test`. The values are ascending int arrays of row positions in `tracks`.

    Raises:
        ValueError: the protocol is unknown, or `tracks` lacks a column that the protocol needs.
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


def check_protocol(protocol: str, tracks: pd.DataFrame) -> None:
    """Raise a `ValueError` if a protocol is unknown, or if a table of tracks lacks a column that the protocol needs."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}. Received: protocol={protocol!r}")
    possible = {"official": "split" in tracks, "artist_album": has_groups(tracks), "random": True}
    required = {
        "official": "official splits (tracks.csv contains the splits of FMA)",
        "artist_album": "artists or albums (tracks.csv contains the artists and albums of FMA)",
    }
    if not possible[protocol]:
        others = " or ".join(f'"{name}"' for name, is_possible in possible.items() if is_possible)
        raise ValueError(
            f'`protocol="{protocol}"` needs {required[protocol]}, but this collection has none. Use {others}. '
            f'Received: protocol="{protocol}"'
        )


def _random_splits(tracks, seed):
    """Return the result of `assign_splits` with the protocol `"random"`."""
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
    """Assign each group of tracks to the official split of most of its tracks.

    Args:
        splits: `(n,)` sequence of str, official split of each track.
        groups: `(n,)` int array, group of each track.

    Returns:
        `(n,)` array of str, assigned split of each track.
    """
    counts = pd.crosstab(groups, splits).reindex(columns=SPLITS, fill_value=0)  # (group, split)
    return counts.idxmax(axis=1).loc[groups].to_numpy()  # in case of a tie, idxmax returns the first split


def _group_splits(tracks, groups, seed):
    """Assign groups of tracks to splits at random.

    About 80 % of the tracks of each genre are assigned to training, 10 % to validation and 10 % to test.

    Args:
        tracks: `pandas.DataFrame` of n rows with the column `label` or `labels`.
        groups: `(n,)` int array, group of each track.
        seed: int.

    Returns:
        `(n,)` array of str, split of each track.
    """
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"label": stratification_labels(tracks, groups), "group": groups})
    genre = table.groupby("group")["label"].agg(lambda labels: labels.mode()[0])  # most frequent genre in each group
    sizes = table["group"].value_counts()
    splits = pd.Series("train", sizes.index)
    for label in sorted(set(genre)):
        remaining = rng.permutation(genre.index[genre == label])
        target = 0.1 * sizes[remaining].sum()
        for split in ("test", "validation"):
            selected, total = [], 0
            for group in remaining:
                if sizes[group] < 2 * (target - total):  # with this group, the total is closer to the target
                    selected.append(group)
                    total += sizes[group]
            if not selected and len(remaining) > 1:
                selected = [min(remaining, key=sizes.get)]
            splits[selected] = split
            remaining = remaining[~np.isin(remaining, selected)]
    return splits[groups].to_numpy()
