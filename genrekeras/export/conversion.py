"""Export a model to another runtime, and compare the exported model with the Keras model."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from genrekeras.export.base import OUTPUTS, ExportError
from genrekeras.export.loading import FORMATS, FormatName, check_ending, get_format, load
from genrekeras.models.labels import label_kinds
from genrekeras.utils.io import TEMPORARY, StrPath
from genrekeras.version import __version__

if TYPE_CHECKING:
    from genrekeras.models.genre_classifier import GenreClassifier

# Type of the weights -> largest accepted difference between probabilities of the exported model and the Keras model.
# The differences of EfficientNet-Lite0 on 800 spectrograms of FMA were at most 0.014 (float16) and 0.18 (int8). If the
# last layer was quantized to int8 too, the largest difference was 0.32. It was 0.86 if the weights of the last layer
# had very unequal magnitudes.
TOLERANCES = {None: 1e-3, "float16": 0.03, "int8": 0.25}


def export(
    model: GenreClassifier,
    path: StrPath,
    format: FormatName,
    clips: npt.ArrayLike | None = None,
    tolerance: float | None = None,
    quantize: Literal["float16", "int8"] | None = None,
    runtime: StrPath | None = None,
) -> float:
    """Write a model in the format of another runtime.

    The exported model takes waveforms. Its outputs are `probabilities`, `features` and `ood_score`. It computes the
    spectrogram by matrix products (`dft="matmul"`), because most formats have no complex numbers. Augmentation is
    omitted.

    The model is first written to a temporary file, loaded in its own runtime, and compared with the Keras model on
    single clips and on a batch. The file is moved to `path` only if all probabilities agree within `tolerance`. Without
    quantization, features and out-of-distribution scores must also agree, within 0.001 of the largest one.

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
    import keras  # imported here because exported models are loaded without Keras

    target = get_format(format)
    path = os.path.abspath(os.fspath(path))
    if keras.backend.backend() not in target.backends:
        raise ValueError(
            f"{format} can only be exported with the backend {' or '.join(target.backends)}, but the backend is "
            f"{keras.backend.backend()}. Set KERAS_BACKEND={target.backends[0]}, and load the saved model again."
        )
    if quantize is not None and quantize not in target.quantize:
        raise ValueError(
            f"`quantize` must be one of {(None, *target.quantize)} for {format}. Received: quantize={quantize!r}"
        )
    if runtime is not None and target is not FORMATS["web"]:
        raise ValueError(f"`runtime` must be None for {format}. Received: runtime={runtime!r}")
    check_ending(path, format)
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
        "outputs": list(OUTPUTS),
        "multi_label": model.multi_label,
        "labels": label_kinds(model),
        "thresholds": dataclasses.asdict(model.thresholds),
        **{key: model.card[key] for key in ("name", "license", "about", "calibration") if key in model.card},
        "weights": quantize or "float32",
        "made_by": f"genrekeras {__version__} on {keras.backend.backend()}",
    }
    card = json.loads(json.dumps(card))  # as in the exported file, where tuples are lists
    expected = dict(zip(OUTPUTS, model.inference_function(*OUTPUTS)(clips), strict=True))
    spread = float(np.ptp(expected["probabilities"], axis=0).max())
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
                functional_model = model.for_export()
                functional_model(clips[:1])  # Keras exports a model to ONNX only after a call.
                options = {"quantize": quantize, "runtime": runtime}
                options = {key: value for key, value in options.items() if value is not None}
                target.write(functional_model, temporary_path, card, clips, **options)
            except (ImportError, OSError, ExportError):
                raise
            except Exception as error:  # Converters raise different exception types.
                raise ExportError(f"The conversion to {format} failed: {type(error).__name__}: {error}") from error
        differences = _differences(format, temporary_path, clips, expected, card)
        tolerances = {"probabilities": tolerance}
        if quantize is None:
            scales = {name: max(1.0, float(np.abs(expected[name]).max())) for name in OUTPUTS[1:]}
            tolerances |= {name: TOLERANCES[None] * scale for name, scale in scales.items()}
        for name, limit in tolerances.items():
            if not differences[name] <= limit:
                raise ExportError(
                    f"{format}: {name} differ from those of the Keras model by {differences[name]:.2g}, more than the "
                    f"tolerance of {limit:g}. {path} was not written."
                )
        # Move the files of weights before the file that refers to them.
        for entry in sorted(os.listdir(temporary), key=lambda entry: entry == name):
            os.replace(os.path.join(temporary, entry), os.path.join(folder, entry))
    return differences["probabilities"]


def _differences(format, path, clips, expected, card):
    """Return the largest difference between each output of an exported model and its expected values.

    The exported model processes single clips and a batch. Its card must equal `card`.
    """
    exported = load(path, format)
    if exported.card != card:
        raise ExportError(f"The exported model has the card {exported.card}, but should have {card}.")
    compute = exported.inference_function(*OUTPUTS)
    try:
        single = [np.concatenate(values) for values in zip(*(compute(clip[None]) for clip in clips), strict=True)]
        batch = compute(clips)
    except Exception as error:  # Runtimes raise different exception types.
        raise ExportError(f"The exported model cannot be run by its own runtime: {error}") from error
    return {
        name: float(max(np.abs(values - expected[name]).max() for values in pair))
        for name, *pair in zip(OUTPUTS, single, batch, strict=True)
    }


def _synthetic_clips(model):
    """Return `(4, samples)` float32: noise, a chord, silence and a loud clipped tone."""
    rng, time = np.random.default_rng(0), np.arange(model.input_shape[1]) / model.sample_rate
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (220.0, 277.2, 329.6)) / 4
    clipped = np.clip(3 * np.sin(2 * np.pi * 110 * time), -1, 1)
    return np.stack([0.1 * rng.standard_normal(len(time)), chord, np.zeros(len(time)), clipped]).astype("float32")
