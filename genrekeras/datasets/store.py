"""Store the decoded clips of a table of tracks as a TFDS dataset.

All clips are stored as int16 at the same sample rate. Before the clips are decoded, they are divided into parts, which
are the shards of TFDS. The parts are written by threads of this process or by workers of an Apache Beam pipeline. Both
write the same bytes. If a build is interrupted, the next build keeps the complete parts.
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
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from genrekeras import audio
from genrekeras.datasets.groups import UNKNOWN
from genrekeras.datasets.splits import SPLITS
from genrekeras.utils.io import StrPath, atomic_write, check_disk_space, process_lock
from genrekeras.utils.logging import only_absl_errors
from genrekeras.utils.progress import bar, print_message
from tensorflow_datasets.core.example_serializer import ExampleSerializer

# Shorter clips are not stored, because they are too short to have a genre. Three damaged clips of FMA last 0.5 to
# 1.6 s.
MIN_SECONDS = 2.0
CLIPS_PER_PART = 128  # with clips of 30 s at 22,050 Hz, a part has 170 MB
# Columns that are stored with the audio, and their values for unknown entries.
METADATA = {"title": "", "artist": "", "artist_id": UNKNOWN, "album": "", "album_id": UNKNOWN, "license": ""}


@dataclasses.dataclass(eq=False)
class StoreConfig(tfds.core.BuilderConfig):
    """Configuration of a `Store`.

    Attributes:
        sample_rate: in Hz, sample rate of the stored clips.
        genres: in the order of the labels.
    """

    sample_rate: int = 22050
    genres: tuple[str, ...] = ()


class Store(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS has no types
    """TFDS dataset of the clips of a table of tracks.

    The features of an example are:

    - `audio`: `(samples,)` int16, the complete clip in mono.
    - `scale`: float32, the amplitude that the value 32,767 in `audio` represents. It is 1, or the peak of the clip if
      the peak exceeds 1.
    - `genre`: int, the label. The value is -1 for a clip without a genre.
    - `track_id`: int.
    - `title`, `artist`, `artist_id`, `album`, `album_id` and `license`. `METADATA` lists their values for unknown
      entries.

    The examples are sorted by track id. `info.metadata` contains the ids and checksums of the stored clips, and lists
    the missing, broken and incomplete clips.

    Args:
        tracks: table with a row for each track, indexed by `track_id` and sorted. The columns are `path` and `bytes`
            (size of the file, -1 for a missing file). The columns `genre` (empty for a track without a genre), `split`
            and those of `METADATA` are optional. `None` is allowed if the dataset is prepared, or if a subclass
            implements `find_tracks`.
        file_format: file format of TFDS.
        kwargs: further arguments of `tfds.core.DatasetBuilder`.
    """

    VERSION = tfds.core.Version("3.0.0")
    pkg_dir_path = None
    DESCRIPTION = "Clips of music with their genre."
    CITATION = ""
    HOMEPAGE = ""

    def __init__(self, *, tracks: pd.DataFrame | None = None, file_format: str = "array_record", **kwargs: Any):
        self._tracks = tracks
        with only_absl_errors():  # needed here, because each worker process creates a new object
            super().__init__(file_format=file_format, **kwargs)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Build the dataset, see `tfds.core.DatasetBuilder`.

        If another process is building the dataset, this method waits until that process has finished.
        """
        config = kwargs.get("download_config")
        if config and config.max_examples_per_split is not None:
            raise ValueError(
                "`max_examples_per_split` must be None. "
                f"Received: max_examples_per_split={config.max_examples_per_split}"
            )
        if self.is_prepared() and not (config and config.download_mode.overwrite_dataset):
            return
        config_dir = os.path.dirname(os.path.abspath(self.data_dir))
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(process_lock(config_dir, f"build {self.version}"))
            except OSError as error:
                reason = f"Decoded clips cannot be stored in {config_dir}: {error}. Choose another `prepared_dir`."
                raise OSError(error.errno, reason) from error
            for leftover in glob.glob(os.path.join(glob.escape(config_dir), f"incomplete.*_{self.version}")):
                shutil.rmtree(leftover, ignore_errors=True)  # a killed process could not remove this folder
            super().download_and_prepare(**kwargs)
            self.info.read_from_directory(self.data_dir)  # another process may have built the dataset

    def _log_download_bytes(self):
        """Suppress the message of TFDS about the unknown size."""

    def _log_download_done(self):
        """Suppress the message of TFDS about the folder."""

    def find_tracks(self, manual_dir: StrPath) -> pd.DataFrame:
        """Return the table of tracks in a folder. Subclasses may implement this method.

        Args:
            manual_dir: the argument of `tfds.download.DownloadConfig`.
        """
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
        # Until all parts are complete, the parts are in a separate folder. Its name contains the fingerprint, so parts
        # of another build are not used.
        name = f"parts-{self.version}-{fingerprint(tracks, self.builder_config)}"
        parts_dir = os.path.join(os.path.dirname(os.path.abspath(self.data_dir)), name)
        os.makedirs(parts_dir, exist_ok=True)
        parts = self._parts(present, parts_dir)
        todo = [part for part in parts if part.content() is None]
        paths = [row["path"] for part in todo for row in part.rows]
        required = _estimated_bytes(paths, self.builder_config.sample_rate)
        check_disk_space(parts_dir, required, "Storing the decoded clips")
        if len(todo) < len(parts):
            print_message(
                f"Resuming an interrupted build. {len(parts) - len(todo)} of {len(parts)} parts are complete."
            )
        if download_config and (download_config.beam_runner or download_config.beam_options):
            _write_with_beam(todo, download_config)
        else:
            _write_with_threads(parts, todo)
        self._finish(tracks, parts)
        shutil.rmtree(parts_dir, ignore_errors=True)

    def _shard_iterators_per_split(self, dl_manager):  # pragma: no cover - abstract in TFDS, not called
        raise NotImplementedError("`_download_and_prepare` writes the shards.")

    def _parts(self, tracks, folder):
        """Return a list of the parts (`_Part`) of all splits."""
        defaults = {"genre": "", **METADATA}
        tracks = tracks.assign(**{name: unknown for name, unknown in defaults.items() if name not in tracks})
        splits = tracks["split"] if "split" in tracks else pd.Series("train", tracks.index)
        parts = []
        for split in SPLITS:
            split_tracks = tracks[splits == split]
            count = -(-len(split_tracks) // CLIPS_PER_PART)
            for number in range(count):
                rows = split_tracks.iloc[number * CLIPS_PER_PART : (number + 1) * CLIPS_PER_PART]
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
        """Move the parts to the folder of the dataset, and write `info` to this folder."""
        contents = {part.path: part.content() for part in parts}
        incomplete, broken = (
            {key: reason for content in contents.values() for key, reason in content[kind].items()}
            for kind in ("incomplete", "broken")
        )
        if not any(content["track_id"] for content in contents.values()):
            first = min(broken, key=int)
            raise ValueError(f"None of the {len(broken)} clips can be read. Track {first}: {broken[first]}")
        split_infos, stored, targets = [], {}, {}
        for split in SPLITS:
            # TFDS does not support shards or splits without examples.
            paths = [part.path for part in parts if part.split == split and contents[part.path]["track_id"]]
            if not paths:
                continue
            targets |= {path: self._file(self.data_dir, split, number, len(paths)) for number, path in enumerate(paths)}
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(contents[path]["track_id"]) for path in paths],
                    num_bytes=sum(map(os.path.getsize, paths)),
                    filename_template=self._template(self.data_dir, split),
                )
            )
            stored[split] = {
                key: [value for path in paths for value in contents[path][key]] for key in ("track_id", "checksum")
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
        self.info.write_to_directory(self.data_dir)  # written first, because this step fails if the disk is full
        for path, target in targets.items():
            os.replace(path, target)


def fingerprint(tracks: pd.DataFrame, config: StoreConfig) -> str:
    """Return a hash of the content of a dataset.

    The hash depends on the configuration and on all columns of the table of tracks except the paths.

    Args:
        tracks: see `Store`.
        config: configuration of the dataset.

    Returns:
        16 hexadecimal digits.
    """
    content = hashlib.sha256(repr((tuple(config.genres), config.sample_rate)).encode())
    content.update(tracks.drop(columns="path").to_csv().encode(errors="surrogateescape"))
    return content.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Part of a dataset. It can be pickled, so workers of Beam can write it.

    Attributes:
        split: str, name of the split.
        path: str, path of the file of the part.
        rows: list of dict, rows of the table of tracks.
        sample_rate: int, in Hz, sample rate of the stored clips.
        features: `tfds.features.FeaturesDict`, features of an example.
        writer: `tfds.core.ExampleWriter`, writes the file.
    """

    split: str
    path: str
    rows: list
    sample_rate: int
    features: tfds.features.FeaturesDict
    writer: tfds.core.ExampleWriter

    def content(self):
        """Return a description of the stored clips, or `None` if the part is not complete.

        Returns:
            dict. `track_id` and `checksum` are lists with an element for each stored clip. `incomplete` and `broken`
            are dicts, track id -> reason.
        """
        if not (os.path.exists(self._content_path) and os.path.exists(self.path)):
            return None
        with open(self._content_path, encoding="utf-8") as file:
            return json.load(file)

    def write(self, threads=1, on_clip=lambda: None):
        """Decode the clips, and write the clips that can be decoded.

        The file that `content` reads is written last. If this file exists, the part is complete.

        Args:
            threads: int > 0, number of threads that decode clips.
            on_clip: callable without arguments. It is called after each clip.
        """
        content = {"track_id": [], "checksum": [], "incomplete": {}, "broken": {}}
        with atomic_write(self.path) as temporary:
            try:
                self.writer.write(temporary, self._examples(content, threads, on_clip))
            except RuntimeError as error:  # ArrayRecord raises RuntimeError, for example if the disk is full
                raise OSError(f"{self.path} cannot be written: {error}. Complete parts are kept.") from error
        with atomic_write(self._content_path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file)

    @property
    def _content_path(self):
        return f"{self.path}.json"

    def _examples(self, content, threads, on_clip):
        """Yield the track id and the serialized example of each clip that can be decoded.

        The generator also fills the dict `content`. The method `content` describes the keys of this dict.
        """
        serializer = ExampleSerializer(self.features.get_serialized_info())
        for row, (clip, reason) in self._clips(threads):
            on_clip()
            if clip is None:
                content["broken"][str(row["track_id"])] = reason
                continue
            if reason:
                content["incomplete"][str(row["track_id"])] = reason
            scale = max(np.float32(1), np.abs(clip).max())
            stored = np.rint(clip * (np.float32(32767) / scale)).astype("int16")
            content["track_id"].append(row["track_id"])
            content["checksum"].append(hashlib.blake2b(stored.tobytes(), digest_size=8).hexdigest())
            fields = {name: row[name] for name in ("track_id", *METADATA)}
            example = {"audio": stored, "scale": scale, "genre": row["genre"] or -1, **fields}
            message = serializer.get_tf_example(self.features.encode_example(example))
            # TFDS would serialize the fields in another order in each process.
            yield row["track_id"], message.SerializeToString(deterministic=True)

    def _clips(self, threads):
        """Yield tuples (row, result of `_decode`) in the order of the rows. Threads decode some clips ahead."""
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            queue = collections.deque()
            try:
                for row in self.rows:
                    queue.append((row, pool.submit(_decode, row["path"], self.sample_rate)))
                    if len(queue) > 2 * threads:
                        row, future = queue.popleft()
                        yield row, future.result()
                while queue:
                    row, future = queue.popleft()
                    yield row, future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _rows(tracks):
    """Return an iterator of tuples (track id, row). A row is a named tuple."""
    return zip(tracks.index, tracks[["genre", "path", *METADATA]].itertuples(index=False), strict=True)


def _decode(path, sample_rate):
    """Decode a clip.

    Returns:
        tuple of the waveform and `None`. If the clip is damaged or shorter than its header states, tuple of the
        waveform and the reason. If less than `MIN_SECONDS` can be decoded, tuple of `None` and the reason.

    Raises:
        OSError: the file cannot be opened for a reason that is not its content, such as too many open files. The
            build stops, and the next build decodes the clip again.
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
    total, remaining = (sum(len(part.rows) for part in selected) for selected in (parts, todo))
    with bar(total, "Decoding clips", "clip", initial=total - remaining) as progress:
        for part in todo:
            part.write(threads=os.cpu_count(), on_clip=progress.update)


def _write_with_beam(todo, download_config):
    try:
        import apache_beam as beam
    except ImportError as error:
        raise ImportError("`beam_options` needs Apache Beam: pip install 'genrekeras[beam]'") from error
    print_message(f"Decoding {sum(len(part.rows) for part in todo)} clips in {len(todo)} parts, with Beam.")
    # The pipeline sends only the tables of tracks to the workers. The workers write the files of the parts.
    with beam.Pipeline(runner=download_config.beam_runner, options=download_config.beam_options) as pipeline:
        _ = pipeline | beam.Create(todo) | beam.Reshuffle() | "Write" >> beam.Map(_Part.write)


def _estimated_bytes(paths, sample_rate, probes=50):
    """Estimate the size of the stored clips in bytes from the lengths that the headers of some files state."""
    seconds = []
    for path in paths[:: max(1, len(paths) // probes)]:
        try:
            seconds.append(audio.info(path).seconds)
        except audio.AudioError:  # the clip will not be stored
            seconds.append(0.0)
    return int(np.mean(seconds) * len(paths) * sample_rate * 2) if seconds else 0
