"""Training on several devices: the launcher of processes, and, on JAX, the training itself."""

import argparse
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import genrekeras as gk
import keras
import numpy as np
import psutil
import pytest
from genrekeras.runs import collection, distribution, options, runner

HERE = pathlib.Path(__file__).parent
CHECK, EXPERIMENT = HERE / "distributed_check.py", HERE / "distributed_experiment.py"
DEADLINE = 20.0  # in s, from the end of a process to the end of the run


@pytest.fixture
def launch(monkeypatch, capfd):
    """Function that runs a script in two processes, with `number`, `os`, `signal`, `sys` and `time` defined.

    It returns the exit code or message, standard output and standard error.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def start(script):
        script = f"import os, signal, sys, time; number = int(os.environ['{distribution._PROCESS_ID}']); {script}"
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", script])
        with pytest.raises(SystemExit) as stopped:
            distribution.launch(2, ["--more"], "python x.py --resume r")
        return stopped.value.code, *capfd.readouterr()

    yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_first_process_prints_and_gives_the_exit_code(launch):
    code, out, err = launch("print(number, sys.argv[1:]); sys.stdout.flush(); time.sleep(number); sys.exit(0)")
    assert (code, out, err) == (0, "0 ['--more']\n", "")
    code, out, err = launch("print('The data cannot be used', file=sys.stderr); sys.exit(1)")
    assert (code, out, err) == (1, "", "The data cannot be used\n")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_run(launch, killed):
    began = time.monotonic()
    code, _, _ = launch(f"os.kill(os.getpid(), signal.SIGKILL) if number == {killed} else time.sleep(60)")
    assert time.monotonic() - began < DEADLINE
    assert code == (
        f"\nStopped: process {killed + 1} of 2 was ended by SIGKILL, so the others were stopped too. "
        "To resume: python x.py --resume r"
    )


def test_the_output_of_a_process_that_fails_is_printed(launch, monkeypatch):
    monkeypatch.setattr(distribution, "GRACE", 0.5)
    code, _, err = launch("number and sys.exit('The disk is full'); time.sleep(60)")
    assert "process 2 of 2 failed" in code and err.strip() == "The disk is full"


def test_signals_reach_the_first_process(launch):
    script = "number or (signal.signal(2, lambda *_: sys.exit(130)), os.kill(os.getppid(), 2)); time.sleep(60)"
    assert launch(script)[0] == 130


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """Function that runs an experiment with flags, as on JAX with 2 devices."""
    devices = types.SimpleNamespace(num_model_replicas=2, num_processes=1, data_shard_id=0)
    monkeypatch.setattr(keras.distribution, "DataParallel", lambda **options: devices)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(runner.process, "configure", lambda: None)  # It would configure JAX.

    def start(main, *flags):
        monkeypatch.setattr(sys, "argv", ["x.py", "--smoke", "--output", str(tmp_path / "r"), *flags])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            runner.start(main, "What is the result?")
        finally:
            signal.signal(signal.SIGTERM, handler)
            keras.distribution.set_distribution(None)

    yield start, devices
    assert not (tmp_path / "r").exists() or not os.listdir(tmp_path / "r")


def test_invalid_flags(experiment, monkeypatch, synthetic_cache):
    start, devices = experiment
    with pytest.raises(SystemExit, match="--protocol artist_folds needs --distribute without a number"):
        start(None, "--distribute", "2", "--protocol", "artist_folds")
    monkeypatch.setenv("GENREKERAS_CACHE", str(synthetic_cache))
    with pytest.raises(SystemExit, match="--distribute needs --fine-tune stem or all"):
        start(lambda run: run.train(types.SimpleNamespace(fine_tune="head")), "--distribute")
    devices.num_model_replicas = 3
    with pytest.raises(SystemExit, match="Batches of 16 clips cannot be divided among 3 devices"):
        start(None, "--distribute")


def test_other_backends_are_refused(experiment, monkeypatch, tmp_path):
    start, _ = experiment
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    sentence = "Keras 3.15.1 supports distribution on JAX only, and Keras 3.16 adds PyTorch"
    with pytest.raises(SystemExit, match=sentence):
        start(None, "--distribute")
    with pytest.raises(ValueError, match=sentence):
        collection.train_collection(tmp_path, tmp_path / "r", fine_tune="all", distribute=True)
    with pytest.raises(ValueError, match='only with `fine_tune="all"`'):
        collection.train_collection(tmp_path, tmp_path / "r", distribute=True)


def test_only_the_first_process_writes(monkeypatch, tmp_path):
    second = types.SimpleNamespace(data_shard_id=1)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: second)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    best = gk.callbacks.BestCheckpoint(tmp_path / "best.keras", "loss")
    best.set_model(model)
    for epoch, loss in enumerate((3.0, 2.0)):
        best.on_epoch_end(epoch, {"loss": loss})
    assert (best.best, best.best_epoch) == (2.0, 1)  # as in the first process
    with options.folder_of_run(argparse.Namespace(output=str(tmp_path / "run"), resume=None)):
        pass
    assert not os.listdir(tmp_path)


def environment(cache, devices=1):
    """Environment of a process on JAX with a number of virtual devices."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    # Without optimization, XLA compiles in two thirds of the time.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return {
        **os.environ,
        **{"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "GENREKERAS_CACHE": str(cache)},
    }


