"""Build the store of a table of tracks, and load it as a `Dataset`."""

import bisect
import itertools
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from genrekeras.datasets.groups import UNKNOWN
from genrekeras.datasets.labels import add_labels, label_rows, stratification_labels
from genrekeras.datasets.splits import SPLITS, Dataset, Split, assign_splits, check_protocol
from genrekeras.datasets.store import Store, StoreConfig, fingerprint
from genrekeras.utils.io import StrPath
from genrekeras.utils.logging import only_absl_errors
from google.protobuf.json_format import ParseError


def prepare(
    store: type[Store],
    tracks: pd.DataFrame,
    genres: Sequence[str],
    subset: str,
    sample_rate: int,
    protocol: str,
    prepared_dir: StrPath,
    beam_options: Sequence[str] | None = None,
) -> Store:
    """Build the store of a table of tracks if it does not exist, and return it.

    Args:
        store: class of the dataset.
        tracks: see `Store`.
        genres: genres of the column `genre` of the table, in the order in which the store numbers them.
        subset: first part of the name of the configuration.
        sample_rate: `> 0`, in Hz, sample rate of the stored clips.
        protocol: protocol that will assign the tracks to splits.
        prepared_dir: folder for stores. If the table of tracks changes, a new store is built, and the old store is
            kept.
        beam_options: options of a Beam pipeline, such as `["--runner=DirectRunner"]`. `None` decodes the clips with
            threads of this process.

    Returns:
        The store, ready to be read.

    Raises:
        ValueError: the table of tracks lacks a column that the protocol needs, or an argument is out of range.
        OSError: `prepared_dir` cannot be written, or the stored clips cannot be read.
    """
    check_protocol(protocol, tracks)  # checked before the decoding, which may take hours
    if not isinstance(sample_rate, int) or isinstance(sample_rate, bool) or sample_rate <= 0:
        raise ValueError(f"`sample_rate` must be a positive integer, in Hz. Received: sample_rate={sample_rate!r}")
    if set("*?[") & set(os.fspath(prepared_dir)):
        raise ValueError(f"`prepared_dir` must not contain *, ? or [. Received: prepared_dir={prepared_dir!r}")
    config = StoreConfig(name=f"{subset}_{sample_rate}hz", sample_rate=sample_rate, genres=tuple(genres))
    content = fingerprint(tracks, config)
    folder = os.path.join(prepared_dir, content)
    try:
        builder = store(tracks=tracks, config=config, data_dir=folder)
        if os.path.isdir(builder.data_dir) and builder.info.metadata.get("fingerprint") != content:
            raise ValueError("dataset_info.json or metadata.json is missing, or belongs to other clips")
    except (AssertionError, OSError, ParseError, TypeError, ValueError) as error:  # TFDS raises these for damaged files
        raise _read_error(folder, error) from error
    if not builder.is_prepared():
        tfds.disable_progress_bar()  # the store shows another progress bar, which counts clips
        builder.download_and_prepare(download_config=_download_config(beam_options))
    return builder


def as_dataset(
    builder: Store,
    tracks: pd.DataFrame,
    genres: Sequence[str],
    name: str,
    protocol: str,
    seed: int,
    source: StrPath,
    stacklevel: int = 3,
) -> Dataset[Split]:
    """Load a prepared store as a `Dataset`.

    Warnings count the tracks that are missing, broken or incomplete.

    Args:
        builder: result of `prepare`.
        tracks: table from which the store was built. It may lack some of the tracks. The genres are in the column
            `genre` (str) or, for tracks with several genres, `genres` (tuple of str). They need not be those of the
            store.
        genres: in the order of the labels.
        name: name of the dataset.
        protocol: see `genrekeras.datasets.splits.assign_splits`.
        seed: see `genrekeras.datasets.splits.assign_splits`.
        source: folder of the tracks. The warnings contain this name.
        stacklevel: argument of `warnings.warn`. The default names the line that calls the caller of this function.
    """
    metadata, sample_rate = builder.info.metadata, builder.builder_config.sample_rate
    incomplete, broken = (
        {int(track_id): reason for track_id, reason in metadata[kind].items() if int(track_id) in tracks.index}
        for kind in ("incomplete", "broken")
    )
    missing = [track_id for track_id in metadata["missing"] if track_id in tracks.index]
    _warn_of_bad_clips(source, tracks["path"], missing, incomplete, broken, stacklevel + 1)
    with only_absl_errors():
        clips = _StoredClips(builder, metadata["stored"])

    stored = pd.concat([pd.DataFrame(part) for part in metadata["stored"].values()], ignore_index=True)
    stored = stored.rename_axis("row").reset_index().set_index("track_id").sort_index()
    stored = stored[stored.index.isin(tracks.index)]
    readable = add_labels(tracks.loc[stored.index].drop(columns="bytes"), genres)
    readable["checksum"] = stored["checksum"]
    for column in ("artist_id", "album_id"):
        if column not in readable:
            readable[column] = UNKNOWN
    if "folder" not in readable:
        readable["folder"] = stratification_labels(readable)
    positions = assign_splits(protocol, readable, seed)
    readable = readable.drop(columns=["folder", "split"], errors="ignore")
    splits = {
        split: Split(
            split,
            clips,
            stored["row"].to_numpy()[positions[split]],
            readable.iloc[positions[split]],
            sample_rate,
            genres,
            protocol,
            metadata["fingerprint"],
        )
        for split in SPLITS
    }
    if protocol == "artist_album":
        _warn_of_empty_genres(source, splits, stacklevel + 1)
    counts = {
        "tracks": len(tracks),
        "missing": len(missing),
        "incomplete": len(incomplete),
        "broken": len(broken),
        "readable": len(readable),
        **{split: len(clips) for split, clips in splits.items()},
    }
    return Dataset(
        name,
        protocol,
        **splits,
        genres=tuple(genres),
        sample_rate=sample_rate,
        counts=counts,
        incomplete=incomplete,
        broken=broken,
    )


