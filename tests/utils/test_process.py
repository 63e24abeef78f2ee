"""Process settings of programs. tests/test_imports.py tests that importing the library applies none of them."""

import concurrent.futures
import ctypes
import importlib.util
import os
import platform
import sys
import threading
import types

import keras
import pytest
from genrekeras.audio import decoders
from genrekeras.utils import process
from processes import python


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
import sys
sys.argv = ["genrekeras"]  # the library then imports no Keras
import numpy as np
from genrekeras.utils.process import keep_freed_memory

keep_freed_memory()
x = np.ones(300_000_000, "uint8")
del x
print(int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1000)
"""
MALLOC = [name for name in os.environ if name.startswith("MALLOC_")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_unless_the_environment_chooses():
    """An array of 300 MB stays resident after it is freed."""
    assert python(MEMORY, MALLOC) > 300 > python(MEMORY, MALLOC, MALLOC_ARENA_MAX="4")


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras_imports_no_tensorflow(backend):
    for package in (backend, "tensorflow"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    script = (
        "import json, sys, genrekeras, keras; from genrekeras.utils.process import skip_tensorflow; skip_tensorflow(); "
        "keras.saving.serialize_keras_object(keras.layers.Dense(1)); keras.utils.set_random_seed(0); "
        "keras.layers.Rescaling(1.0)(keras.ops.ones((1, 2))); print(json.dumps('tensorflow' in sys.modules))"
    )
    assert not python(script, KERAS_BACKEND=backend)


@pytest.mark.slow
def test_keras_imports_tensorflow_by_itself():
    """Otherwise `skip_tensorflow` would not be needed."""
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    script = (
        "import json, sys, keras; keras.saving.serialize_keras_object(keras.layers.Dense(1)); "
        "print(json.dumps('tensorflow' in sys.modules))"
    )
    assert python(script, KERAS_BACKEND="torch")


def test_tensorflow_is_left_alone(monkeypatch):
    """Where it is imported already, and where it is the backend."""
    monkeypatch.setitem(sys.modules, "tensorflow", "imported by others")
    process.skip_tensorflow()
    assert sys.modules["tensorflow"] == "imported by others"
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(keras.saving, "serialize_keras_object", lambda what: pytest.fail("called"))
    process.skip_tensorflow()


def test_the_command_line_configures_the_process():
    script = (
        "import json, os, sys; sys.argv = ['genrekeras', 'info']; from genrekeras.cli import main; "
        "main(standalone_mode=False); "
        "print(json.dumps([os.environ.get('GOMP_SPINCOUNT'), 'tensorflow' in sys.modules]))"
    )
    assert python(script, ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"), KERAS_BACKEND="torch") == ["1000", False]


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the extra export is not installed")
def test_openvino_without_telemetry():
    script = (
        "import json, sys; sys.argv = ['genrekeras']; "  # the library then imports no Keras
        "from genrekeras.utils import process; process.skip_openvino_telemetry(); import openvino; "
        "print(json.dumps(['openvino' in sys.modules, 'openvino_telemetry.main' in sys.modules]))"
    )
    assert python(script) == [True, False]


JAX = """
import json, sys, warnings
sys.argv = ["genrekeras"]
if MAX_BYTES:  # Longer files fail as on a full disk, and their beginning is kept.
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_BYTES, MAX_BYTES))
from genrekeras.utils import process
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    process.cache_jax_compilation()
    import jax
    result = float(jax.jit(lambda x: x * 2 + 1)(3.0))
print(json.dumps([result, [str(warning.message) for warning in caught]]))
"""


def run_jax(cache, max_bytes=0):
    result, messages = python(
        JAX.replace("MAX_BYTES", str(max_bytes)),
        ["JAX_COMPILATION_CACHE_DIR"],
        KERAS_BACKEND="jax",
        GENREKERAS_CACHE=str(cache),
    )
    assert result == 7.0
    return messages


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="jax is not installed")


def test_two_processes_write_the_cache_of_jax(jax, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(run_jax, [tmp_path, tmp_path]))
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "jax").iterdir()}
    assert written and run_jax(tmp_path) == []
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "jax").iterdir()} == written


@pytest.mark.skipif(sys.platform == "win32", reason="the module resource is missing")
def test_the_disk_is_full_while_the_cache_of_jax_is_written(jax, tmp_path):
    messages = run_jax(tmp_path, max_bytes=100)
    assert messages and all("Error writing" in message for message in messages)
    assert {path.stat().st_size for path in (tmp_path / "jax").iterdir()} == {100}
    messages = run_jax(tmp_path)
    assert messages and all("Error reading" in message for message in messages)


def test_no_cache_of_jax(jax, tmp_path, monkeypatch):
    """Neither on another backend, nor where the folder cannot be written, nor on a full disk."""
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "file"))
    process.cache_jax_compilation()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(jax.config, "update", lambda *arguments: pytest.fail("called"))
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be stored in .*file.*Set GENREKERAS_CACHE"):
        process.cache_jax_compilation()
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path))
    monkeypatch.setattr(process.io.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.warns(UserWarning, match="needs 100 MiB"):
        process.cache_jax_compilation()


def test_a_folder_that_the_user_chose_for_the_cache_of_jax(tmp_path):
    pytest.importorskip("jax", reason="jax is not installed")
    script = (
        "import json, sys; sys.argv = ['genrekeras']; from genrekeras.utils import process; "
        "process.cache_jax_compilation(); import jax; print(json.dumps(jax.config.jax_compilation_cache_dir))"
    )
    assert python(script, KERAS_BACKEND="jax", JAX_COMPILATION_CACHE_DIR=str(tmp_path)) == str(tmp_path)
