"""Scripts in separate processes. On PyTorch, a process is forked from one that has imported Keras already."""

import json
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

AT_IMPORT = ("KERAS_BACKEND", "KERAS_HOME", "OMP_NUM_THREADS")  # read when Keras and PyTorch are imported

_FORKED, _FRESH = (multiprocessing.get_context(method) for method in ("forkserver", "spawn"))
_FORKED.set_forkserver_preload([f"genrekeras.{name}" for name in ("datasets", "reports", "runs.runner", "training")])


def python(script, unset=(), **environment):
    """Return the last line that a script prints in a separate process, as JSON."""
    unset = {"KERAS_BACKEND", "KERAS_HOME", *unset}
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def start(script, *flags, stdout, stderr, **environment):
    """Start a script as `python SCRIPT FLAGS` would.

    Args:
        stdout, stderr: paths of files for the output; may be the same file.
        environment: variables that differ from those of this process.

    Returns:
        `multiprocessing.Process`.
    """
    here = {"KERAS_BACKEND": "torch", **os.environ}
    environment = {**os.environ, "KERAS_BACKEND": "torch", **environment}
    same = all(here.get(name) == environment.get(name) for name in AT_IMPORT)
    context = _FORKED if same and here["KERAS_BACKEND"] == "torch" else _FRESH
    command = [str(script), *map(str, flags)]
    process = context.Process(target=_run, args=(command, os.getcwd(), environment, str(stdout), str(stderr)))
    process.start()
    return process


def run(script, *flags, timeout=600, **environment):
    """Run a script to its end; return a `subprocess.CompletedProcess` with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        process = start(script, *flags, stdout=paths[0], stderr=paths[1], **environment)
        code = wait(process, timeout)
        return subprocess.CompletedProcess([script, *flags], code, *(path.read_text() for path in paths))


def wait(process, timeout):
    """Return the exit code of a process; kill it if it does not end in time, since Python would wait for it."""
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
    # Where the tests run in the background of a shell, SIGINT is ignored, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    sys.path.insert(0, os.path.dirname(command[0]))
    runpy.run_path(command[0], run_name="__main__")
