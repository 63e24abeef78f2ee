"""Export a model to another runtime, and compare the exported model with the Keras model."""

import dataclasses
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from genrekeras.export import litert, onnx, openvino, saved_model, torch_export, web
from genrekeras.export.base import CARD, ExportError
from genrekeras.inference.labels import label_kinds
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.utils.io import TEMPORARY, StrPath
from genrekeras.version import __version__

# Type of the weights -> largest accepted difference between probabilities of the exported model and the Keras model.
# The differences of EfficientNet-Lite0 on 800 spectrograms of FMA were at most 0.014 (float16) and 0.18 (int8). If the
# last layer was quantized to int8 too, the largest difference was 0.32. It was 0.86 if the weights of the last layer
# had very unequal magnitudes.
TOLERANCES = {None: 1e-3, "float16": 0.03, "int8": 0.25}
FORMATS = {
    "onnx": onnx.FORMAT,
    "openvino": openvino.FORMAT,
    "torch": torch_export.FORMAT,
    "saved_model": saved_model.FORMAT,
    "litert": litert.FORMAT,
    "web": web.FORMAT,
}


def export(
    model: GenreClassifier,
    path: StrPath,
    format: Literal["onnx", "openvino", "torch", "saved_model", "litert", "web"],
    clips: npt.ArrayLike | None = None,
    tolerance: float | None = None,
    quantize: Literal["float16", "int8"] | None = None,
    runtime: StrPath | None = None,
) -> float:
    """Write a model in the format of another runtime.

    The exported model takes waveforms and returns probabilities. It computes the spectrogram by matrix products
    (`dft="matmul"`), because most formats have no complex numbers. Augmentation is omitted.

    The model is first written to a temporary file, loaded in its own runtime, and compared with the Keras model on
    single clips and on a batch. The file is moved to `path` only if all probabilities agree within `tolerance`.

    Quantization stores the kernels of the backbone's convolutions in fewer bits. The file is smaller, but the model is
    not faster, because it still computes in 32 bits. All other weights stay in 32 bits, such as the last layer and the
    matrices of the spectrogram (the values of a power spectrogram span more than 80 dB). With `"int8"`, kernels with
    fewer than 1,024 weights also stay in 32 bits. These are the kernels of the first layers. To quantize them would
    cost the most accuracy and save little space.

    Args:
        model: the model to export.
        path: the file to write. It must end in `.onnx`, `.xml`, `.tflite` or `.pt2`. For `"openvino"`, a `.bin` file is
            written beside the `.xml` file. For `"saved_model"` and `"web"`, a new folder.
        format: a key of `FORMATS`.
        clips: `(n, samples)` float32, at least two clips, on which the models are compared. `None` uses synthetic
            sounds.
        tolerance: `> 0`, the largest accepted difference of a probability. `None` uses `TOLERANCES`: 0.001 for float32,
            0.03 for `"float16"` and 0.25 for `"int8"`. A tolerance of 0.25 detects a broken model, but not a small loss
            of accuracy. To measure the loss, pass real clips, and use the returned value.
        quantize: type of the quantized weights. `"int8"` has one scale per channel. Only `"litert"` can be quantized.
        runtime: only for `"web"`: the file that `npm pack onnxruntime-web@VERSION` writes, with the version
            `genrekeras.export.web.VERSION`. `None` runs this command once, and stores the file in
            `genrekeras.utils.io.cache_dir()`.

    Returns:
        The largest difference between probabilities of the exported model and the Keras model.

    Raises:
        ValueError: `format` is unknown, the Keras backend cannot write this format, the format does not support
            `quantize` or `runtime`, `path` has a wrong ending or is an existing folder, or `clips` has a wrong shape.
        ImportError: a package that the format needs is not installed.
        ExportError: the conversion fails, the probabilities of the exported model differ, or `runtime` is another file
            or cannot be downloaded.
        OSError: a file cannot be read or written.

    Warns:
        UserWarning: the Keras model predicts almost the same probabilities for all clips. A wrong export that ignores
            its input would then pass the comparison too.
    """
    target = _get_format(format)
    path = os.path.abspath(os.fspath(path))
    if keras.backend.backend() not in target.backends:
        raise ValueError(
            f"{format} can only be exported with the backend {' or '.join(target.backends)}, but the backend is "
            f"{keras.backend.backend()}. Save the model, and load it with KERAS_BACKEND={target.backends[0]}."
        )
    if quantize is not None and quantize not in target.quantize:
        raise ValueError(
            f"`quantize` must be one of {(None, *target.quantize)} for {format}. Received: quantize={quantize!r}"
        )
    if runtime is not None and target is not FORMATS["web"]:
        raise ValueError(f"`runtime` must be None for {format}. Received: runtime={runtime!r}")
    _check_ending(path, format)
    if not target.ending and os.path.exists(path):
        raise ValueError(f"`path` must be a new folder. Received: path={path!r}")
    clips = _synthetic_clips(model) if clips is None else np.asarray(clips, "float32")
    if clips.ndim != 2 or len(clips) < 2 or clips.shape[1] != model.input_shape[1]:
        raise ValueError(
            f"`clips` must have the shape (n, {model.input_shape[1]}), n >= 2. Received: shape={clips.shape}"
        )
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    card = {
        "genres": list(model.genres),
        "sample_rate": model.sample_rate,
        "clip_seconds": model.clip_seconds,
        "input": f"waveform (batch, {model.input_shape[1]}) float32, mono, in [-1, 1]",
        "output": f"probabilities (batch, {len(model.genres)}) float32, in the order of genres",
        "multi_label": model.multi_label,
        "kinds": label_kinds(model),
        "thresholds": dataclasses.asdict(model.thresholds),
        **{key: model.card[key] for key in ("name", "license", "about") if key in model.card},
        "weights": quantize or "float32",
        "made_by": f"genrekeras {__version__} on {keras.backend.backend()}",
    }
    card = json.loads(json.dumps(card))  # as in the exported file, where tuples are lists
    expected = model.predict(clips, verbose=0)
    spread = float(np.ptp(expected, axis=0).max())
    if spread / 2 <= tolerance:  # A constant output could have an error of `spread / 2`, and pass.
        warnings.warn(
            f"The probabilities of the model differ by only {spread:.2g} between the {len(clips)} clips. A constant "
            f"output would be within the tolerance of {tolerance:g} too, so the comparison cannot distinguish a correct"
            " export from a wrong one. Compare on other clips, or export a trained model.",
            stacklevel=2,
        )
    folder, name = os.path.split(path)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
        temporary_path = os.path.join(temporary, name)
        with warnings.catch_warnings():  # Tracing a model causes warnings about fixed shapes.
            warnings.simplefilter("ignore")
            try:
                functional_model = model.for_export(*target.outputs)
                functional_model(clips[:1])  # Keras exports a model to ONNX only after a call.
                options = {"quantize": quantize, "runtime": runtime}
                options = {key: value for key, value in options.items() if value is not None}
                target.write(functional_model, temporary_path, card, clips, **options)
            except (ImportError, OSError, ExportError):
                raise
            except Exception as error:  # Converters raise different exception types.
                raise ExportError(f"The conversion to {format} failed: {type(error).__name__}: {error}") from error
        difference = _difference(target, temporary_path, clips, expected, card)
        if not difference <= tolerance:
            raise ExportError(
                f"{format}: probabilities differ from those of the Keras model by {difference:.2g}, more than the "
                f"tolerance of {tolerance:g}. {path} was not written."
            )
        # Move the files of weights before the file that refers to them.
        for entry in sorted(os.listdir(temporary), key=lambda entry: entry == name):
            os.replace(os.path.join(temporary, entry), os.path.join(folder, entry))
    return difference


