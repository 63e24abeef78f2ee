"""Which clip belongs to training, validation and test: splits, and the protocols that make them."""

import dataclasses
import hashlib

import numpy as np

PROTOCOLS = ("official", "random")


class Split:
    """A random-access sequence of clips, read from disk one by one.

    An element is a dict of `audio`, `(samples,)` float32, the whole clip; `genre`, int, its label; and `track_id`, int.

    Attributes:
        name: str, such as "validation".
        labels: `(len,)` int32, index in `genres`.
        track_ids: `(len,)` int64.
        sample_rate: int, in Hz.
        genres: tuple of str.
        protocol: str, how clips were dealt to splits.
        fingerprint: str, changes with whatever changes the content: clips, labels, order, sample rate.
    """

    def __init__(self, name, source, rows, track_ids, labels, sample_rate, genres, protocol, fingerprint):
        self.name = name
        self.labels = np.asarray(labels, "int32")
        self.track_ids = np.asarray(track_ids, "int64")
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
            self.track_ids[positions],
            self.labels[positions],
            self.sample_rate,
            self.genres,
            self.protocol,
            self.fingerprint,
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
        protocol: str, `"official"` or `"random"`.
        train, validation, test: `Split`. Under `"random"` the test split is the validation split, as in the 2023
            system, and the figures on it are too good for two reasons: it chose the epoch, and artists stand on both
                sides.
        genres: tuple of str.
        sample_rate: int, in Hz.
        counts: dict of ints: `tracks` that were asked for, `missing` files, `broken` files, `readable` clips, and those
            of `train`, `validation` and `test`.
        broken: dict, track id -> reason.
    """

    name: str
    protocol: str
    train: Split
    validation: Split
    test: Split
    genres: tuple
    sample_rate: int
    counts: dict
    broken: dict

    def __str__(self):
        counts = self.counts
        return (
            f"{self.name}, {len(self.genres)} genres, protocol {self.protocol}: {counts['train']} training, "
            f"{counts['validation']} validation, {counts['test']} test clips at {self.sample_rate} Hz "
            f"({counts['tracks']} tracks, {counts['missing']} without a file, {counts['broken']} broken)"
        )


def deal(protocol, track_ids, official, seed=0):
    """Give each track a split.

    Args:
        protocol: `"official"`, the splits that come with the collection (FMA's: no artist on two sides); or `"random"`,
            the 2023 system's: 80/20 by lot within each folder of the collection (a folder holds a thousand track ids),
            where the 20 % are validation and test at once.
        track_ids: `(n,)` int array.
        official: `(n,)` array of "train", "validation" or "test", or `None` where the collection has no splits.
        seed: int, for `"random"`.

    Returns:
        dict of `train`, `validation` and `test`, each an int array of positions in `track_ids`, in their order.

    Raises:
        ValueError: an unknown protocol; `"official"` without splits.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}. Received: protocol={protocol!r}")
    track_ids = np.asarray(track_ids)
    if protocol == "official":
        if official is None:
            raise ValueError(
                '`protocol="official"` needs the splits of tracks.csv, and this collection has only labels. '
                'Received: protocol="official"; "random" would work.'
            )
        official = np.asarray(official)
        return {split: np.flatnonzero(official == split) for split in ("train", "validation", "test")}
    rng = np.random.default_rng(seed)
    folders = track_ids // 1000
    held_out = [
        rng.permutation(members)[: round(0.2 * len(members))]
        for members in (np.flatnonzero(folders == folder) for folder in np.unique(folders))
    ]
    held_out = np.sort(np.concatenate(held_out)) if held_out else np.zeros(0, int)
    return {
        "train": np.setdiff1d(np.arange(len(track_ids)), held_out),
        "validation": held_out,
        "test": held_out,
    }
