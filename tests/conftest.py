"""Fixtures and functions that tests share."""

import contextlib
import csv
import io
import os
import pathlib
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from typing import NamedTuple

if "PYTEST_XDIST_WORKER" in os.environ:  # processes beside each other; before torch is imported
    for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC"):  # PyTorch, TensorFlow, JAX
        os.environ.setdefault(threads, "1")

import genrekeras as gk
import hypothesis
import keras
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from genrekeras import cli
from genrekeras.datasets.synthetic import make_synthetic
from genrekeras.utils.io import process_lock
from genrekeras.utils.process import skip_openvino_telemetry, skip_tensorflow

skip_tensorflow()  # an import that takes seconds
skip_openvino_telemetry()
EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"
SMALL_EXPERIMENT = pathlib.Path(__file__).parent / "experiments" / "small_experiment.py"
SHARED_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"
SHARED_CLIPS = SHARED_DATA / "fma_clips"
REAL_CLIPS = {2: "Hip-Hop", 5: "Hip-Hop", 10: "Pop", 140: "Folk"} | {
    1039: "Rock",
    1040: "Rock",
    1082: "International",
    1083: "Experimental",
}


hypothesis.settings.register_profile(
    "tests",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def seeded():
    """Weights, dropout and augmentation of a test are the same in each run, alone or among others."""
    keras.utils.set_random_seed(20231122)


@pytest.fixture
def rng():
    return np.random.default_rng(20231122)


@pytest.fixture
def real_clips():
    """dict, track id -> path of a genuine FMA clip."""
    if not SHARED_CLIPS.is_dir():
        pytest.skip("the real FMA clips (shared/data/fma_clips beside this checkout) are not here")
    return {track_id: SHARED_CLIPS / f"{track_id:06d}.mp3" for track_id in REAL_CLIPS}


@pytest.fixture
def real_songs():
    """Paths of complete songs."""
    songs = sorted((SHARED_DATA / "songs").glob("*.mp3"))
    if not songs:
        pytest.skip("the songs (shared/data/songs beside this checkout) are not here")
    return songs


@pytest.fixture(scope="session")
def synthetic_cache(tmp_path_factory):
    """A cache folder with the synthetic corpus, made once for the tests of all processes."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with process_lock(str(cache), "make the corpus"):
        if not (cache / "synthetic-2").exists():
            make_synthetic(str(cache / "synthetic-2"))
    return cache


@pytest.fixture(scope="session")
def synthetic(synthetic_cache):
    """`Dataset` of the synthetic corpus."""
    with pytest.warns(UserWarning, match="2 cannot be read"):
        return gk.datasets.load_synthetic(cache_dir=synthetic_cache)


@pytest.fixture(scope="session")
def finished_run(synthetic_cache, tmp_path_factory):
    """`FinishedRun` of a small experiment with the synthetic corpus: its folder is read-only for tests."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    flags = ["--smoke", "--pretrained", "none", "--fine-tune", "all", "--output", folder]
    return run_in_process(SMALL_EXPERIMENT, *flags, cache=synthetic_cache)


class FinishedRun(NamedTuple):
    """A script that ran in this process.

    Attributes:
        folder: `pathlib.Path` after the flag `--output`, or `None`.
        code: int, exit code.
        stdout, stderr: str.
    """

    folder: pathlib.Path | None
    code: int
    stdout: str
    stderr: str


def run_in_process(script, *flags, cache=None):
    """Run a script in this process as `python SCRIPT FLAGS` would.

    Args:
        script: path.
        cache: value of the environment variable GENREKERAS_CACHE; `None` keeps it.

    Returns:
        `FinishedRun`.
    """
    flags = list(map(str, flags))
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    handler, policy = signal.getsignal(signal.SIGTERM), keras.config.dtype_policy()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("default", module="genrekeras")  # not errors, as in the other tests
        patch.setattr(sys, "argv", [str(script), *flags])
        patch.syspath_prepend(script.parent)
        if cache is not None:
            patch.setenv("GENREKERAS_CACHE", str(cache))
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            print(error.code if isinstance(error.code, str) else "", file=stderr)
        finally:
            signal.signal(signal.SIGTERM, handler)
            keras.config.set_dtype_policy(policy)
    folder = pathlib.Path(flags[flags.index("--output") + 1]) if "--output" in flags else None
    return FinishedRun(folder, code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope="session")
def spectrograms(tmp_path_factory):
    """A file of spectrograms of 24 training and 24 validation tracks, written by `genrekeras fma spectrograms`."""
    folder = tmp_path_factory.mktemp("spectrograms")
    tracks = [(i, gk.GENRES[i % 8], ("training", "validation")[i // 8 % 2]) for i in range(48)]
    write_fma(folder / "fma", tracks)
    path = folder / "spectrograms.npz"
    done = CliRunner().invoke(cli.main, ["fma", "spectrograms", str(folder / "fma"), "-o", str(path)])
    assert done.exit_code == 0, done.output
    return path


FMA_GENRES = (  # rows of FMA's genres.csv
    "genre_id,#tracks,parent,title,top_level\n2,5271,0,International,2\n10,13845,0,Pop,10\n12,32923,0,Rock,12\n"
    "15,34413,0,Electronic,15\n17,12706,0,Folk,17\n21,8389,0,Hip-Hop,21\n25,9261,12,Punk,12\n"
    "38,38154,0,Experimental,38\n103,4183,17,Singer-Songwriter,17\n1235,14938,0,Instrumental,1235\n"
)


def write_fma(folder, tracks, audio=True):
    """An FMA folder: `tracks` are (track id, genre, split); clips are 3 s of a sine of a frequency by genre."""
    os.makedirs(folder / "fma_metadata")
    with open(folder / "fma_metadata" / "tracks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "set", "set", "track"])
        writer.writerow(["", "split", "subset", "genre_top"])
        writer.writerow(["track_id", "", "", ""])
        writer.writerows([track_id, split, "small", genre] for track_id, genre, split in tracks)
    if audio:
        for track_id, genre, _ in tracks:
            path = folder / "fma_small" / f"{track_id // 1000:03d}" / f"{track_id:06d}.mp3"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sine(path, 200 * (1 + gk.GENRES.index(genre)) + track_id % 7)
    return folder


def add_all_genres(folder, more):
    """Add the column `genres_all` and genres.csv to the metadata of an FMA folder.

    Args:
        more: dict, track id -> ids of genres beside the top genre.
    """
    (folder / "fma_metadata" / "genres.csv").write_text(FMA_GENRES)
    ids = {row.split(",")[3]: int(row.split(",")[0]) for row in FMA_GENRES.splitlines()[1:]}
    path = folder / "fma_metadata" / "tracks.csv"
    with open(path, newline="", encoding="utf-8") as file:
        header, rows = (rows := list(csv.reader(file)))[:3], rows[3:]
    at = header[1].index("genre_top")
    for row, value in zip(header, ("track", "genres_all", ""), strict=True):
        row.append(value)
    for row in rows:
        row.append(str([ids[name] for name in [row[at]] if name] + more.get(int(row[0]), [])))
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([*header, *rows])


def write_sine(path, hz, seconds=3.0, rate=44100):
    time = np.arange(int(seconds * rate)) / rate
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III"} if str(path).endswith(".mp3") else {}
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * time), rate, **options)
    return path


def tones(rng, count, samples, rate=22050):
    """`(count, samples)` float32: clips that differ from each other, chords over noise."""
    time = np.arange(samples) / rate
    clips = [
        sum(rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * rng.uniform(60, 6000) * time) for _ in range(4))
        + rng.uniform(0.001, 0.3) * rng.standard_normal(samples)
        for _ in range(count)
    ]
    return np.stack(clips).astype("float32")


def small_model(**kwargs):
    """Return a GenreClassifier for clips of 1 s with random weights, by default of a network that trains fast."""
    arguments = {"backbone": "mel_cnn", "pretrained": None, "fine_tune": "all", "clip_seconds": 1.0, **kwargs}
    return gk.GenreClassifier(**arguments)


def calibrate(model, waveforms):
    """Give BatchNorm the statistics of these clips: an untrained network maps all clips to the same probabilities."""
    norms = [x for x in model.feature_extractor.layers if isinstance(x, keras.layers.BatchNormalization)]
    frozen = [(norm, norm.momentum, norm.trainable) for norm in norms]
    for norm in norms:
        norm.momentum, norm.trainable = 0.0, True
    model.feature_extractor(model.front_end(waveforms), training=True)
    for norm, momentum, trainable in frozen:
        norm.momentum, norm.trainable = momentum, trainable
    return model


@pytest.fixture(scope="session")
def one_second_model():
    """A GenreClassifier for clips of 1 s whose probabilities differ between clips; read-only for tests."""
    keras.utils.set_random_seed(20231122)
    return calibrate(small_model(), tones(np.random.default_rng(3), 32, 22050))


@pytest.fixture
def music(tmp_path, rng):
    """A folder with tracks of 2.5, 7 and 4.2 s, in folders, of three formats and rates."""
    folder = tmp_path / "my müsic"
    (folder / "b" / "c").mkdir(parents=True)
    for name, seconds, rate in (("b/c/one.wav", 2.5, 44100), ("b/two.flac", 7.0, 22050), ("a.ogg", 4.2, 48000)):
        soundfile.write(folder / name, tones(rng, 1, int(seconds * rate), rate)[0] / 4, rate)
    (folder / "b" / "cover.jpg").write_bytes(b"no music")
    (folder / ".hidden.wav").write_bytes(b"no music")
    return folder


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A real ffmpeg on the PATH, and only that."""
    real = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(real)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return lambda *arguments: subprocess.run(["ffmpeg", "-v", "error", *map(str, arguments)], check=True)


@contextlib.contextmanager
def mixed_precision(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.fixture
def small_disk(tmp_path):
    """Folder of a separate disk of 600 KiB, and a function that makes the disk larger."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def chromium_browser(*flags):
    """Start Chromium, driven by Playwright, with some flags. The test is skipped if one of them is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        installed = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        path = installed or started.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("Chromium is not installed")
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", *flags])
        yield browser
        browser.close()


@pytest.fixture
def close_folder(monkeypatch):
    """Function after whose call folders with a given name cannot be opened, not even by root."""
    scandir = os.scandir

    def close(name):
        def refuse(path):
            if os.path.basename(path) == name:
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return close


@pytest.fixture
def read_only():
    """Context manager in which a folder cannot be written to, not even by root."""

    @contextlib.contextmanager
    def closed(folder):
        if os.geteuid() != 0:
            folder.chmod(0o500)
            try:
                yield
            finally:
                folder.chmod(0o700)
            return
        impossible = "a folder that root cannot write to needs a mount, which is not possible here"
        if sys.platform != "linux" or subprocess.run(["mount", "--bind", folder, folder]).returncode:
            pytest.skip(impossible)
        try:
            if subprocess.run(["mount", "-o", "remount,bind,ro", folder]).returncode:
                pytest.skip(impossible)
            yield
        finally:
            subprocess.run(["umount", folder], check=True)

    return closed


@pytest.fixture(scope="session")
def images():
    """`(6, 64, 40, 1)`, 0..255: smooth spectra that move, of very unequal spread; read-only for tests."""
    rng = np.random.default_rng(20231122)
    shapes = np.cumsum(rng.normal(0, 8, (6, 64, 1)), axis=1) + 128
    moves = rng.normal(0, 1, (6, 64, 40)) * np.array([0.01, 1, 5, 20, 40, 80])[:, None, None]
    return np.clip(shapes + moves, 0, 255).astype("float32")[..., None]


@pytest.fixture
def extremes(rng):
    """`(4, 64, 40, 1)`: silence, noise as loud as can be, random and regular switching between the two."""
    switched = [255 * rng.integers(0, 2, (64, 40)), 255 * (np.arange(40) % 2 * np.ones((64, 1)))]
    return np.stack([np.zeros((64, 40)), np.full((64, 40), 255), *switched])[..., None].astype("float32")
