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
import importlib.abc
import json
import os
import sys
import threading
from typing import TYPE_CHECKING

import lazy_loader


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


class _ImportClasses(importlib.abc.MetaPathFinder, threading.local):
    """Import `GenreClassifier` after Keras, because `keras.saving.load_model` can load registered classes only.

    If a module of genrekeras imports Keras, the class is imported at the end of that module, because the module is
    incomplete before. The finder then removes itself. See "Import" in docs/design.md.
    """

    depth = 0  # number of nested imports of Keras and of modules of genrekeras, in this thread

    def find_spec(self, name, path=None, target=None):
        if name != "keras" and not name.startswith("genrekeras."):
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_import(module):
                del spec.loader.exec_module
                self.depth += 1
                try:
                    execute(module)
                finally:
                    self.depth -= 1
                if not self.depth and "keras" in sys.modules and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    importlib.import_module("genrekeras.models.genre_classifier")

            spec.loader.exec_module = execute_and_import
        return spec


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

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    set(__all__) - {"GENRES", "GenreClassifier", "ModelFileError", "load_model"},
    {
        "export.loading": ["load_model"],
        "genres": ["GENRES"],
        "models.genre_classifier": ["GenreClassifier"],
        "models.saving": ["ModelFileError"],
    },
)

# An import of Keras takes seconds, and exported models do not need it. So the library imports Keras when it is needed.
if "keras" in sys.modules:
    importlib.import_module("genrekeras.models.genre_classifier")
else:
    sys.meta_path.insert(0, _ImportClasses())

if TYPE_CHECKING:
    from genrekeras import (
        audio,
        callbacks,
        datasets,
        evaluation,
        export,
        inference,
        layers,
        library,
        models,
        reports,
        tags,
        training,
        visualization,
    )
    from genrekeras.export.loading import load_model
    from genrekeras.genres import GENRES
    from genrekeras.models.genre_classifier import GenreClassifier
    from genrekeras.models.saving import ModelFileError
