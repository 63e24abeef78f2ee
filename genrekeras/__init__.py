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
    """Let the C library keep up to 1 GiB that was freed, where it is glibc.

    Torch asks for the same large pieces at each step, and the system would clear each page of them anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        trim_threshold, mmap_threshold, size = -1, -3, 1 << 30
        mallopt(trim_threshold, size)
        mallopt(mmap_threshold, size)


_choose_backend()
_share_cores()
_keep_memory()

from genrekeras import callbacks, layers  # noqa: E402
from genrekeras.classifier import GenreClassifier  # noqa: E402
from genrekeras.genres import GENRES  # noqa: E402
from genrekeras.loading import ModelFileError, load_model  # noqa: E402
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

# What brings an audio codec, dataset code or scikit-learn with it is imported when it is first used.
_LAZY_MODULES = tuple(name for name in __all__ if name not in globals())


def __getattr__(name):
    if name in _LAZY_MODULES:
        return importlib.import_module(f"genrekeras.{name}")
    raise AttributeError(f"module 'genrekeras' has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(_LAZY_MODULES))
