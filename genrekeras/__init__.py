"""Music genre classification with Keras 3. Models compute the probabilities of genres from waveforms.

```python
import genrekeras as gk

model = gk.GenreClassifier(backbone="efficientnet_b0")
```

The first of these that exists determines the Keras backend:

1. a Keras that is already imported;
2. the environment variable `KERAS_BACKEND`;
3. Keras' config file. The value tensorflow is ignored, because Keras writes it by default on its first import;
4. the default of genrekeras, PyTorch.
"""

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any


def _choose_backend():
    """Set `KERAS_BACKEND` to PyTorch if no other backend was chosen. Must be called before Keras is imported."""
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            configured = json.load(file).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):  # the file does not exist or is invalid; Keras ignores it too
        configured = "tensorflow"
    if configured == "tensorflow":
        os.environ["KERAS_BACKEND"] = "torch"


def _runs_as_command():
    """Return whether this process is the command `genrekeras` or `python -m genrekeras`."""
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":  # `python -m` has not found the path of the module yet
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
    "library",
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


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'genrekeras' has no attribute {name!r}")
    module = importlib.import_module(f"genrekeras.{_MODULE_OF.get(name, name)}")
    return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


# `keras.saving.load_model` can load registered classes only, so importing the library imports Keras and these classes.
# Importing Keras takes seconds. The command line imports it only when needed, so that help and usage errors appear at
# once.
if not _runs_as_command():
    from genrekeras import callbacks, layers, models
    from genrekeras.genres import GENRES
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.saving import ModelFileError, load_model

if TYPE_CHECKING:  # `__getattr__` imports these modules
    from genrekeras import (
        audio,
        datasets,
        evaluation,
        export,
        inference,
        library,
        reports,
        tags,
        training,
        visualization,
    )
