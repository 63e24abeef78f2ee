"""Settings of the process, which only programs apply."""

import platform
import subprocess
import sys

import keras
import pytest
from genrekeras.utils import process
from processes import python

CONFIGURE = """
import json, os, sys
sys.argv = ["genrekeras"]  # the library then imports no Keras
from genrekeras.utils import process
process.shorten_spinning()
process.keep_freed_memory()
seen = {"spin": os.environ.get("GOMP_SPINCOUNT")}
if sys.platform == "linux":
    import numpy as np

    x = np.ones(300_000_000, "uint8")
    del x
    seen["MB"] = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1000
print(json.dumps(seen))
"""
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def test_spinning_and_memory_unless_the_environment_chooses():
    unchosen = python(CONFIGURE, CHOICES)
    chosen = python(CONFIGURE, CHOICES, GOMP_SPINCOUNT="7", MALLOC_ARENA_MAX="4")
    assert (unchosen["spin"], chosen["spin"]) == ("1000", "7")
    assert python(CONFIGURE, CHOICES, OMP_WAIT_POLICY="ACTIVE")["spin"] is None
    if platform.libc_ver()[0] == "glibc":
        assert unchosen["MB"] - chosen["MB"] > 200  # freed memory is kept


def test_keras_imports_no_tensorflow_on_torch():
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    script = (
        "import json, sys, genrekeras, keras; from genrekeras.utils.process import skip_tensorflow; skip_tensorflow(); "
        "keras.saving.serialize_keras_object(keras.layers.Dense(1)); keras.utils.set_random_seed(0); "
        "keras.layers.Rescaling(1.0)(keras.ops.ones((1, 2))); print(json.dumps('tensorflow' in sys.modules))"
    )
    assert not python(script, KERAS_BACKEND="torch")


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
    assert python(script, CHOICES, KERAS_BACKEND="torch") == ["1000", False]


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
def test_messages_of_c_code_are_dropped_within_the_context():
    script = (
        "import ctypes, sys; sys.argv = ['genrekeras']; from genrekeras.audio import decoders; from genrekeras.utils import process\n"
        "libc = ctypes.CDLL(None); message = lambda text: libc.perror(text)\n"
        "with decoders.codec_context: message(b'shown')\n"
        "process.hide_codec_messages()\n"
        "with decoders.codec_context:\n"
        "    message(b'hidden'); print('of Python', file=sys.stderr)\n"
        "message(b'after')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["shown", "of Python", "after"]
