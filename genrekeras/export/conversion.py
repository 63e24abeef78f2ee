"""Export a model (waveform -> probabilities) to other runtimes, and compare the result with the Keras model."""

import os
import tempfile
import warnings

import keras
import numpy as np
from genrekeras.export import litert, onnx, openvino, saved_model, torch_export
from genrekeras.export.base import CARD, ExportError
from genrekeras.utils.io import TEMPORARY
from genrekeras.version import __version__

# Maximum accepted difference of a probability, by number type of the weights. Measured with EfficientNet-Lite0 on 800
# real spectrograms of FMA: 0.014 (float16) and 0.18 (int8). With the last layer in 8 bits too, it was 0.32, and 0.86
# with last-layer weights of very unequal size.
TOLERANCES = {None: 1e-3, "float16": 0.03, "int8": 0.25}
FORMATS = {
    "onnx": onnx.FORMAT,
    "openvino": openvino.FORMAT,
    "torch": torch_export.FORMAT,
    "saved_model": saved_model.FORMAT,
    "litert": litert.FORMAT,
}


def export(model, path, format, clips=None, tolerance=None, quantize=None):
    """Write a model in the format of another runtime.

    The spectrogram is computed by matrix products (`dft="matmul"`), since most formats have no complex numbers.
    Augmentation is omitted. The exported model is loaded in its own runtime and compared with the Keras model on single
    clips and on a batch. It is moved to `path` only if all probabilities agree.

    A quantized model stores the kernels of the backbone's convolutions in fewer bits, but computes in 32 bits: the file
    is smaller, the model not faster. All other weights stay in 32 bits, such as the matrices of the spectrogram, which
    span more than 80 dB, and the last layer. With `"int8"`, kernels of fewer than 1,024 numbers (the first layers) also
    stay in 32 bits: quantizing them costs the most accuracy and saves little space.

    Args:
        model: `GenreClassifier`.
        path: str or path-like, ends in `.onnx`, `.xml` (OpenVINO, which writes a `.bin` too), `.tflite` or `.pt2`; for
            `"saved_model"`, a new folder.
        format: a key of `FORMATS`.
        clips: `(n, samples)` float32, at least two clips for the comparison; `None` uses synthetic sounds.
        tolerance: float > 0, maximum accepted difference of a probability. `None` uses `TOLERANCES`: 0.001, with
            `"float16"` 0.03, with `"int8"` 0.25, which detects a broken model but not a small loss. To measure the
            loss, compare on real clips and use the returned value.
        quantize: `None`; or, for `"litert"`, `"float16"` or `"int8"` (with one scale per channel).

    Returns:
        float, the maximum difference of a probability.

    Raises:
        ValueError: the format is unknown, cannot be written from this backend or cannot be quantized in this way;
            `path` has a wrong ending or exists (`"saved_model"`); or `clips` have another shape.
        ImportError: a package is missing.
        ExportError: the conversion fails, or the probabilities of the exported model differ.
        OSError: the file cannot be written.

    Warns:
        UserWarning: the probabilities of the Keras model are the same for all clips, within the tolerance, so that the
            comparison cannot distinguish a correct export from one that ignores its input.
    """
    spec = _spec(format)
    path = os.path.abspath(os.fspath(path))
    if keras.backend.backend() not in spec.backends:
        raise ValueError(
            f"{format} can only be exported with the backend {' or '.join(spec.backends)}, and the backend is "
            f"{keras.backend.backend()}. Save the model, and load it with KERAS_BACKEND={spec.backends[0]}."
        )
    if quantize is not None and quantize not in spec.quantize:
        raise ValueError(
            f"`quantize` must be one of {(None, *spec.quantize)} for {format}. Received: quantize={quantize!r}"
        )
    _check_ending(path, format)
    if not spec.ending and os.path.exists(path):
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
        "weights": quantize or "float32",
        "made_by": f"genrekeras {__version__} on {keras.backend.backend()}",
    }
    expected = model.predict(clips, verbose=0)
    spread = float(np.ptp(expected, axis=0).max())
    if spread / 2 <= tolerance:  # the largest error of a constant output halfway between the extremes
        warnings.warn(
            f"The probabilities of the model differ by only {spread:.2g} between the {len(clips)} clips, and the "
            f"tolerance is {tolerance:g}: an export that ignores its input would pass. The comparison cannot "
            "distinguish a correct export from a wrong one. Compare on other clips, or export a trained model.",
            stacklevel=2,
        )
    folder, name = os.path.split(path)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
        written = os.path.join(temporary, name)
        with warnings.catch_warnings():  # tracing warns about fixed shapes
            warnings.simplefilter("ignore")
            try:
                spec.write(
                    _called(model.for_export(), clips),
                    written,
                    card,
                    clips,
                    **({"quantize": quantize} if quantize else {}),
                )
            except (ImportError, OSError):
                raise
            except Exception as error:  # each converter raises errors of its own
                raise ExportError(f"The conversion to {format} failed: {type(error).__name__}: {error}") from error
        difference = _difference(spec, written, clips, expected, card)
        if not difference <= tolerance:
            raise ExportError(
                f"{format}: probabilities differ from those of the Keras model by {difference:.2g}, more than the "
                f"tolerance of {tolerance:g}. {path} was not written."
            )
        # Files of weights are moved before the file that refers to them.
        for entry in sorted(os.listdir(temporary), key=lambda entry: entry == name):
            os.replace(os.path.join(temporary, entry), os.path.join(folder, entry))
    return difference


