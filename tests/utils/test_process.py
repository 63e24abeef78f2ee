"""Process settings of programs. tests/test_package.py tests that importing the library applies none of them."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest
from genrekeras.audio import decoders
from genrekeras.utils import process


@pytest.fixture
def environment(monkeypatch):
    """`os.environ` without the variables that the module sets or heeds; restored after the test."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "WANDB_SILENT", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_environment_variables(environment):
    process.shorten_spinning()
    process.quiet_wandb()
    assert os.environ["GOMP_SPINCOUNT"] == "1000" and os.environ["WANDB_SILENT"] == "true"
    environment.setenv("OMP_WAIT_POLICY", "active")
    environment.delenv("GOMP_SPINCOUNT")
    environment.setenv("WANDB_SILENT", "false")
    process.shorten_spinning()
    process.quiet_wandb()
    assert "GOMP_SPINCOUNT" not in os.environ and os.environ["WANDB_SILENT"] == "false"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the C library has no such stream")
def test_messages_of_c_code_are_hidden_while_any_thread_decodes(monkeypatch, capfd):
    monkeypatch.setattr(decoders, "codec_context", decoders.codec_context)
    process.hide_codec_messages()
    context = decoders.codec_context
    process.hide_codec_messages()
    assert decoders.codec_context is context  # a second call changes nothing
    library, name = ctypes.CDLL(None), {"linux": "stderr"}.get(sys.platform, "__stderrp")

    def write(text):
        stream = ctypes.c_void_p.in_dll(library, name)
        library.fputs(text.encode(), stream)
        library.fflush(stream)

    inside, leave = threading.Event(), threading.Event()

    def decode():
        with context:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=decode)
    write("before, ")
    with context:
        thread.start()
        assert inside.wait(10)
        write("hidden, ")
        os.write(2, b"of Python, ")
    write("hidden too, ")
    leave.set()
    thread.join()
    write("after")
    assert capfd.readouterr().err == "before, of Python, after"


MEMORY = """
import numpy as np
from genrekeras.utils.process import keep_freed_memory


def resident_megabytes():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1000


keep_freed_memory()
before = resident_megabytes()
x = np.ones(300_000_000, "uint8")
del x
print(resident_megabytes() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_kept_unless_the_environment_chooses():
    """An array of 300 MB stays resident after it is freed."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        pytest.skip("the environment sets a variable of glibc")
    for variables, is_kept in (({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)):
        command = [sys.executable, "-c", MEMORY]
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
        assert (int(done.stdout) > 200) == is_kept
