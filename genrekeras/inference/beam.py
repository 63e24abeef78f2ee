"""Predict the genres of millions of audio files with Apache Beam, on one machine or on a cluster.

The process that starts the pipeline writes all paths to one file in the output folder. Consecutive paths are assigned
to shards. The pipeline sends only the number and the position of each shard to the workers. A worker reads the paths of
the shard, processes the files, and writes the rows to one file. Neither the paths nor the rows of a run are in the
memory of one process.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import hashlib
import itertools
import json
import math
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from genrekeras import audio
from genrekeras.inference.predict import check_counts, predict_each, row_settings
from genrekeras.models.track_classifier import TrackClassifier
from genrekeras.utils.audio_files import find_files
from genrekeras.utils.io import TEMPORARY
from genrekeras.utils.progress import print_message

LIST_ENDINGS = (".txt", ".txt.gz")
# More than 10,000 shards would be many files for a folder, and a large description of the pipeline for a runner.
_MIN_SHARD_FILES, _MAX_SHARDS = 100, 10_000
_MANIFEST, _PATHS, _SHARD = "manifest.json", "paths.jsonl", "predictions-"
_UNREADABLE = "unreadable"  # counter of the pipeline
# A process handles one shard at a time. Some runners start several threads, whose clips would need memory.
_LOCK = threading.Lock()


class Summary(NamedTuple):
    """Result of `predict_with_beam`.

    Attributes:
        files: number of files.
        shards: number of shards.
        processed: number of files that this call processed. The other files were processed by earlier calls.
        unreadable: number of files among `processed` that could not be read.
    """

    files: int
    shards: int
    processed: int
    unreadable: int


def predict_with_beam(
    load_model: Callable[[], TrackClassifier],
    files: Iterable[str],
    output: str,
    beam_options: Sequence[str],
    max_clips: int = 30,
    workers: int = 2,
) -> Summary:
    """Predict the genre of audio files with an Apache Beam pipeline, and write the rows to a folder as JSON lines.

    A call with the same arguments continues an interrupted call: finished shards are kept. Only one process may write
    to a folder at a time.

    Args:
        load_model: function that loads the model. It can be pickled, and loads the same model on each worker.
        files: audio files and folders, see `predict_files`, and lists of audio files. A list is a text file that ends
            in .txt or .txt.gz, with one path per line. Files and lists may be on any file system that Beam supports,
            such as gs://bucket/song.mp3. Each worker must be able to read the audio files under these paths.
        output: folder for the shards, on any file system that Beam supports. It is created if it does not exist.
        beam_options: options of the pipeline, such as `["--runner=DirectRunner"]`.
        max_clips, workers: see `predict_files`. Each worker process decodes with `workers` threads.

    Raises:
        ValueError: an argument is out of range, there are no files, a folder or a list contains no audio files, or
            `output` contains predictions of other files or with other settings.
        OSError: a list cannot be read, or `output` cannot be written.
        ModuleNotFoundError: Apache Beam is not installed.
    """
    import apache_beam as beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.metrics.metric import MetricsFilter
    from apache_beam.options.pipeline_options import PipelineOptions

    check_counts(max_clips=max_clips, workers=workers)
    if set("*?[") & set(output):  # Beam has no way to quote these characters in a pattern.
        raise ValueError(f"The name of the output folder must not contain *, ? or [. Received: {output}")
    pipeline = beam.Pipeline(options=PipelineOptions(list(beam_options)))  # also sets the options of file systems
    settings = _as_json(row_settings(load_model(), max_clips))
    with tempfile.TemporaryFile() as paths:
        count, offsets, digest = _write_paths(paths, files)
        step = math.ceil(len(offsets) / _MAX_SHARDS)
        shard_files = step * _MIN_SHARD_FILES
        manifest = {**settings, "files": count, "files_sha256": digest, "shard_files": shard_files}
        _prepare_output(output, manifest, paths)
    shards = [
        _Shard(f"{_SHARD}{index:05d}.jsonl", offset, min(shard_files, count - index * shard_files))
        for index, offset in enumerate(offsets[::step])
    ]
    finished = _find(output, _SHARD)
    todo = [shard for shard in shards if shard.name not in finished]
    processed = sum(shard.files for shard in todo)
    print_message(f"Shards to predict with Beam: {len(todo):,} of {len(shards):,} (files: {processed:,})")
    unreadable = 0
    if todo:
        writer = _ShardWriter(load_model, settings, output, max_clips, workers)
        _ = pipeline | beam.Create(todo) | beam.Reshuffle() | "Predict" >> beam.Map(writer.write)
        result = pipeline.run()
        result.wait_until_finish()
        counters = result.metrics().query(MetricsFilter().with_name(_UNREADABLE))["counters"]
        unreadable = sum(counter.result for counter in counters)
    if leftovers := _find(output, TEMPORARY):  # of interrupted calls and repeated attempts
        FileSystems.delete([_path_in(output, name) for name in leftovers])
    return Summary(count, len(shards), processed, unreadable)


class _Shard(NamedTuple):
    """A shard.

    Attributes:
        name: name of the file that contains the rows.
        offset: position of the first path in the file of all paths, in bytes.
        files: number of files.
    """

    name: str
    offset: int
    files: int


class _ShardWriter:
    """Function that workers apply to shards. It can be pickled.

    Args:
        load_model, output, max_clips, workers: see `predict_with_beam`.
        settings: the settings on which the rows depend, as JSON.
    """

    def __init__(self, load_model, settings, output, max_clips, workers):
        from apache_beam.utils.shared import Shared

        self._load_model, self._settings, self._output = load_model, settings, output
        self._max_clips, self._workers = max_clips, workers
        self._shared = Shared()  # a process loads the model once

    def write(self, shard: _Shard) -> None:
        """Predict the genres of the files of a shard, and write the rows to the file of the shard."""
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.metrics import Metrics

        with _LOCK:
            model = self._shared.acquire(self._load)
            if FileSystems.exists(_path_in(self._output, shard.name)):  # An earlier attempt wrote it.
                return
            with FileSystems.open(_path_in(self._output, _PATHS)) as file:
                file.seek(shard.offset)
                paths = [json.loads(file.readline()) for _ in range(shard.files)]
            gc.collect()  # `predict_each` copies the model. Without this, copies of earlier shards are in memory.
            rows = predict_each(model, paths, self._max_clips, workers=self._workers, local_file=_local_file)
            with _atomic_create(self._output, shard.name) as file:
                for row in rows:
                    file.write(json.dumps(row).encode() + b"\n")
                    if row["error"] is not None:
                        Metrics.counter("genrekeras", _UNREADABLE).inc()

    def _load(self):
        model = self._load_model()
        if _as_json(row_settings(model, self._max_clips)) != self._settings:
            raise ValueError(
                "A worker has another model than the process that started the pipeline. Copy the model to the same "
                "path on all workers."
            )
        return model


def _write_paths(target, files):
    """Write the paths of audio files to a file, as JSON lines.

    Returns:
        The number of paths, the position of each 100th line in bytes, and a digest of the file.
    """
    offsets, digest, position, count = [], hashlib.sha256(), 0, 0
    for path in itertools.chain.from_iterable(map(_expand, files)):
        if count % _MIN_SHARD_FILES == 0:
            offsets.append(position)
        line = json.dumps(path).encode() + b"\n"
        target.write(line)
        digest.update(line)
        position += len(line)
        count += 1
    if not count:
        raise ValueError("`files` must contain at least one file, folder or list.")
    target.seek(0)
    return count, offsets, digest.hexdigest()


def _expand(file: str) -> Iterable[str]:
    """Return the audio files of a list or folder. Return other files unchanged."""
    return _read_list(file) if file.lower().endswith(LIST_ENDINGS) else find_files(file)


def _read_list(path: str) -> Iterator[str]:
    """Yield the lines of a text file without blank lines."""
    from apache_beam.io.filesystems import FileSystems

    is_empty = True
    with FileSystems.open(path) as file:
        for number, line in enumerate(iter(file.readline, b"")):  # A compressed file has no other way.
            line = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            name = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
            if name.strip():
                is_empty = False
                yield name
    if is_empty:
        raise ValueError(f"The list {path} contains no paths.")


def _prepare_output(output: str, manifest: dict[str, Any], paths: IO[bytes]) -> None:
    """Write the manifest and the paths to the output folder, or compare the manifest of an earlier call.

    Raises:
        ValueError: the folder contains predictions of other files or with other settings.
    """
    from apache_beam.io.filesystems import FileSystems

    target = _path_in(output, _MANIFEST)
    if not FileSystems.exists(output):
        FileSystems.mkdirs(output)
    if FileSystems.exists(target):
        with FileSystems.open(target) as file:
            try:
                existing = dict(json.loads(file.read()))
            except (ValueError, TypeError):  # another file of this name
                existing = {}
        if different := sorted(key for key in existing | manifest if existing.get(key) != manifest.get(key)):
            raise ValueError(
                f"{output} contains predictions of other files or with other settings (different: "
                f"{', '.join(different)}). Choose another folder, or repeat the call with the same files, model and "
                "settings."
            )
    elif _find(output, _SHARD):
        raise ValueError(f"{output} contains predictions without a {_MANIFEST}. Choose another folder.")
    else:
        with _atomic_create(output, _PATHS) as file:
            shutil.copyfileobj(paths, file)
        with _atomic_create(output, _MANIFEST) as file:  # The folder is complete with this file, so it is the last one.
            file.write(json.dumps(manifest, indent=1).encode() + b"\n")


@contextlib.contextmanager
def _atomic_create(output: str, name: str) -> Iterator[IO[bytes]]:
    """Context manager that writes a file of the output folder completely or not at all."""
    from apache_beam.io.filesystems import FileSystems

    temporary = _path_in(output, f"{TEMPORARY}{secrets.token_hex(8)}")
    with FileSystems.create(temporary) as file:
        yield file
        file.flush()
        with contextlib.suppress(OSError, AttributeError):  # only files on disks have a number
            os.fsync(file.fileno())  # Without this, the file could be empty after a power failure.
    FileSystems.rename([temporary], [_path_in(output, name)])


@contextlib.contextmanager
def _local_file(path: str) -> Iterator[str]:
    """Context manager that downloads a file, such as gs://bucket/song.mp3, to a temporary file, and yields its path.

    The path of a file without a scheme such as "gs://" is returned unchanged.
    """
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    if FileSystems.get_scheme(path) is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "audio")
        try:
            with (
                FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source,
                open(copy, "wb") as target,
            ):
                shutil.copyfileobj(source, target)
        except Exception as error:  # Each file system has its own exceptions.
            raise audio.AudioError(path, f"cannot be downloaded: {error}") from error
        yield copy


def _find(output: str, prefix: str) -> set[str]:
    """Return the names of the files in the output folder that begin with a prefix."""
    from apache_beam.io.filesystems import FileSystems

    (result,) = FileSystems.match([_path_in(output, f"{prefix}*")])
    return {FileSystems.split(metadata.path)[1] for metadata in result.metadata_list}


def _path_in(output: str, name: str) -> str:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.join(output, name)


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as they are after they were written as JSON and read again."""
    return json.loads(json.dumps(settings, default=str))
