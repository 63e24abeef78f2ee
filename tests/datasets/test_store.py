"""The store: equal bytes from threads and Beam, after a kill and from simultaneous builds; errors; TFDS."""

import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import warnings

import genrekeras as gk
import numpy as np
import processes
import pytest
import tensorflow_datasets as tfds
from conftest import write_fma
from genrekeras.datasets import store
from genrekeras.datasets.fma import builder
from genrekeras.datasets.synthetic import Synthetic

GENRES = ("Rock", "Pop", "Folk", "Electronic")
TRACKS = [
    (500 * i + 2, GENRES[i % 4], "training" if i < 14 else ("validation" if i < 18 else "test")) for i in range(20)
]
BUILD = """
import os, sys, time, warnings, genrekeras as gk
from genrekeras.utils import io
from genrekeras.datasets import store
warnings.simplefilter("ignore")
store.CLIPS_PER_PART = 2
decode, print_message, waiting = store._decode, io.print_message, sys.argv[2] + ".waiting"
def slow(path, rate):
    time.sleep(float(sys.argv[3]))
    deadline = time.monotonic() + float(sys.argv[4])
    while not os.path.exists(waiting) and time.monotonic() < deadline:
        time.sleep(0.05)
    with open(sys.argv[2] + ".log", "a") as log:
        log.write(path + "\\n")
    return decode(path, rate)
def print_and_signal(text):
    print_message(text)
    if "another process" in text:
        open(waiting, "w").close()
store._decode, io.print_message = slow, print_and_signal
if __name__ == "__main__":
    gk.datasets.load_fma(sys.argv[1], prepared_dir=sys.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 clips, of which three are broken; with two clips per part, one part has no readable clip."""
    folder = write_fma(tmp_path_factory.mktemp("store") / "fma", TRACKS)
    for track_id in (502, 4002, 4502):
        (folder / "fma_small" / f"{track_id // 1000:03d}" / f"{track_id:06d}.mp3").write_bytes(b"no music")
    return folder


@pytest.fixture
def two_clips_per_part(monkeypatch):
    monkeypatch.setattr(store, "CLIPS_PER_PART", 2)


