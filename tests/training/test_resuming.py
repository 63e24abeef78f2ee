"""Experiments that are killed at any moment and resumed end as if they had run through."""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time

import keras
import numpy as np
import processes
import pytest
from conftest import EXPERIMENTS

ALL = ["--fine-tune", "all"]
HEAD = ["--fine-tune", "head"]
SMALL, PUBLISHED = (
    pathlib.Path(__file__).with_name("small_experiment.py"),
    EXPERIMENTS / "efficientnet_dropout_augmented.py",
)


class Experiment:
    """One run of a script on the synthetic corpus, in as many processes as it takes."""

    def __init__(self, folder, flags, cache, backend="torch", script=SMALL):
        folder.mkdir(exist_ok=True)
        self.folder, self.script = folder / "run", script
        self.cache, self.log = cache, folder / "log"
        self.flags = ["--smoke", "--pretrained", "none", "--epochs", "3", "--save-every", "0", *flags]
        self.environment = {"KERAS_BACKEND": backend, "GENREKERAS_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def start(self):
        begun = (self.folder / "config.json").exists()
        flags = ["--resume", self.folder] if begun else [*self.flags, "--output", self.folder]
        self.log.write_text("")  # what the last one printed is over
        return processes.start(self.script, *flags, stdout=self.log, stderr=self.log, **self.environment)

    def stop(self, moment, number=signal.SIGKILL):
        """Start or resume it, and end it at a moment; its exit code and what it printed."""
        process = self.start()
        deadline = time.monotonic() + 300
        while process.exitcode is None and time.monotonic() < deadline:
            if moment(self, self.log.read_text()):
                os.kill(process.pid, number)
                break
            time.sleep(0.0005)
        return processes.wait(process, 300), self.log.read_text()

    def finish(self, code=0):
        """Let it run to its end."""
        assert processes.wait(self.start(), 600) == code, self.log.read_text()
        return self

    def files(self, pattern):
        return list(self.folder.glob(pattern)) if self.folder.exists() else []

    def assert_whole(self):
        """Whatever bears its own name can be loaded."""
        for path in self.files("[!.]*.keras"):
            keras.saving.load_model(path)
        for path in self.files("[!.]*.npz"):
            with np.load(path) as file:
                assert all(file[name] is not None for name in file)
        for path in self.files("[!.]*.json"):
            json.loads(path.read_text())

    def turn_the_clock_back(self):
        """As if all that is there had been written in the future."""
        for folder in (self.folder, self.cache):
            for path in folder.rglob("*"):
                os.utime(path, (4e9, 4e9))

    def assert_equals(self, other, tolerance):
        rows = [
            np.genfromtxt(run.folder / "history.csv", delimiter=",", skip_header=1, ndmin=2) for run in (self, other)
        ]
        models = [keras.saving.load_model(run.folder / "model.keras") for run in (self, other)]
        weights = [model.get_weights() for model in models]
        probabilities = [
            json.loads((run.folder / "validation_tracks.json").read_text())["probabilities"] for run in (self, other)
        ]
        for a, b in [rows, probabilities, *zip(*weights, strict=True)]:
            if tolerance:
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(a, b)
        assert set(os.listdir(self.folder)) == set(os.listdir(other.folder))


@pytest.fixture
def new_cache(synthetic_cache, tmp_path):
    """A cache folder with the synthetic corpus, of which nothing has been prepared."""
    without = shutil.ignore_patterns("prepared")
    return pathlib.Path(
        shutil.copytree(synthetic_cache / "synthetic-2", tmp_path / "cache" / "synthetic-2", ignore=without)
    ).parent


def after(text, seconds=0.0):
    """The moment so long after something was printed."""
    since = []

    def moment(run, printed):
        if text in printed and not since:
            since.append(time.monotonic())
        return since and time.monotonic() >= since[0] + seconds

    return moment


def writing(pattern, times=1):
    """The moment when a file is being written, and is not whole yet, for so many times."""
    seen = set()

    def moment(run, printed):
        seen.update(run.files(f".tmp-*{pattern}"))
        return len(seen) >= times and all(path.exists() for path in run.files(f".tmp-*{pattern}"))

    return moment


def building(run, printed):
    """The moment when some of the data is there."""
    return any(run.cache.glob("mini-*/prepared/**/*.array_record*"))


FEW = {
    "all": [building, writing(".state.npz", 2), after("Epoch 2/3", 0.3), writing("model.keras")],
    "head": [after("Features of train", 0.3), after("Epoch 1/3")],
}
MANY = {  # 20 kills
    "all": [
        building,
        after("Decoding clips", 0.02),
        after("SYNTHETIC"),
        after("To do:", 0.5),
        *(after("Epoch ", seconds) for seconds in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)),
        *(writing(".state.npz", times) for times in (1, 2, 3)),
        writing("model.keras"),
        after("validation (official"),
    ],
    "head": [
        *(after("Features of train", seconds) for seconds in (0.0, 0.2)),
        after("Features of validation"),
        after("Epoch "),
        after("Epoch ", 0.5),  # its state is so small that no write is seen
    ],
}
EPOCHS = {"all": 9, "head": 60}  # of so many kills