def load(path, format):
    """Load an exported model and its card.

    Args:
        path: str or path-like.
        format: a key of `FORMATS`.

    Returns:
        tuple: a function, `(batch, samples)` float32 -> `(batch, genres)` float32, which runs the model in the runtime
        of the format; and the card, a dict with `genres`, `sample_rate`, `clip_seconds`, `made_by` and more.

    Raises:
        ValueError: the format is unknown, or `path` has a wrong ending.
        FileNotFoundError: `path` does not exist.
        ImportError: a package is missing.
        ExportError: the file is damaged, has another format, or contains no card of genrekeras.
    """
    spec, path = _spec(format), os.fspath(path)
    _check_ending(path, format)
    if not os.path.exists(path):
        raise FileNotFoundError(f"The exported model {path} does not exist.")
    try:
        run = spec.run(path)
    except ImportError:
        raise
    except Exception as error:  # each runtime raises errors of its own
        raise ExportError(
            f"{path} cannot be loaded as {format}, because it is damaged or has another format: {_reason(error)}"
        ) from error
    try:
        card = spec.read_card(path)
        complete = {"genres", "sample_rate", "clip_seconds"} <= card.keys()
    except Exception as error:  # each format raises errors of its own
        raise ExportError(f"{path} contains no {CARD} that can be read: {_reason(error)}") from error
    if not complete:
        raise ExportError(f"{path} contains a {CARD} that was not written by genrekeras. Received: keys={list(card)}")
    return run, card


def _reason(error):
    """Return the class and the first line of the message of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _check_ending(path, format):
    ending = FORMATS[format].ending
    if not path.endswith(ending):
        raise ValueError(f"`path` must end in {ending} for {format}. Received: path={path!r}")


def _spec(format):
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {tuple(FORMATS)}. Received: format={format!r}")
    return FORMATS[format]


def _called(model, clips):
    """Call a model, which is required before the export to ONNX, and return it."""
    model(clips[:1])
    return model


def _difference(spec, path, clips, expected, card):
    """Return the maximum difference of a probability of an exported model, on single clips and on a batch."""
    try:
        run, read_card = spec.run(path), spec.read_card(path)
        single = np.concatenate([run(clip[None]) for clip in clips])
        batch = run(clips)
    except ImportError:
        raise
    except Exception as error:  # each runtime raises errors of its own
        raise ExportError(f"The exported model cannot be run by its own runtime: {error}") from error
    if read_card != card:
        raise ExportError(f"The exported model has the card {read_card}, and should have {card}.")
    return float(max(np.abs(probabilities - expected).max() for probabilities in (single, batch)))


def _synthetic_clips(model):
    """Return noise, a chord, silence and a loud clipped tone: `(4, samples)` float32."""
    rng, time = np.random.default_rng(0), np.arange(model.input_shape[1]) / model.sample_rate
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (220.0, 277.2, 329.6)) / 4
    clipped = np.clip(3 * np.sin(2 * np.pi * 110 * time), -1, 1)
    return np.stack([0.1 * rng.standard_normal(len(time)), chord, np.zeros(len(time)), clipped]).astype("float32")