class _StoredClips:
    """Sequence of the clips of a prepared store.

    Args:
        builder: `Store`.
        splits: iterable of str, names of splits of the store. Their clips follow each other in this order.
    """

    def __init__(self, builder, splits):
        self._sources = [builder.as_data_source(split=split) for split in splits]
        self._ends = _cumulative(len(source) for source in self._sources)
        infos = [builder.info.splits[split] for split in splits]
        self._files = [os.fspath(path) for info in infos for path in info.filepaths]
        self._file_ends = _cumulative(length for info in infos for length in info.shard_lengths)
        self._folder = os.fspath(builder.data_dir)

    def __getitem__(self, index):
        split = bisect.bisect_right(self._ends, index)
        try:
            return self._sources[split][index - (self._ends[split - 1] if split else 0)]
        except (RuntimeError, ValueError) as error:  # the message of ArrayRecord does not contain the file name
            file = self._files[bisect.bisect_right(self._file_ends, index)]
            raise _read_error(self._folder, f"{os.path.basename(file)}: {error}") from error


def _cumulative(lengths):
    return list(itertools.accumulate(lengths))


def _read_error(folder, reason):
    """Return the exception for a store that cannot be read."""
    return OSError(
        f"The decoded clips in {folder} cannot be read: {reason}. Delete this folder. The next call decodes the clips "
        "again."
    )


def _download_config(beam_options):
    if beam_options is None:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError("`beam_options` needs Apache Beam: pip install 'genrekeras[beam]'") from error
    return tfds.download.DownloadConfig(beam_options=PipelineOptions(list(beam_options)))


def _warn_of_empty_genres(source, splits, stacklevel):
    """Warn of the genres that a split lacks, except those that all splits lack."""
    present = {
        name: set(np.flatnonzero(label_rows(split.labels, len(split.genres)).any(axis=0)))
        for name, split in splits.items()
    }
    for name, split in splits.items():
        if lacking := [split.genres[label] for label in sorted(set.union(*present.values()) - present[name])]:
            warnings.warn(
                f"{source}: {name} has no clip of {', '.join(lacking)}. An artist or album cannot be divided between "
                "splits, and these genres have too few artists and albums.",
                stacklevel=stacklevel,
            )


def format_reasons(reasons: Mapping[str, str], folder: StrPath) -> str:
    """Return a text that names up to 20 files and what is wrong with them.

    Args:
        reasons: path -> reason.
        folder: folder to which the names in the text are relative.
    """
    first = sorted(reasons.items())[:20]
    names = ", ".join(f"{os.path.relpath(path, folder)} ({reason})" for path, reason in first)
    return f"{names}{', ...' if len(reasons) > len(first) else ''}"


def _warn_of_bad_clips(source, paths, missing, incomplete, broken, stacklevel):
    def format_files(reasons):
        return format_reasons({paths[track_id]: reason for track_id, reason in reasons.items()}, source)

    parts = []
    if missing:
        parts.append(f"{len(missing)} have no file (the first: {os.path.relpath(paths[missing[0]], source)})")
    if broken:
        parts.append(f"{len(broken)} cannot be read: {format_files(broken)}")
    if parts:
        message = f"{source}: of {len(paths)} tracks, {'; '.join(parts)}. These tracks are left out."
        warnings.warn(message, stacklevel=stacklevel)
    if incomplete:
        warnings.warn(
            f"{source}: of {len(paths)} tracks, {len(incomplete)} are incomplete: {format_files(incomplete)}. These "
            "clips are kept.",
            stacklevel=stacklevel,
        )