@pytest.mark.parametrize("flags", [ALL, HEAD], ids=["all", "head"])
def test_killed_and_resumed(flags, tmp_path, synthetic_cache, new_cache, thorough):
    """By SIGKILL, while data is made, features are kept, in batches and in writes; bit for bit, on torch."""
    moments, script = (MANY, PUBLISHED) if thorough else (FEW, SMALL)
    moments = moments[flags[1]]
    flags = [*flags, *(["--epochs", str(EPOCHS[flags[1]])] if thorough else [])]
    through = Experiment(tmp_path / "through", flags, synthetic_cache, script=script).finish()
    killed = Experiment(tmp_path / "killed", flags, new_cache, script=script)
    kills = 0
    for moment in moments:
        code, printed = killed.stop(moment)
        assert code == -signal.SIGKILL, printed  # or the moment never came
        kills += 1
        killed.assert_whole()
        killed.turn_the_clock_back()
    assert kills == len(moments)
    killed.finish().assert_equals(through, tolerance=0)


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_killed_and_resumed_on_other_backends(backend, tmp_path, synthetic_cache, new_cache):
    """To 1e-5; tests/test_training.py has the same in one process."""
    pytest.importorskip(backend)
    through = Experiment(tmp_path / "through", ALL, synthetic_cache, backend, PUBLISHED).finish()
    killed = Experiment(tmp_path / "killed", ALL, new_cache, backend, PUBLISHED)
    for moment in FEW["all"]:
        code, printed = killed.stop(moment)
        assert code == -signal.SIGKILL, printed
    killed.finish().assert_equals(through, tolerance=1e-5)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGTERM])
def test_a_signal_ends_it_with_one_line(number, tmp_path, synthetic_cache):
    run = Experiment(tmp_path, ALL, synthetic_cache, script=PUBLISHED)
    code, printed = run.stop(after("Epoch 2/3", 0.2), number)
    assert code == 128 + number and "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert last == f"Stopped by {number.name}. To go on: python {run.script} --resume {run.folder}"
    assert run.files("*.state.npz") and not run.files(".tmp-*")
    code, printed = run.stop(after("SYNTHETIC"), number)  # outside of the training
    assert code == 128 + number and printed.strip().splitlines()[-1] == last and "Traceback" not in printed
    printed = run.finish().log.read_text()
    assert "Epoch 1/3" not in printed and "Epoch 3/3" in printed and "begin with reports.html" in printed


def test_two_runs_in_one_folder(tmp_path, synthetic_cache):
    """The second one is refused, whether it would begin or resume, and the first one goes on."""
    run, refused = Experiment(tmp_path, ALL, synthetic_cache), []

    def moment(run, printed):
        if "To do:" in printed and not refused:
            for flags in (["--resume", run.folder], ["--output", run.folder, "--smoke"]):
                refused.append(processes.run(run.script, *flags, **run.environment))

    code, printed = run.stop(moment)
    assert code == 0, printed
    assert [done.returncode for done in refused] == [1, 1]
    assert "Another process is at work on the run in" in refused[0].stderr
    assert "must be a new or empty folder" in refused[1].stderr
    assert not any("Traceback" in done.stderr for done in refused)


def test_a_folder_that_is_removed_is_made_again(tmp_path, synthetic_cache):
    run = Experiment(tmp_path, [*ALL, "--save-every", "60"], synthetic_cache)

    def moment(run, printed):
        if "Epoch 2/3" in printed and not gone:
            gone.append(shutil.rmtree(run.folder))

    gone = []
    code, printed = run.stop(moment)
    assert code == 0 and gone, printed
    assert {"model.keras", "reports.html", "history.csv", "config.json"} <= set(os.listdir(run.folder))
    assert len((run.folder / "history.csv").read_text().splitlines()) == 4


def test_a_disk_that_is_full(small_disk, tmp_path, synthetic_cache):
    """Training goes on with warnings; what then cannot be kept is said, and with room it is resumed."""
    disk, enlarge = small_disk
    run = Experiment(tmp_path, [*ALL, "--save-every", "60"], synthetic_cache)
    run.folder = disk / "run"
    printed = run.finish(code=1).log.read_text()
    assert "could not be saved" in printed and "No space left on device" in printed and "Epoch 3/3" in printed
    assert printed.rstrip().splitlines()[-1].endswith(f"--resume {run.folder}") and "Traceback" not in printed
    run.assert_whole()
    assert not run.files(".tmp-*")
    enlarge("200m")
    run.finish()
    assert {"model.keras", "reports.html"} <= set(os.listdir(run.folder))


def test_folders_of_any_name(tmp_path, synthetic_cache):
    """Other scripts, spaces, quotes, a newline, and as long as names may be: 255 bytes."""
    name = 'two words, it\'s "so"\n\u97f3\u697d \u0645\u0648\u0633\u064a\u0642\u0649 \U0001f3b5 '
    run = Experiment(tmp_path / (name + "n" * (255 - len(name.encode()))), ALL, synthetic_cache)
    code, printed = run.stop(after("Epoch 2/3"), signal.SIGTERM)
    again = shlex.split(printed[printed.rindex("To go on: ") + 10 :])
    assert code == 143 and again[:2] == ["python", str(run.script)] and again[3] == str(run.folder)
    run.finish()


def test_a_name_that_is_taken_gets_a_number(tmp_path, monkeypatch):
    """A clock that went back, or two runs that begin in the same second."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.chdir(tmp_path)
    import settings

    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 11, 23)

    monkeypatch.setattr(settings.datetime, "datetime", Clock)
    monkeypatch.setattr(sys, "argv", ["x.py"])
    flags = argparse.Namespace(output=None, resume=None)
    with settings.folder_of_run(flags) as one, settings.folder_of_run(flags) as other:
        assert (one, other) == ("runs/x-20261123-000000", "runs/x-20261123-000000-2")
