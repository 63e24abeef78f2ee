"""Experiments in processes of their own that are interrupted and resumed, compared with uninterrupted ones."""

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
from conftest import EXPERIMENTS, SMALL_EXPERIMENT
from genrekeras.runs import options

ALL = ["--fine-tune", "all"]
HEAD = ["--fine-tune", "head"]
PUBLISHED = EXPERIMENTS / "efficientnet_dropout_augmented.py"


class Experiment:
    """A run of a script on the synthetic corpus, in one or several processes."""

    def __init__(self, folder, flags, cache, backend="torch", script=SMALL_EXPERIMENT):
        folder.mkdir(exist_ok=True)
        self.folder, self.script = folder / "run", script
        self.cache, self.log = cache, folder / "log"
        self.flags = ["--smoke", "--pretrained", "none", "--epochs", "3", "--save-every", "0", *flags]
        self.environment = {"KERAS_BACKEND": backend, "GENREKERAS_CACHE": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def start(self):
        is_started = (self.folder / "config.json").exists()
        flags = ["--resume", self.folder] if is_started else [*self.flags, "--output", self.folder]
        self.log.write_text("")  # remove the output of the previous process
        return processes.start(self.script, *flags, stdout=self.log, stderr=self.log, **self.environment)

    def stop(self, moment, number=signal.SIGKILL):
        """Start or resume the run, and send a signal at a moment. Return the exit code and the output."""
        process = self.start()
        deadline = time.monotonic() + 300
        while process.exitcode is None and time.monotonic() < deadline:
            if moment(self, self.log.read_text()):
                os.kill(process.pid, number)
                break
            time.sleep(0.0005)
        return processes.wait(process, 300), self.log.read_text()

    def finish(self, code=0):
        """Run until the end."""
        assert processes.wait(self.start(), 600) == code, self.log.read_text()
        return self

    def files(self, pattern):
        return list(self.folder.glob(pattern)) if self.folder.exists() else []

    def assert_complete(self):
        """Load all files without a temporary name."""
        for path in self.files("[!.]*.keras"):
            keras.saving.load_model(path)
        for path in self.files("[!.]*.npz"):
            with np.load(path) as file:
                assert all(file[name] is not None for name in file)
        for path in self.files("[!.]*.json"):
            json.loads(path.read_text())

    def set_modification_times_in_the_future(self):
        """As after a change of the clock."""
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
    """A cache folder with the synthetic corpus, before its preparation."""
    without = shutil.ignore_patterns("prepared")
    return pathlib.Path(
        shutil.copytree(synthetic_cache / "synthetic-2", tmp_path / "cache" / "synthetic-2", ignore=without)
    ).parent


def after(text, seconds=0.0):
    """The moment some seconds after a text was printed."""
    since = []

    def moment(run, printed):
        if text in printed and not since:
            since.append(time.monotonic())
        return since and time.monotonic() >= since[0] + seconds

    return moment


def writing(pattern, times=1):
    """The moment when a file is written for the nth time, and is not complete."""
    seen = set()

    def moment(run, printed):
        seen.update(run.files(f".tmp-*{pattern}"))
        return len(seen) >= times and all(path.exists() for path in run.files(f".tmp-*{pattern}"))

    return moment


def building(run, printed):
    """The moment when a part of the data is prepared."""
    return any(run.cache.glob("synthetic-*/prepared/**/*.array_record*"))


# The moments of kills, for a few kills and for many.
FEW = {"all": [after("Epoch 2/3", 0.3), writing("model.keras")], "head": [after("Features of train", 0.3)]}
MANY = {
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
        after("Epoch ", 0.5),  # the writing of the state is too short to be observed
    ],
}
NUM_EPOCHS = {"all": 9, "head": 60}  # for many kills


def kill_and_compare(moments, uninterrupted, killed, tolerance=0):
    """Kill a run at some moments, resume it, and compare it with an uninterrupted run."""
    uninterrupted.finish()
    for moment in moments:
        code, printed = killed.stop(moment)
        assert code == -signal.SIGKILL, printed  # else the moment did not occur
        killed.assert_complete()
        killed.set_modification_times_in_the_future()
    killed.finish().assert_equals(uninterrupted, tolerance)


@pytest.mark.parametrize("part", ["all", pytest.param("head", marks=pytest.mark.slow)])
def test_killed_and_resumed(part, tmp_path, synthetic_cache, new_cache):
    """By SIGKILL within an epoch, in the computation of features and in a write; bit for bit, on torch."""
    flags = ["--fine-tune", part]
    uninterrupted = Experiment(tmp_path / "uninterrupted", flags, synthetic_cache)
    kill_and_compare(FEW[part], uninterrupted, Experiment(tmp_path / "killed", flags, new_cache))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["all", "head"])
