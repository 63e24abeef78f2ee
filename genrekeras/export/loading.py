"""Load exported models, and use them like a `GenreClassifier`. This module does not import Keras."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from genrekeras.export import litert, onnx, openvino, saved_model, torch_export, web
from genrekeras.export.base import CARD, OUTPUTS, ExportError, Format, Run
from genrekeras.models.thresholds import Thresholds
from genrekeras.models.track_classifier import OutputName, TrackClassifier
from genrekeras.utils.io import StrPath

if TYPE_CHECKING:
    from genrekeras.models.genre_classifier import GenreClassifier

FormatName: TypeAlias = Literal["onnx", "openvino", "torch", "saved_model", "litert", "web"]
FORMATS: dict[FormatName, Format] = {
    "onnx": onnx.FORMAT,
    "openvino": openvino.FORMAT,
    "torch": torch_export.FORMAT,
    "saved_model": saved_model.FORMAT,
    "litert": litert.FORMAT,
    "web": web.FORMAT,
}
# Formats that `load_model` recognizes by the ending of the file: ending -> format.
ENDINGS: dict[str, FormatName] = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert"}


class ExportedModel(TrackClassifier):
    """An exported model in its own runtime. It has the prediction methods of a `GenreClassifier`.

    Neither Keras nor its backend is imported, unless the backend is the runtime. `load` and `genrekeras.load_model`
    return such models.

    Args:
        path: path of the exported model.
        run: function that runs the model, see `Format`.
        card: the card in the exported model, see `load`.

    Attributes:
        genres, sample_rate, clip_seconds, multi_label, thresholds, card: see `GenreClassifier`.
    """

    def __init__(self, path: str, run: Run, card: Mapping[str, Any]):
        self._path, self._run = path, run
        self.card = card
        self.genres = tuple(card["genres"])
        self.sample_rate = card["sample_rate"]
        self.clip_seconds = card["clip_seconds"]
        self.multi_label = card["multi_label"]
        self.thresholds = Thresholds(**card["thresholds"])

    def inference_function(self, *outputs: OutputName, many: bool = True) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return a function that computes outputs of the model. See `TrackClassifier`. `many` has no effect."""

        def compute(clips):
            values = self._run(np.asarray(clips, "float32"))
            return [values[name] for name in outputs]

        return compute

    def digest(self) -> str:
        """Return a hash of the file. For OpenVINO, the file of the weights is included."""
        digest = hashlib.sha256()
        for path in (self._path, f"{os.path.splitext(self._path)[0]}.bin"):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    digest.update(file.read())
        return digest.hexdigest()


def load_model(path: StrPath) -> GenreClassifier | ExportedModel:
    """Load a model from a `.keras` file, or an exported model from an `.onnx`, `.xml` (OpenVINO) or `.tflite` file.

    A `.keras` file is loaded by `genrekeras.models.load_model`, which rejects damaged and malicious files. An exported
    model is loaded by `genrekeras.export.load`, without importing Keras. Load only exported models that you trust.

    Raises:
        FileNotFoundError: the file does not exist.
        genrekeras.ModelFileError: a `.keras` file cannot be loaded as a `GenreClassifier`.
        genrekeras.export.ExportError: an exported model is damaged, or was not exported by genrekeras.
        ImportError: the runtime of an exported model is not installed.
    """
    ending = os.path.splitext(os.fspath(path))[1]
    if ending in ENDINGS:
        return load(path, ENDINGS[ending])
    from genrekeras.models import saving  # imports Keras

    return saving.load_model(path)


def load(path: StrPath, format: FormatName) -> ExportedModel:
    """Load an exported model.

    Args:
        path: an exported file, or the folder of a SavedModel or a web page.
        format: a key of `FORMATS`.

    Returns:
        The model. The keys of its `card` are `genres`, `sample_rate`, `clip_seconds`, `input`, `outputs`,
        `multi_label` (whether the probabilities of the genres are independent of each other), `labels` (see
        `genrekeras.inference.label_kinds`), `thresholds` (see `genrekeras.models.Thresholds`), `weights` and `made_by`,
        and `name`, `license`, `about` and `calibration` if the card of the Keras model has them.

    Raises:
        ValueError: `format` is unknown, or `path` has a wrong ending.
        FileNotFoundError: `path` does not exist.
        ImportError: a package that the format needs is not installed.
        ExportError: the file is damaged, has another format, or contains no card of this version of genrekeras.
    """
    target, path = get_format(format), os.fspath(path)
    check_ending(path, format)
    if not os.path.exists(path):
        raise FileNotFoundError(f"The exported model {path} does not exist.")
    try:
        run, text = target.load(path)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} cannot be loaded, because {error.name} is not installed. Install genrekeras with the extra "
            "export, such as: pip install '.[export]'"
        ) from error
    except ImportError:
        raise
    except Exception as error:  # Runtimes raise different exception types.
        raise ExportError(
            f"{path} cannot be loaded as {format}, because it is damaged or has another format: {_reason(error)}"
        ) from error
    if text is None:
        raise ExportError(f"{path} contains no {CARD}, so it was not exported by genrekeras.")
    try:
        card = json.loads(text)
        if tuple(card["outputs"]) != OUTPUTS:
            raise ValueError(f"outputs={card['outputs']}")
        return ExportedModel(path, run, card)
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{path} contains a {CARD} that was not written by this version of genrekeras. Export the model again "
            f"(genrekeras export). The reason is {_reason(error)}"
        ) from error


def _reason(error):
    """Return the class of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def check_ending(path: str, format: FormatName) -> None:
    """Raise `ValueError` if a path does not have the ending of the format."""
    ending = FORMATS[format].ending
    if not path.endswith(ending):
        raise ValueError(f"`path` must end in {ending} for {format}. Received: path={path!r}")


def get_format(format: FormatName) -> Format:
    """Return the `Format` with a given name. Raise `ValueError` if there is none."""
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {tuple(FORMATS)}. Received: format={format!r}")
    return FORMATS[format]
