"""Tell the genre of music with Keras 3: waveform in, probabilities out.

```python
import genrekeras as gk

model = gk.GenreClassifier(backbone="efficientnet_b0")
```

The backend is the one of `KERAS_BACKEND` or of an already imported Keras; then the one of Keras' config file, unless
that says tensorflow (Keras writes this by itself on its first import, so nobody chose it); else PyTorch.
"""

import ctypes
import importlib
import json
import os
import sys


def _choose_backend():
    """Set `KERAS_BACKEND` where nobody chose; must run before Keras is imported."""
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            configured = json.load(file).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):  # no file, or one that Keras ignores too
        configured = "tensorflow"
    if configured == "tensorflow":
        os.environ["KERAS_BACKEND"] = "torch"


def _share_cores():
    """Let idle threads of torch sleep soon instead of spinning; must run before torch is imported.

    Two processes that spin on the same cores mostly wait for each other: each is then many times slower.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _keep_memory():
    """Let glibc keep up to 1 GiB of freed memory, in one arena for all threads.

    PyTorch allocates the same large blocks in each step; otherwise the system would clear their pages each time. Arenas
    of other threads cannot reuse large blocks: arrays of 100 MB in a thread took 9 GB, and 40 times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        trim_threshold, mmap_threshold, arena_max, size = -1, -3, -8, 1 << 30
        mallopt(trim_threshold, size)
        mallopt(mmap_threshold, size)
        mallopt(arena_max, 1)


def _runs_as_command():
    """Return whether this process is the command `genrekeras` or `python -m genrekeras`."""
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":  # the value while Python imports the package of a module that it runs
        return sys.orig_argv[-len(arguments)] == "genrekeras"
    return os.path.basename(arguments[0]) in ("genrekeras", "genrekeras.exe")


_choose_backend()
_share_cores()
_keep_memory()

from genrekeras.version import __version__  # noqa: E402, F401

__all__ = [
    "GENRES",
    "GenreClassifier",
    "ModelFileError",
    "audio",
    "callbacks",
    "comparison",
    "datasets",
    "embeddings",
    "ensemble",
    "evaluation",
    "export",
    "features",
    "inference",
    "kernel_machine",
    "layers",
    "load_model",
    "tags",
    "training",
]

_MODULE_OF = {
    "GENRES": "genres",
    "GenreClassifier": "classifier",
    "ModelFileError": "loading",
    "load_model": "loading",
}


def __getattr__(name):
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'genrekeras' has no attribute {name!r}")
    module = importlib.import_module(f"genrekeras.{_MODULE_OF.get(name, name)}")
    return getattr(module, name) if name in _MODULE_OF else module


def __dir__():
    return sorted(set(globals()) | set(__all__))


# `keras.saving.load_model` finds only registered classes, so importing the library imports Keras and these classes. The
# command line imports Keras only where it is needed, so that help and usage errors appear at once.
if not _runs_as_command():
    from genrekeras import callbacks, layers
    from genrekeras.classifier import GenreClassifier
    from genrekeras.genres import GENRES
    from genrekeras.loading import ModelFileError, load_model