def test_killed_many_times(part, tmp_path, synthetic_cache, new_cache):
    """20 kills of a published experiment, including the preparation of the data."""
    flags = ["--fine-tune", part, "--epochs", str(NUM_EPOCHS[part])]
    uninterrupted = Experiment(tmp_path / "uninterrupted", flags, synthetic_cache, script=PUBLISHED)
    killed = Experiment(tmp_path / "killed", flags, new_cache, script=PUBLISHED)
    kill_and_compare(MANY[part], uninterrupted, killed)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_killed_and_resumed_on_other_backends(backend, tmp_path, synthetic_cache, new_cache):
    pytest.importorskip(backend)
    uninterrupted = Experiment(tmp_path / "uninterrupted", ALL, synthetic_cache, backend)
    killed = Experiment(tmp_path / "killed", ALL, new_cache, backend)
    kill_and_compare(FEW["all"], uninterrupted, killed, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_one_line(number, tmp_path, synthetic_cache):
    run = Experiment(tmp_path, ALL, synthetic_cache, script=PUBLISHED)
    code, printed = run.stop(after("Epoch 2/3", 0.2), number)
    assert code == 128 + number and "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert last == f"Stopped by {number.name}. To resume: python {run.script} --resume {run.folder}"
    assert run.files("*.state.npz") and not run.files(".tmp-*")
    code, printed = run.stop(after("SYNTHETIC"), number)  # before the training
    assert code == 128 + number and printed.strip().splitlines()[-1] == last and "Traceback" not in printed
    printed = run.finish().log.read_text()
    assert "Epoch 1/3" not in printed and "Epoch 3/3" in printed and "start with report.html" in printed


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path, synthetic_cache):
    """The second one is refused, whether it starts or resumes, and the first one continues."""
    run, refused = Experiment(tmp_path, ALL, synthetic_cache), []

    def moment(run, printed):
        if "To do:" in printed and not refused:
            for flags in (["--resume", run.folder], ["--output", run.folder, "--smoke"]):
                refused.append(processes.run(run.script, *flags, **run.environment))

    code, printed = run.stop(moment)
    assert code == 0, printed
    assert [done.returncode for done in refused] == [1, 1]
    assert "Another process is using the run in" in refused[0].stderr
    assert "must be a new or empty folder" in refused[1].stderr
    assert not any("Traceback" in done.stderr for done in refused)


@pytest.mark.slow
def test_a_removed_folder_is_created_again(tmp_path, synthetic_cache):
    run = Experiment(tmp_path, [*ALL, "--save-every", "60"], synthetic_cache)

    def moment(run, printed):
        if "Epoch 2/3" in printed and not removed:
            removed.append(shutil.rmtree(run.folder))

    removed = []
    code, printed = run.stop(moment)
    assert code == 0 and removed, printed
    assert {"model.keras", "report.html", "history.csv", "config.json"} <= set(os.listdir(run.folder))
    assert len((run.folder / "history.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_full_disk(small_disk, tmp_path, synthetic_cache):
    """Training continues with warnings; the run then ends with a message, and is resumed once there is free space."""
    disk, enlarge = small_disk
    run = Experiment(tmp_path, [*ALL, "--save-every", "60"], synthetic_cache)
    run.folder = disk / "run"
    printed = run.finish(code=1).log.read_text()
    assert "could not be saved" in printed and "No space left on device" in printed and "Epoch 3/3" in printed
    assert printed.rstrip().splitlines()[-1].endswith(f"--resume {run.folder}") and "Traceback" not in printed
    run.assert_complete()
    assert not run.files(".tmp-*")
    enlarge("200m")
    run.finish()
    assert {"model.keras", "report.html"} <= set(os.listdir(run.folder))


@pytest.mark.slow
def test_folders_with_any_name(tmp_path, synthetic_cache):
    """Other scripts, spaces, quotes, a newline, and the maximum length of 255 bytes."""
    name = 'two words, it\'s "so"\n\u97f3\u697d \u0645\u0648\u0633\u064a\u0642\u0649 \U0001f3b5 '
    run = Experiment(tmp_path / (name + "n" * (255 - len(name.encode()))), ALL, synthetic_cache)
    code, printed = run.stop(after("Epoch 2/3"), signal.SIGTERM)
    command = shlex.split(printed[printed.rindex("To resume: ") + 11 :])
    assert code == 143 and command[:2] == ["python", str(run.script)] and command[3] == str(run.folder)
    run.finish()


def test_the_default_folder_of_a_second_run_has_a_number(tmp_path, monkeypatch):
    """For example, if two runs start in the same second."""
    monkeypatch.chdir(tmp_path)

    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 11, 23)

    monkeypatch.setattr(options.datetime, "datetime", Clock)
    monkeypatch.setattr(sys, "argv", ["x.py"])
    flags = argparse.Namespace(output=None, resume=None)
    with options.folder_of_run(flags) as first, options.folder_of_run(flags) as second:
        assert (first, second) == ("runs/x-20261123-000000", "runs/x-20261123-000000-2")