def build(folder, prepared, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*are left out")
        return gk.datasets.load_fma(folder, prepared_dir=prepared, **options)


def start(folder, prepared, seconds_per_clip, until_another_waits=0):
    """Start a slow build in another process. Return it and the file of its messages. Decoded clips are logged."""
    directory = pathlib.Path(tempfile.mkdtemp(dir=prepared.parent))
    script, stderr = directory / "build.py", directory / "stderr"
    script.write_text(BUILD)
    arguments = folder, prepared, seconds_per_clip, until_another_waits
    return processes.start(script, *arguments, stdout=os.devnull, stderr=stderr), stderr


def log(prepared):
    path = f"{prepared}.log"
    return open(path).read().splitlines() if os.path.exists(path) else []


def digests(prepared):
    """dict, file -> checksum, of all files of a build but its lock."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(prepared) for name in names)
    return {
        os.path.relpath(path, prepared): hashlib.sha1(open(path, "rb").read()).hexdigest()
        for path in paths
        if not path.endswith(".lock")
    }


@pytest.fixture
def reference(folder, tmp_path, two_clips_per_part):
    build(folder, tmp_path / "reference")
    return digests(tmp_path / "reference")


def test_files_of_a_build(reference):
    records = [name for name in reference if "array_record" in name]
    assert len(records) == 6 + 2 + 1  # one of 7 training parts has no readable clip
    assert not [name for name in reference if "parts-" in name or "incomplete" in name]


@pytest.mark.parametrize("mode", ["in_memory", pytest.param("multi_processing", marks=pytest.mark.slow)])
def test_beam_workers_write_the_same_bytes(folder, tmp_path, reference, capsys, mode):
    pytest.importorskip("apache_beam", reason="apache-beam (extra `beam`) is not installed")
    workers = 3 if mode == "multi_processing" else 1
    options = ["--runner=DirectRunner", f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
    data = build(folder, tmp_path / "beam", beam_options=options)
    assert "Decoding 20 clips in 10 parts, with Beam." in capsys.readouterr().err
    assert digests(tmp_path / "beam") == reference
    assert sorted(data.broken) == [502, 4002, 4502] and len(data.train) == 11


def test_a_killed_build_is_resumed(folder, tmp_path, reference):
    prepared = tmp_path / "killed"
    process, _ = start(folder, prepared, 0.2)
    deadline = time.time() + 120
    while len(log(prepared)) < 9 and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    process.join()
    first = log(prepared)
    assert 9 <= len(first) < 20
    os.remove(f"{prepared}.log")
    process, stderr = start(folder, prepared, 0)
    assert processes.wait(process, 120) == 0 and "Resuming an interrupted build" in stderr.read_text()
    assert len(log(prepared)) <= 20 - len(first) + 6  # at most three incomplete parts
    assert digests(prepared) == reference


def test_an_interrupted_build_is_resumed(folder, tmp_path, reference, monkeypatch):
    decode, calls = store._decode, []

    def interrupt(path, sample_rate):
        calls.append(path)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return decode(path, sample_rate)

    monkeypatch.setattr(store, "_decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(folder, tmp_path / "again")
    assert not os.path.exists(tmp_path / "again" / "fma" / "small_22050hz" / "3.0.0")
    build(folder, tmp_path / "again")
    assert digests(tmp_path / "again") == reference and len(calls) < 27


def test_an_interruption_while_parts_are_moved(folder, tmp_path, reference, monkeypatch):
    replace, calls = os.replace, []

    def interrupt(source, target):
        if "parts-" in str(source) and "incomplete" in str(target):
            calls.append(source)
            if len(calls) == 4:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(folder, tmp_path / "moved")
    build(folder, tmp_path / "moved")
    assert len(calls) == 4 + 9 and digests(tmp_path / "moved") == reference


def test_simultaneous_builds(folder, tmp_path, reference):
    prepared = tmp_path / "two"
    builds = [start(folder, prepared, 0, until_another_waits=60) for _ in range(2)]
    codes = [processes.wait(process, 120) for process, _ in builds]
    errors = [stderr.read_text() for _, stderr in builds]
    assert codes == [0, 0], errors
    assert sorted("Waiting for another process" in error for error in errors) == [False, True]
    assert len(log(prepared)) == 20  # each clip once
    assert digests(prepared) == reference


def test_complete_parts_are_kept_if_the_disk_fills_up(folder, tmp_path, reference, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100_000}))
    with pytest.raises(OSError, match=r"Storing the decoded clips needs .* MiB in .*, but only 97.7 KiB are free"):
        build(folder, tmp_path / "full")
    monkeypatch.undo()
    monkeypatch.setattr(store, "CLIPS_PER_PART", 2)

    write, calls = tfds.core.ExampleWriter.write, []

    def write_some(self, path, examples):
        calls.append(path)
        if len(calls) == 5:
            raise RuntimeError("write() failed: No space left on device")
        return write(self, path, examples)

    monkeypatch.setattr(tfds.core.ExampleWriter, "write", write_some)
    with pytest.raises(OSError, match=r"cannot be written: .*No space left on device. Complete parts are kept"):
        build(folder, tmp_path / "full")
    build(folder, tmp_path / "full")
    assert len(calls) == 5 + 6 and digests(tmp_path / "full") == reference


def test_a_full_disk(folder, reference, small_disk, monkeypatch):
    disk, enlarge = small_disk
    with pytest.raises(OSError, match="Storing the decoded clips needs"):
        build(folder, disk / "p")
    monkeypatch.setattr(store, "_estimated_bytes", lambda *a: 0)
    with pytest.raises(OSError, match=r"cannot be written: .*No space left on device.*Complete parts are kept"):
        build(folder, disk / "p")
    complete = list((disk / "p").rglob("*array_record*.json"))
    assert 0 < len(complete) < 10
    enlarge("8m")
    build(folder, disk / "p")
    assert digests(disk / "p") == reference


def test_a_temporary_error_does_not_make_a_clip_broken(folder, tmp_path, reference, monkeypatch):
    decode, calls = store._decode, []

    def too_many_files(path, sample_rate):
        calls.append(path)
        if len(calls) == 9:
            raise OSError(24, "Too many open files", path)
        return decode(path, sample_rate)

    monkeypatch.setattr(store, "_decode", too_many_files)
    with pytest.raises(OSError, match="Too many open files"):
        build(folder, tmp_path / "p")
    build(folder, tmp_path / "p")
    assert digests(tmp_path / "p") == reference
    with pytest.raises(FileNotFoundError):
        decode("/no/such/file.mp3", 22050)


def test_tfds_overwrites_a_dataset(folder, tmp_path):
    builder = tfds.builder("fma/small", data_dir=tmp_path)
    for mode in (tfds.GenerateMode.REUSE_DATASET_IF_EXISTS, tfds.GenerateMode.REUSE_CACHE_IF_EXISTS):
        config = tfds.download.DownloadConfig(manual_dir=folder, download_mode=mode)
        builder.download_and_prepare(download_config=config)
    assert builder.info.splits["train"].num_examples == 11
    with pytest.raises(ValueError, match="`max_examples_per_split` must be None"):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(max_examples_per_split=3))


def test_parts_of_another_table_are_not_used(folder, tmp_path, two_clips_per_part, monkeypatch):
    """The folder of the parts of an interrupted build has the fingerprint of the table."""
    monkeypatch.setattr(store, "_estimated_bytes", lambda *a: pytest.fail("interrupted here"))
    with pytest.raises(BaseException, match="interrupted here"):
        build(folder, tmp_path / "p")
    with pytest.raises(BaseException, match="interrupted here"):
        build(folder, tmp_path / "p", sample_rate=16000)
    assert len(os.listdir(tmp_path / "p")) == 2


def test_tfds_builds_and_finds_the_dataset(folder, tmp_path):
    builder = tfds.builder("fma/small", data_dir=tmp_path / "tfds")
    config = tfds.download.DownloadConfig(manual_dir=folder)
    builder.download_and_prepare(download_config=config)
    assert builder.info.splits["train"].num_examples == 11 and "Defferrard" in builder.info.citation
    assert builder.info.features["genre"].names == list(gk.GENRES)
    again = tfds.builder("fma/small", data_dir=tmp_path / "tfds")
    source = again.as_data_source(split="test")
    assert [int(example["track_id"]) for example in source] == [9002, 9502]
    read_only = tfds.builder_from_directory(again.data_dir)  # without the builder class
    first = read_only.as_data_source(split="train")[0]
    assert first["audio"].dtype == np.int16 and read_only.info.features["genre"].int2str(first["genre"]) == "Rock"


def test_metadata_of_tracks_are_stored(tmp_path):
    from genrekeras.datasets.synthetic import write_tracks

    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (1003, "Pop", "training")])
    write_tracks(folder / "fma_metadata", [(2, "Rock", "training", 7, 70), (1003, "Pop", "training", 8, 80)])
    data = build(folder, tmp_path / "p")
    assert data.train.tracks.loc[1003, ["title", "artist", "artist_id", "album", "album_id", "license"]].tolist() == [
        "Synthetic clip 1003",
        "Artist 8",
        8,
        "Album 80",
        80,
        "CC0",
    ]
    [directory] = (tmp_path / "p").glob("*/fma/*/3.0.0")
    example = tfds.builder_from_directory(directory).as_data_source(split="train")[1]
    assert (example["title"], example["artist_id"], example["album_id"]) == (b"Synthetic clip 1003", 8, 80)
    assert (example["artist"], example["album"], example["license"]) == (b"Artist 8", b"Album 80", b"CC0")
    stored = json.loads((directory / "metadata.json").read_text())["stored"]["train"]
    assert stored["track_id"] == [2, 1003] and len(set(stored["checksum"])) == 2


def test_a_builder_without_tracks(folder, tmp_path):
    config = store.StoreConfig(name="custom", sample_rate=22050, genres=("a", "b"))
    with pytest.raises(ValueError, match="Synthetic needs the argument `tracks`"):
        Synthetic(config=config, data_dir=tmp_path).find_tracks(folder)
    with pytest.raises(tfds.core.DatasetNotFoundError, match="`tracks` must be given for the config 'custom'"):
        builder.Fma(config=config, data_dir=tmp_path).find_tracks(folder)


def test_a_prepared_dataset_is_not_prepared_again(folder, tmp_path, monkeypatch):
    builder = tfds.builder("fma/small", data_dir=tmp_path)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    monkeypatch.setattr(store, "process_lock", None)
    builder.download_and_prepare()


def test_without_beam_the_error_names_the_package(folder, tmp_path, monkeypatch):
    for module in ("apache_beam", "apache_beam.options.pipeline_options"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'genrekeras\[beam\]'"):
        build(folder, tmp_path / "beam", beam_options=["--runner=DirectRunner"])
    config = tfds.download.DownloadConfig(manual_dir=folder, beam_runner="DirectRunner")
    with pytest.raises(ImportError, match=r"pip install 'genrekeras\[beam\]'"):
        tfds.builder("fma/small", data_dir=tmp_path / "tfds").download_and_prepare(download_config=config)


def test_tfds_load_reads_with_tensorflow(folder, tmp_path):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    config = tfds.download.DownloadConfig(manual_dir=folder)
    clips = tfds.load(
        "fma/small",
        split="test",
        data_dir=tmp_path / "tfds",
        builder_kwargs={"file_format": "tfrecord"},
        download_and_prepare_kwargs={"download_config": config},
    )
    assert [int(example["track_id"]) for example in clips] == [9002, 9502]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "another file"])
def test_a_damaged_part(tmp_path, folder, two_clips_per_part, damage):
    """Clips before and after it can be read. The message names the file and a remedy."""
    data = build(folder, tmp_path)
    [path] = tmp_path.rglob("*train.array_record-00001-of-*")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 255
    changed = {"empty": b"", "cut": content[: len(content) // 2], "another file": b"<html>" * 20000}
    path.write_bytes(changed.get(damage, content))
    if damage == "missing":
        path.unlink()
    data = build(folder, tmp_path)
    unreadable = []
    for i in range(len(data.train)):
        try:
            data.train[i]
        except OSError as error:
            unreadable.append(int(data.train.track_ids[i]))
            assert path.name in str(error) and f"{path.parent} cannot be read" in str(error)
            assert "Delete this folder" in str(error)
    assert unreadable and set(unreadable) <= {1002, 1502}  # the part of tracks 1002 and 1502, as track 502 is broken
    shutil.rmtree(path.parent)
    data = build(folder, tmp_path)
    assert all(len(data.train[i]["audio"]) for i in range(len(data.train)))


@pytest.mark.parametrize("name", ["dataset_info.json", "metadata.json"])
@pytest.mark.parametrize("content", [None, b"", b"null", b"{}", b"\xff", b'{"name": "fm'])
def test_a_damaged_description(tmp_path, folder, name, content):
    build(folder, tmp_path)
    [path] = tmp_path.glob(f"*/fma/*/*/{name}")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(OSError, match=f"The decoded clips in {tmp_path}/.* cannot be read: .* Delete this folder"):
        build(folder, tmp_path)
    [directory] = tmp_path.iterdir()
    shutil.rmtree(directory)
    assert len(build(folder, tmp_path).train) == 11
