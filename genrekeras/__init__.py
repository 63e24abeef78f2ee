"""Music genre classification with Keras 3: from waveforms to probabilities of genres.

```python
import genrekeras as gk

model = gk.GenreClassifier(backbone="efficientnet_b0")
```

The Keras backend is that of the environment variable `KERAS_BACKEND` or of an already imported Keras. If neither is
set, it is that of Keras' config file, unless this is tensorflow, which Keras writes by default on its first import; and
else PyTorch.
"""

import importlib
import json
import os
import sys


def _choose_backend():
    """Set `KERAS_BACKEND` if no backend was chosen; must be called before Keras is imported."""
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            configured = json.load(file).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):  # no file, or an invalid file, which Keras ignores too
        configured = "tensorflow"
    if configured == "tensorflow":
        os.environ["KERAS_BACKEND"] = "torch"


def _runs_as_command():
    """Return whether this process is the command `genrekeras` or `python -m genrekeras`."""
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":  # while Python imports the package of the module that it runs
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
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'genrekeras' has no attribute {name!r}")
    module = importlib.import_module(f"genrekeras.{_MODULE_OF.get(name, name)}")
    return getattr(module, name) if name in _MODULE_OF else module


def __dir__():
    return sorted(set(globals()) | set(__all__))


# `keras.saving.load_model` finds registered classes only, so importing the library imports Keras and these classes. The
# command line imports Keras where it is needed only, since that takes seconds: help and usage errors appear at once.
if not _runs_as_command():
    from genrekeras import callbacks, layers, models
    from genrekeras.genres import GENRES
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.saving import ModelFileError, load_model
