"""A table of tracks as splits: built once, then read at random and dealt by a protocol."""

import bisect
import itertools
import os
import warnings

import pandas as pd
import tensorflow_datasets as tfds
from genrekeras.datasets.splits import SPLITS, UNKNOWN, Dataset, Split, assign_splits, check_protocol
from genrekeras.datasets.store import StoreConfig, fingerprint
from genrekeras.utils.logging import only_absl_errors
from google.protobuf.json_format import ParseError


def prepare(store, tracks, genres, subset, sample_rate, protocol, prepared_dir, beam_options=None):
    """The stored clips of a table of tracks, built if they are not there.

    Args:
        store: subclass of `Store`.
        tracks: as `Store` takes them.
        genres: sequence of str, in the order of their labels.
        subset: str, a part of the dataset's name.
        sample_rate: int > 0, in Hz.
        protocol: str, which the tracks will be dealt by.
        prepared_dir: str or path-like. A folder of tracks that changed gets a new dataset in it; the old one is left
            alone.
        beam_options: sequence of str, options of a Beam pipeline, such as `["--runner=DirectRunner"]`; `None` builds
            in threads of this process.

    Returns:
        `Store`, prepared.

    Raises:
        ValueError: the tracks cannot be dealt by the protocol, or an argument is out of range.
        OSError: the folder cannot be written, or the clips that are stored in it cannot be read.
    """
    check_protocol(protocol, tracks)  # before hours of decoding
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
    except (AssertionError, OSError, ParseError, TypeError, ValueError) as error:  # by TFDS, for damaged files
        raise _unreadable(folder, error) from error
    if not builder.is_prepared():
        tfds.disable_progress_bar()  # one bar is enough: the store's own, in clips
        builder.download_and_prepare(download_config=_download_config(beam_options))
    return builder


def as_dataset(builder, tracks, name, protocol, seed, source):
    """A prepared store as splits.

    Args:
        builder: `Store`, from `prepare`.
        tracks: the table that it was built from.
        name: str, of the dataset.
        protocol, seed: of `genrekeras.datasets.splits.assign_splits`.
        source: str, what warnings call the tracks: their folder.

    Returns:
        `Dataset`.
    """
    metadata, config = builder.info.metadata, builder.builder_config
    incomplete, broken = (
        {int(track_id): reason for track_id, reason in metadata[kind].items()} for kind in ("incomplete", "broken")
    )
    _warn_of_bad_clips(source, tracks["path"], metadata["missing"], incomplete, broken)
    with only_absl_errors():
        clips = _Joined(builder, metadata["stored"])

    stored = pd.concat([pd.DataFrame(part) for part in metadata["stored"].values()], ignore_index=True)
    stored = stored.rename_axis("row").reset_index().set_index("track_id").sort_index()
    readable = tracks.loc[stored.index].drop(columns="bytes")
    readable["checksum"] = stored["checksum"]
    readable["label"] = readable["genre"].map({genre: label for label, genre in enumerate(config.genres)})
    for column in ("artist_id", "album_id"):
        if column not in readable:
            readable[column] = UNKNOWN
    places = assign_splits(protocol, readable, seed)
    if protocol == "artist_album":
        _warn_of_empty_genres(source, readable["genre"], places)
    readable = readable.drop(columns=["folder", "split"], errors="ignore")
    splits = {
        split: Split(
            split,
            clips,
            stored["row"].to_numpy()[places[split]],
            readable.iloc[places[split]],
            config.sample_rate,
            config.genres,
            protocol,
            metadata["fingerprint"],
        )
        for split in SPLITS
    }
    counts = {
        "tracks": metadata["tracks"],
        "missing": len(metadata["missing"]),
        "incomplete": len(incomplete),
        "broken": len(broken),
        "readable": len(readable),
        **{split: len(clips) for split, clips in splits.items()},
    }
    return Dataset(
        name,
        protocol,
        **splits,
        genres=config.genres,
        sample_rate=config.sample_rate,
        counts=counts,
        incomplete=incomplete,
        broken=broken,
    )


class _Joined:
    """The clips of several splits of a prepared store as one sequence."""

    def __init__(self, builder, splits):
        self._sources = [builder.as_data_source(split=split) for split in splits]
        self._ends = _ends(len(source) for source in self._sources)
        infos = [builder.info.splits[split] for split in splits]
        self._files = [os.fspath(path) for info in infos for path in info.filepaths]
        self._files_end = _ends(length for info in infos for length in info.shard_lengths)
        self._folder = os.fspath(builder.data_dir)

    def __getitem__(self, index):
        which = bisect.bisect_right(self._ends, index)
        try:
            return self._sources[which][index - (self._ends[which - 1] if which else 0)]
        except (RuntimeError, ValueError) as error:  # by ArrayRecord, without the name of the file
            file = self._files[bisect.bisect_right(self._files_end, index)]
            raise _unreadable(self._folder, f"{os.path.basename(file)}: {error}") from error


def _ends(lengths):
    return list(itertools.accumulate(lengths))


def _unreadable(folder, reason):
    return OSError(
        f"The decoded clips in {folder} cannot be read: {reason}. Delete this folder; the next call decodes the clips "
        "again."
    )


def _download_config(beam_options):
    if beam_options is None:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError("Building with Beam needs apache-beam: pip install 'genrekeras[beam]'") from error
    return tfds.download.DownloadConfig(beam_options=PipelineOptions(list(beam_options)))


def _warn_of_empty_genres(source, genres, places):
    for split, members in places.items():
        if lacking := sorted(set(genres) - set(genres.iloc[members])):
            warnings.warn(
                f"{source}: {split} has no clip of {', '.join(lacking)}. Whole artists and albums go to a split, and "
                "there are too few of them.",
                stacklevel=5,
            )


def _warn_of_bad_clips(source, paths, missing, incomplete, broken):
    def named(reasons):
        some = sorted(reasons.items())[:20]
        names = ", ".join(f"{os.path.relpath(paths[track_id], source)} ({reason})" for track_id, reason in some)
        return f"{names}{', ...' if len(reasons) > len(some) else ''}"

    parts = []
    if missing:
        parts.append(f"{len(missing)} have no file (the first: {os.path.relpath(paths[missing[0]], source)})")
    if broken:
        parts.append(f"{len(broken)} cannot be read: {named(broken)}")
    if parts:
        warnings.warn(f"{source}: of {len(paths)} tracks, {'; '.join(parts)}. They are left out.", stacklevel=5)
    if incomplete:
        warnings.warn(
            f"{source}: of {len(paths)} tracks, {len(incomplete)} are incomplete: {named(incomplete)}. They are kept.",
            stacklevel=5,
        )
