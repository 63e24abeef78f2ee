"""Music genre classification with Keras 3: from waveforms to probabilities.

```python
import genrekeras as gk

model = gk.GenreClassifier(backbone="efficientnet_b0")
```

The backend is the one of `KERAS_BACKEND` or of an already imported Keras; then the one of Keras' config file, unless
that says tensorflow (Keras writes this by itself on its first import, so nobody chose it); else PyTorch.
"""

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


def _runs_as_command():
    """Return whether this process is the command `genrekeras` or `python -m genrekeras`."""
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":  # the value while Python imports the package of a module that it runs
        return sys.orig_argv[-len(arguments)] == "genrekeras"
    return os.path.basename(arguments[0]) in ("genrekeras", "genrekeras.exe")


_choose_backend()

from genrekeras.version import __version__  # noqa: E402, F401

__all__ = [
    "GENRES",
    "GenreClassifier",
    "ModelFileError",
    "audio",
    "callbacks",
    "datasets",
    "evaluation",
    "export",
    "inference",
    "layers",
    "load_model",
    "models",
    "reports",
    "tags",
    "training",
    "visualization",
]

_MODULE_OF = {
    "GENRES": "genres",
    "GenreClassifier": "models.genre_classifier",
    "ModelFileError": "models.saving",
    "load_model": "models.saving",
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
    from genrekeras import callbacks, layers, models
    from genrekeras.genres import GENRES
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.saving import ModelFileError, load_model