def assert_equal_trainings(plain, distributed):
    """Compare a training with one on a single device without distribution."""
    for name in distributed:
        run, key = name.split("_", 1)
        tolerance = {"gradient": 1e-5, "sgd": 1e-3, "padded": 1e-3}.get(run)
        if tolerance is None:  # Adam amplifies rounding errors.
            tolerance = np.abs(plain[name] - plain[f"adam_1_{key.split('_', 1)[1]}"]).max()
        np.testing.assert_allclose(distributed[name], plain[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_several_devices_and_processes_train_as_one(synthetic, synthetic_cache, tmp_path):
    def train(processes, folder, *devices):
        folder.mkdir()
        command = [sys.executable, CHECK, processes, synthetic_cache, folder, *devices]
        surroundings = environment(synthetic_cache, devices=4 if processes == "1" else 1)
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found = [np.load(folder / f"{number}.npz") for number in devices]
        return *found, [np.load(path) for path in sorted(folder.glob("read-*"))]

    plain, two, four, [tracks] = train("1", tmp_path / "one", "0", "2", "4")
    assert_equal_trainings(plain, two)
    assert_equal_trainings(plain, four)
    two, read = train("2", tmp_path / "several", "2")
    assert_equal_trainings(plain, two)
    assert len(read[0]) == len(read[1])
    assert sorted(np.concatenate(read)) == sorted(tracks)  # disjoint, and all tracks together


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_in_training_and_resumed(killed, synthetic_cache, tmp_path):
    flags = ["--smoke", "--pretrained", "none", "--epochs", "9", "--save-every", "0", "--distribute", "2"]

    def start(*flags):
        with open(tmp_path / "log", "w") as log:
            command = [sys.executable, EXPERIMENT, *flags]
            return subprocess.Popen(command, env=environment(synthetic_cache), stdout=log, stderr=log)

    launcher = start(*flags, "--output", tmp_path / "run")
    while "Epoch 2/9" not in (tmp_path / "log").read_text() and launcher.poll() is None:
        time.sleep(0.1)
    workers = {
        process.environ()[distribution._PROCESS_ID]: process for process in psutil.Process(launcher.pid).children()
    }
    workers[str(killed)].kill()
    began = time.monotonic()
    assert launcher.wait(DEADLINE) == 1 and time.monotonic() - began < DEADLINE
    assert not any(process.is_running() for process in workers.values())
    printed = (tmp_path / "log").read_text()
    assert f"process {killed + 1} of 2 was ended by SIGKILL" in printed and f"--resume {tmp_path / 'run'}" in printed
    assert start("--resume", tmp_path / "run").wait(600) == 0, (tmp_path / "log").read_text()[-3000:]
    printed = (tmp_path / "log").read_text()
    assert "Epoch 1/9" not in printed and "All results are in" in printed
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 10
    assert not list((tmp_path / "run").glob(".*"))