def load(
    path: StrPath, format: Literal["onnx", "openvino", "torch", "saved_model", "litert", "web"]
) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    """Load an exported model and its card.

    Args:
        path: an exported file, or the folder of a SavedModel or a web page.
        format: a key of `FORMATS`.

    Returns:
        `(run, card)`:

        - `run`: function `(batch, samples)` float32 -> `(batch, genres)` float32. It runs the model in the runtime of
          the format.
        - `card`: the keys are `genres`, `sample_rate`, `clip_seconds`, `input`, `output`, `multi_label` (whether the
          probabilities of the genres are independent of each other), `kinds` (see `genrekeras.inference.label_kinds`),
          `thresholds` (see `genrekeras.models.Thresholds`), `weights` and `made_by`, and `name`, `license` and `about`
          if the card of the model has them.

    Raises:
        ValueError: `format` is unknown, or `path` has a wrong ending.
        FileNotFoundError: `path` does not exist.
        ImportError: a package that the format needs is not installed.
        ExportError: the file is damaged, has another format, or contains no card of genrekeras.
    """
    target, path = _get_format(format), os.fspath(path)
    _check_ending(path, format)
    if not os.path.exists(path):
        raise FileNotFoundError(f"The exported model {path} does not exist.")
    try:
        run = target.run(path)
    except ImportError:
        raise
    except Exception as error:  # Runtimes raise different exception types.
        raise ExportError(
            f"{path} cannot be loaded as {format}, because it is damaged or has another format: {_reason(error)}"
        ) from error
    try:
        card = target.read_card(path)
        is_complete = {"genres", "sample_rate", "clip_seconds"} <= card.keys()
    except Exception as error:  # Formats raise different exception types.
        raise ExportError(f"{path} contains no {CARD} that can be read: {_reason(error)}") from error
    if not is_complete:
        raise ExportError(f"{path} contains a {CARD} that was not written by genrekeras. Received: keys={list(card)}")
    return run, card


def _reason(error):
    """Return the class of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _check_ending(path, format):
    """Raise `ValueError` if a path does not have the ending of the format."""
    ending = FORMATS[format].ending
    if not path.endswith(ending):
        raise ValueError(f"`path` must end in {ending} for {format}. Received: path={path!r}")


def _get_format(format):
    """Return the `Format` with a given name. Raise `ValueError` if there is none."""
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {tuple(FORMATS)}. Received: format={format!r}")
    return FORMATS[format]


def _difference(target, path, clips, expected, card):
    """Return the largest difference between the probabilities of an exported model and the expected probabilities.

    The exported model processes single clips and a batch. Its card must equal `card`.
    """
    try:
        run, card_of_file = target.run(path), target.read_card(path)
        single = np.concatenate([run(clip[None]) for clip in clips])
        batch = run(clips)
    except ImportError:
        raise
    except Exception as error:  # Runtimes raise different exception types.
        raise ExportError(f"The exported model cannot be run by its own runtime: {error}") from error
    if card_of_file != card:
        raise ExportError(f"The exported model has the card {card_of_file}, but should have {card}.")
    return float(max(np.abs(probabilities - expected).max() for probabilities in (single, batch)))


def _synthetic_clips(model):
    """Return `(4, samples)` float32: noise, a chord, silence and a loud clipped tone."""
    rng, time = np.random.default_rng(0), np.arange(model.input_shape[1]) / model.sample_rate
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (220.0, 277.2, 329.6)) / 4
    clipped = np.clip(3 * np.sin(2 * np.pi * 110 * time), -1, 1)
    return np.stack([0.1 * rng.standard_normal(len(time)), chord, np.zeros(len(time)), clipped]).astype("float32")
