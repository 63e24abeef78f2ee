"""A table of tracks as a TFDS dataset: clips decoded once, stored as int16 at one sample rate, read at random.

The clips are dealt to parts (the shards of TFDS) before any is decoded. A part is written by itself, by the threads of
this process or by any worker of an Apache Beam pipeline, and holds the same bytes either way; a build that is broken
off goes on behind the parts that are whole.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from genrekeras import audio
from genrekeras.datasets.splits import SPLITS, UNKNOWN
from genrekeras.utils.io import atomic_write, check_disk_space, process_lock
from genrekeras.utils.logging import only_absl_errors
from genrekeras.utils.progress import bar, print_message
from tensorflow_datasets.core.example_serializer import ExampleSerializer

# A clip that is shorter than this says nothing about its genre; FMA's three clips that are cut short have 0.5 to 1.6 s.
MIN_SECONDS = 2.0
CLIPS_A_PART = 128  # 170 MB of clips of 30 s at 22,050 Hz
# What is known of a track besides its sound, and what stands for "unknown".
METADATA = {"title": "", "artist": "", "artist_id": UNKNOWN, "album": "", "album_id": UNKNOWN, "license": ""}


@dataclasses.dataclass(eq=False)
class StoreConfig(tfds.core.BuilderConfig):
    """What a stored dataset depends on besides its tracks.

    Attributes:
        sample_rate: int, in Hz.
        genres: tuple of str, in the order of their labels.
    """

    sample_rate: int = 22050
    genres: tuple = ()


class Store(tfds.core.ShardBasedBuilder, skip_registration=True):
    """The clips of a table of tracks.

    An example is `audio`, `(samples,)` int16, the whole clip, mono; `scale`, float32, what 32,767 stands for (1, or the
    peak of a clip that overshoots 1); `genre`, the label; `track_id`; and the columns of `METADATA`. Examples stand in
    the order of their ids. `info.metadata` holds the ids and checksums of the stored clips, and the tracks that were
    left out or are incomplete, with the reasons.

    Args:
        tracks: `pandas.DataFrame` indexed by `track_id`, sorted, with `genre`, `path`, `bytes` (-1: no file) and, as
            far as they are known, `split` and the columns of `METADATA`; `None` reads what was prepared.
        kwargs: those of `tfds.core.DatasetBuilder`, and `file_format` (default: ArrayRecord).
    """

    VERSION = tfds.core.Version("3.0.0")
    pkg_dir_path = None
    DESCRIPTION = "Clips of music with their genre."
    CITATION = ""
    HOMEPAGE = ""

    def __init__(self, *, tracks=None, file_format="array_record", **kwargs):
        self._tracks = tracks
        with only_absl_errors():  # here, since it is made anew in each worker process that reads
            super().__init__(file_format=file_format, **kwargs)

    def download_and_prepare(self, **kwargs):
        """As that of `tfds.core.DatasetBuilder`; of two processes, the second waits for the first and does nothing."""
        config = kwargs.get("download_config")
        if config and config.max_examples_per_split is not None:
            raise ValueError("`max_examples_per_split` is not supported: parts are dealt before clips are decoded.")
        if self.is_prepared() and not (config and config.download_mode.overwrite_dataset):
            return
        config_dir = os.path.dirname(os.path.abspath(self.data_dir))
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(process_lock(config_dir, f"build {self.version}"))
            except OSError as error:
                reason = (
                    f"decoded clips cannot be stored in {config_dir} (`prepared_dir` chooses another place): {error}"
                )
                raise OSError(error.errno, reason) from error
            for left_by_a_kill in glob.glob(os.path.join(glob.escape(config_dir), f"incomplete.*_{self.version}")):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            super().download_and_prepare(**kwargs)
            self.info.read_from_directory(self.data_dir)  # of the other process, if that was first

    def _log_download_bytes(self):
        """Suppress the message of TFDS that the size is unknown; there is a progress bar."""

    def _log_download_done(self):
        """Suppress the message of TFDS about the folder."""

    def find_tracks(self, manual_dir):
        """The table of tracks of a folder that TFDS was told of as `manual_dir`."""
        raise ValueError(f"{type(self).__name__} needs the argument `tracks`. Received: tracks=None")

    def _info(self):
        text, number = tfds.features.Text(), tfds.features.Scalar(dtype=np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict(
                {
                    "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
                    "scale": tfds.features.Scalar(dtype=np.float32),
                    "genre": tfds.features.ClassLabel(names=list(self.builder_config.genres)),
                    "track_id": number,
                    **{column: text if unknown == "" else number for column, unknown in METADATA.items()},
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager, download_config=None):
        tracks = self._tracks if self._tracks is not None else self.find_tracks(dl_manager.manual_dir)
        present = tracks[tracks["bytes"] >= 0]
        # Parts wait here, under the fingerprint of what they are made of, until all are whole.
        name = f"parts-{self.version}-{fingerprint(tracks, self.builder_config)}"
        waiting = os.path.join(os.path.dirname(os.path.abspath(self.data_dir)), name)
        os.makedirs(waiting, exist_ok=True)
        parts = self._parts(present, waiting)
        todo = [part for part in parts if part.outcome() is None]
        wanted = _estimated_bytes([row["path"] for part in todo for row in part.rows], self.builder_config.sample_rate)
        check_disk_space(waiting, wanted, "Storing the decoded clips")
        if len(todo) < len(parts):
            print_message(
                f"Going on with a build that was broken off: {len(parts) - len(todo)} of {len(parts)} parts are there."
            )
        if download_config and (download_config.beam_runner or download_config.beam_options):
            _write_with_beam(todo, download_config)
        else:
            _write_with_threads(parts, todo)
        self._finish(tracks, parts)
        shutil.rmtree(waiting, ignore_errors=True)

    def _shard_iterators_per_split(self, dl_manager):  # pragma: no cover - TFDS wants it, and nothing calls it
        raise NotImplementedError("parts are written by `_download_and_prepare`, which goes on where it stopped")

    def _parts(self, tracks, folder):
        """The parts of each split, in order."""
        tracks = tracks.assign(**{name: unknown for name, unknown in METADATA.items() if name not in tracks})
        splits = tracks["split"] if "split" in tracks else pd.Series("train", tracks.index)
        parts = []
        for split in SPLITS:
            members = tracks[splits == split]
            count = -(-len(members) // CLIPS_A_PART)
            for number in range(count):
                rows = members.iloc[number * CLIPS_A_PART : (number + 1) * CLIPS_A_PART]
                rows = [{"track_id": int(track_id), **row._asdict()} for track_id, row in _rows(rows)]
                path = self._file(folder, split, number, count)
                parts.append(
                    _Part(
                        split, path, rows, self.builder_config.sample_rate, self.info.features, self._example_writer()
                    )
                )
        return parts

    def _file(self, folder, split, number, count):
        return os.fspath(self._template(folder, split).sharded_filepath(shard_index=number, num_shards=count))

    def _template(self, folder, split):
        return tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=self.name, split=split, filetype_suffix=self.info.file_format.file_suffix
        )

    def _finish(self, tracks, parts):
        """Move the parts to where TFDS wants them, and note what is in them."""
        outcomes = {part.path: part.outcome() for part in parts}
        incomplete, broken = (
            {key: reason for outcome in outcomes.values() for key, reason in outcome[kind].items()}
            for kind in ("incomplete", "broken")
        )
        if not any(outcome["track_id"] for outcome in outcomes.values()):
            first = min(broken, key=int)
            raise ValueError(f"None of the {len(broken)} clips can be read. The first, track {first}: {broken[first]}")
        split_infos, stored, places = [], {}, {}
        for split in SPLITS:
            # TFDS cannot store a part, or a split, without examples.
            full = [part.path for part in parts if part.split == split and outcomes[part.path]["track_id"]]
            if not full:
                continue
            places |= {path: self._file(self.data_dir, split, number, len(full)) for number, path in enumerate(full)}
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(outcomes[path]["track_id"]) for path in full],
                    num_bytes=sum(map(os.path.getsize, full)),
                    filename_template=self._template(self.data_dir, split),
                )
            )
            stored[split] = {
                key: [value for path in full for value in outcomes[path][key]] for key in ("track_id", "checksum")
            }
        self.info.set_splits(tfds.core.SplitDict(split_infos))
        self.info.metadata.update(
            tracks=len(tracks),
            missing=[int(track_id) for track_id in tracks.index[tracks["bytes"] < 0]],
            incomplete=incomplete,
            broken=broken,
            stored=stored,
            fingerprint=fingerprint(tracks, self.builder_config),
        )
        self.info.write_to_directory(self.data_dir)  # so that a full disk is noticed before the parts are moved
        for path, place in places.items():
            os.replace(path, place)


def fingerprint(tracks, config):
    """Changes with all that a dataset is made of: ids, labels, sizes of the files, what is known of the tracks, rate.

    Not with where the folder lies.
    """
    content = hashlib.sha256(repr((tuple(config.genres), config.sample_rate)).encode())
    content.update(tracks.drop(columns="path").to_csv().encode(errors="surrogateescape"))
    return content.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some clips, and the file they go to. It travels to the workers of Beam."""

    split: str
    path: str
    rows: list
    sample_rate: int
    features: tfds.features.FeaturesDict
    writer: tfds.core.ExampleWriter

    def outcome(self):
        """Return the content of this part, or `None` if it is not complete.

        The content is a dict with the lists `track_id` and `checksum`, and the dicts `incomplete` and `broken`, track
        id -> reason.
        """
        if not (os.path.exists(self._note) and os.path.exists(self.path)):
            return None
        with open(self._note, encoding="utf-8") as file:
            return json.load(file)

    def write(self, threads=1, decoded=lambda: None):
        """Decode the clips and write those that can be read; the note of them, written last, says that it is whole."""
        outcome = {"track_id": [], "checksum": [], "incomplete": {}, "broken": {}}
        with atomic_write(self.path) as temporary:
            try:
                self.writer.write(temporary, self._examples(outcome, threads, decoded))
            except RuntimeError as error:  # that of ArrayRecord, of a full disk say
                raise OSError(f"{self.path} cannot be written: {error}. What is whole is kept.") from error
        with atomic_write(self._note) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(outcome, file)

    @property
    def _note(self):
        return f"{self.path}.json"

    def _examples(self, outcome, threads, decoded):
        serializer = ExampleSerializer(self.features.get_serialized_info())
        for row, (clip, reason) in self._clips(threads):
            decoded()
            if clip is None:
                outcome["broken"][str(row["track_id"])] = reason
                continue
            if reason:
                outcome["incomplete"][str(row["track_id"])] = reason
            scale = max(np.float32(1), np.abs(clip).max())
            stored = np.rint(clip * (np.float32(32767) / scale)).astype("int16")
            outcome["track_id"].append(row["track_id"])
            outcome["checksum"].append(hashlib.blake2b(stored.tobytes(), digest_size=8).hexdigest())
            fields = {name: row[name] for name in ("genre", "track_id", *METADATA)}
            example = {"audio": stored, "scale": scale, **fields}
            message = serializer.get_tf_example(self.features.encode_example(example))
            # TFDS' own bytes differ from process to process, in the order of the fields.
            yield row["track_id"], message.SerializeToString(deterministic=True)

    def _clips(self, threads):
        """Yield each row with the result of `_decode`, in order; threads decode a few clips ahead."""
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            waiting = collections.deque()
            try:
                for row in self.rows:
                    waiting.append((row, pool.submit(_decode, row["path"], self.sample_rate)))
                    if len(waiting) > 2 * threads:
                        row, future = waiting.popleft()
                        yield row, future.result()
                while waiting:
                    row, future = waiting.popleft()
                    yield row, future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _rows(tracks):
    return zip(tracks.index, tracks[["genre", "path", *METADATA]].itertuples(index=False), strict=True)


