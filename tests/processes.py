"""Scripts in processes of their own, which on PyTorch need not import Keras anew: each is forked from one that has."""

import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

AT_IMPORT = ("KERAS_BACKEND", "KERAS_HOME", "OMP_NUM_THREADS")  # what is decided when Keras and torch are imported

_FORKED, _FRESH = (multiprocessing.get_context(method) for method in ("forkserver", "spawn"))
_FORKED.set_forkserver_preload([f"genrekeras.{name}" for name in ("datasets", "reports", "runs.runner", "training")])


def start(script, *flags, stdout, stderr, **environment):
    """Run a script as `python SCRIPT FLAGS` would; a `multiprocessing.Process`.

    Args:
        stdout: path of a file for what it prints.
        stderr: the same for errors; may be the same file.
        environment: what differs from that of this process.
    """
    here = {"KERAS_BACKEND": "torch", **os.environ}
    environment = {**os.environ, "KERAS_BACKEND": "torch", **environment}
    same = all(here.get(name) == environment.get(name) for name in AT_IMPORT)
    method = _FORKED if same and here["KERAS_BACKEND"] == "torch" else _FRESH
    command = [str(script), *map(str, flags)]
    process = method.Process(target=_run, args=(command, os.getcwd(), environment, str(stdout), str(stderr)))
    process.start()
    return process


def run(script, *flags, timeout=600, **environment):
    """The same until it ends; a `subprocess.CompletedProcess` with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        process = start(script, *flags, stdout=paths[0], stderr=paths[1], **environment)
        code = wait(process, timeout)
        return subprocess.CompletedProcess([script, *flags], code, *(path.read_text() for path in paths))


def wait(process, timeout):
    """The exit code of a process that ends in so many seconds; one that hangs is killed: Python would wait for it."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(process.name, timeout)
    return process.exitcode


def _run(command, folder, environment, stdout, stderr):
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=True)
    # Where the tests run in the background of a shell, SIGINT is ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    sys.path.insert(0, os.path.dirname(command[0]))
    runpy.run_path(command[0], run_name="__main__")
