"""An FMA folder as splits: built once with TFDS, then read at random."""

import bisect
import hashlib
import itertools
import os
import warnings

import tensorflow_datasets as tfds
from genrekeras.datasets.fma.builder import Fma, FmaConfig
from genrekeras.datasets.fma.tracks import SUBSETS, find_tracks
from genrekeras.datasets.quiet import quiet_absl
from genrekeras.datasets.splits import PROTOCOLS, Dataset, Split, deal


def load_fma(data_dir, subset="small", protocol="official", sample_rate=22050, seed=0, prepared_dir=None):
    """FMA, from a folder with its metadata and clips.

    The first call decodes all clips (with a progress bar) and stores them as ArrayRecord files; later calls read these.
    Audio is stored once for all protocols. Clips that cannot be decoded, or that are shorter than 2 s, are left out,
    named in one warning and counted.

    Args:
        data_dir: str or path-like, the folder that holds `fma_metadata/tracks.csv` and `fma_small/000/000002.mp3` ...
            (other layouts that are found: `genrekeras.datasets.fma.tracks.find_tracks`).
        subset: str, "small".
        protocol: `"official"` or `"random"`: see `genrekeras.datasets.splits.deal`.
        sample_rate: int > 0, in Hz, at which clips are stored.
        seed: int, of the random protocol.
        prepared_dir: str or path-like, where to store the decoded clips (30 s at 22,050 Hz: 1.3 MB a clip, 10.6 GB for
            fma_small); `None` is the folder `prepared` in `data_dir`.

    Returns:
        `Dataset`.

    Raises:
        FileNotFoundError: no folder, no table, or no clips.
        ValueError: an unknown subset or protocol, a table that is not FMA's, or a split without a readable clip.
        OSError: `prepared_dir` cannot be written.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {tuple(SUBSETS)}. Received: subset={subset!r}")
    prepared_dir = os.path.join(data_dir, "prepared") if prepared_dir is None else prepared_dir
    return load_folder_of_tracks(
        f"fma_{subset}", data_dir, subset, SUBSETS[subset], protocol, sample_rate, seed, prepared_dir
    )


def load_folder_of_tracks(name, data_dir, subset, genres, protocol, sample_rate, seed, prepared_dir):
    """As `load_fma`, for any collection in FMA's layout and with its own `genres`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` must be one of {PROTOCOLS}. Received: protocol={protocol!r}")
    if not isinstance(sample_rate, int) or isinstance(sample_rate, bool) or sample_rate <= 0:
        raise ValueError(f"`sample_rate` must be a positive integer, in Hz. Received: sample_rate={sample_rate!r}")
    tracks = find_tracks(data_dir, subset, genres)
    fingerprint = _fingerprint(tracks, genres, sample_rate)
    config = FmaConfig(name=f"{subset}_{sample_rate}hz", sample_rate=sample_rate, genres=tuple(genres))
    # A folder that changed gets a new dataset; the old one is left alone.
    with quiet_absl():
        builder = Fma(tracks=tracks, config=config, data_dir=os.path.join(prepared_dir, fingerprint))
        if not builder.is_prepared():
            _prepare(builder, prepared_dir)
    metadata = builder.info.metadata
    broken = {int(track_id): reason for track_id, reason in metadata["broken"].items()}
    _warn_of_lost_clips(data_dir, metadata["tracks"], metadata["missing"], broken)

    source = _Joined([builder.as_data_source(split=split) for split in metadata["stored"]])
    stored = metadata["stored"]
    track_ids = list(itertools.chain.from_iterable(split["track_ids"] for split in stored.values()))
    labels = list(itertools.chain.from_iterable(split["labels"] for split in stored.values()))
    official = [split for split in stored for _ in stored[split]["track_ids"]] if metadata["has_splits"] else None
    order = sorted(range(len(track_ids)), key=track_ids.__getitem__)
    rows = deal(
        protocol,
        [track_ids[row] for row in order],
        None if official is None else [official[row] for row in order],
        seed,
    )
    splits = {
        split: Split(
            split,
            source,
            [order[i] for i in members],
            [track_ids[order[i]] for i in members],
            [labels[order[i]] for i in members],
            sample_rate,
            genres,
            protocol,
            fingerprint,
        )
        for split, members in rows.items()
    }
    counts = {
        "tracks": metadata["tracks"],
        "missing": len(metadata["missing"]),
        "broken": len(broken),
        "readable": len(track_ids),
        **{split: len(clips) for split, clips in splits.items()},
    }
    return Dataset(
        name, protocol, **splits, genres=tuple(genres), sample_rate=sample_rate, counts=counts, broken=broken
    )


class _Joined:
    """Several data sources as one; which one an index falls into is found by bisection."""

    def __init__(self, sources):
        self._sources = sources
        self._ends = list(itertools.accumulate(len(source) for source in sources))

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        which = bisect.bisect_right(self._ends, index)
        return self._sources[which][index - (self._ends[which - 1] if which else 0)]


def _prepare(builder, prepared_dir):
    try:
        os.makedirs(prepared_dir, exist_ok=True)
    except OSError as error:
        raise OSError(f"`prepared_dir` cannot be written: {error}. Pass another `prepared_dir`.") from error
    tfds.disable_progress_bar()  # one bar is enough: the builder's own, in clips
    try:
        builder.download_and_prepare()
    finally:
        builder.close_progress()


def _fingerprint(tracks, genres, sample_rate):
    content = hashlib.sha256(repr((tuple(genres), sample_rate)).encode())
    columns = [column for column in ("genre", "split", "bytes") if column in tracks]
    content.update(tracks[columns].to_csv().encode())
    return content.hexdigest()[:16]


def _warn_of_lost_clips(data_dir, tracks, missing, broken):
    parts = []
    if missing:
        parts.append(f"{len(missing)} have no file (the first: {missing[0]:06d})")
    if broken:
        names = ", ".join(f"{track_id:06d} ({reason})" for track_id, reason in sorted(broken.items())[:20])
        parts.append(f"{len(broken)} cannot be read: {names}{', ...' if len(broken) > 20 else ''}")
    if parts:
        warnings.warn(f"{data_dir}: of {tracks} tracks, {'; '.join(parts)}. They are left out.", stacklevel=4)