def _decode(path, sample_rate):
    """Decode a clip.

    Returns:
        (waveform, `None`); (waveform, reason) if the clip is damaged or shorter than its header states; or
        (`None`, reason) if less than `MIN_SECONDS` can be decoded.

    Raises:
        OSError: the file cannot be opened, for a reason other than its content (too many open files, a missing disk).
            The part is not written, and the next build tries again.
    """
    with contextlib.suppress(PermissionError), open(path, "rb") as file:
        file.read(1)
    try:
        clip, warning = audio.decode(path, sample_rate)
    except audio.AudioError as error:
        return None, error.reason
    if len(clip) < MIN_SECONDS * sample_rate:
        return None, f"cut short: {len(clip) / sample_rate:.1f} s"
    return clip, warning


def _write_with_threads(parts, todo):
    there = sum(len(part.rows) for part in parts) - sum(len(part.rows) for part in todo)
    clips = sum(len(part.rows) for part in parts)
    with bar(clips, "Decoding clips", "clip", initial=there) as progress:
        for part in todo:
            part.write(threads=os.cpu_count(), decoded=progress.update)


def _write_with_beam(todo, download_config):
    try:
        import apache_beam as beam
    except ImportError as error:
        raise ImportError("Building with Beam needs apache-beam: pip install 'genrekeras[beam]'") from error
    print_message(f"Decoding {sum(len(part.rows) for part in todo)} clips in {len(todo)} parts, with Beam.")
    # Only the names of clips travel through the pipeline; the decoded ones go to the folder of the dataset.
    with beam.Pipeline(runner=download_config.beam_runner, options=download_config.beam_options) as pipeline:
        _ = pipeline | beam.Create(todo) | beam.Reshuffle() | "Write" >> beam.Map(_Part.write)


def _estimated_bytes(paths, sample_rate, probes=50):
    """Estimate the size of all clips as int16, in bytes, from the lengths that the headers of some files state."""
    seconds = []
    for path in paths[:: max(1, len(paths) // probes)]:
        try:
            seconds.append(audio.info(path).seconds)
        except audio.AudioError:  # takes no room
            seconds.append(0.0)
    return int(np.mean(seconds) * len(paths) * sample_rate * 2) if seconds else 0
