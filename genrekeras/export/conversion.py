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

# The most that a probability may differ, by how weights are kept. Seen with EfficientNet-Lite0 on 800 real spectrograms
# of FMA: 0.014 and 0.18; with its last layer in 8 bits too 0.32, and 0.86 where that had weights of very unequal size.
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

    The spectrogram is computed by matrix products (`dft="matmul"`), since most formats have no complex numbers;
    augmentation is left out. The exported model is loaded by its own runtime and compared with the Keras model on
    single clips and on a batch. It is moved to `path` only if all probabilities agree.

    A quantized model stores the kernels of the backbone's convolutions in fewer bits, but computes in 32: the file is
    smaller, not faster. All other weights stay in 32 bits, such as the matrices of the spectrogram, which span more
    than 80 dB, and the last layer. With `"int8"`, so do kernels of fewer than 1,024 numbers, the first ones: quantizing
    them loses most and saves little.

    Args:
        model: `GenreClassifier`.
        path: str or path-like; `.onnx`, `.xml` (OpenVINO, with a `.bin` beside it), `.tflite`, `.pt2`, or a new folder.
        format: a key of `FORMATS`.
        clips: `(n, samples)` float32, at least two, to compare on; `None` uses synthetic sounds.
        tolerance: float > 0, largest accepted difference of a probability. `None` uses `TOLERANCES`: 0.001, with
            `"float16"` 0.03, with `"int8"` 0.25, which detects a broken model but not a small loss. To measure the
            loss, compare on real clips and read the returned value.
        quantize: `None`; or, for `"litert"`, `"float16"` or `"int8"` (a scale for each channel).

    Returns:
        float, the largest difference of a probability.

    Raises:
        ValueError: the format is unknown, cannot be made from this backend or cannot be quantized like this; `path` has
            a wrong ending; or the clips have another length.
        ImportError: a package is missing.
        ExportError: the exported model computes something else.
        OSError: it cannot be written.

    Warns:
        UserWarning: the probabilities of the Keras model are the same for all clips, within the tolerance, so that the
            comparison cannot tell a correct export from one that ignores its input.
    """
    row = _row(format)
    path = os.path.abspath(os.fspath(path))
    if keras.backend.backend() not in row.backends:
        raise ValueError(
            f"{format} is made from {' or '.join(row.backends)}, and {keras.backend.backend()} runs: set "
            f"KERAS_BACKEND={row.backends[0]} (the saved model loads there)."
        )
    if quantize is not None and quantize not in row.quantize:
        raise ValueError(
            f"`quantize` must be one of {(None, *row.quantize)} for {format}. Received: quantize={quantize!r}"
        )
    _check_ending(path, format)
    if not row.ending and os.path.exists(path):
        raise ValueError(f"`path` must be a new folder. Received: path={path!r}")
    clips = _made_up_clips(model) if clips is None else np.asarray(clips, "float32")
    if clips.ndim != 2 or len(clips) < 2 or clips.shape[1] != model.input_shape[1]:
        raise ValueError(
            f"`clips` must have the shape (two or more, {model.input_shape[1]}). Received: shape={clips.shape}"
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
            f"tolerance is {tolerance:g}: an export that ignores its input would pass. The comparison cannot tell a "
            "correct export from a wrong one. Compare on other clips, or export a trained model.",
            stacklevel=2,
        )
    folder, name = os.path.split(path)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
        written = os.path.join(temporary, name)
        with warnings.catch_warnings():  # of tracing, about shapes that are fixed
            warnings.simplefilter("ignore")
            try:
                row.write(
                    _called(model.for_export(), clips),
                    written,
                    card,
                    clips,
                    **({"quantize": quantize} if quantize else {}),
                )
            except (ImportError, OSError):
                raise
            except Exception as error:  # each converter has its own
                raise ExportError(f"{format} could not be made: {type(error).__name__}: {error}") from error
        difference = _difference(row, written, clips, expected, card)
        if not difference <= tolerance:
            raise ExportError(
                f"{format}: probabilities differ from those of the Keras model by {difference:.2g}, more than "
                f"{tolerance:g}. Nothing was kept."
            )
        for entry in sorted(
            os.listdir(temporary), key=lambda entry: entry == name
        ):  # the weights before what names them
            os.replace(os.path.join(temporary, entry), os.path.join(folder, entry))
    return difference


def load(path, format):
    """Load an exported model as a function of waveforms, and its card.

    Args:
        path: str or path-like.
        format: a key of `FORMATS`.

    Returns:
        function, `(batch, samples)` float32 -> `(batch, genres)` float32, by the format's own runtime; dict with
        `genres`, `sample_rate`, `clip_seconds`, `made_by` and more.

    Raises:
        ValueError: the format is unknown, or `path` has a wrong ending.
        FileNotFoundError: there is no such file or folder.
        ImportError: a package is missing.
        ExportError: the file is damaged, has another format, or contains no card of genrekeras.
    """
    row, path = _row(format), os.fspath(path)
    _check_ending(path, format)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no exported model {path}")
    try:
        run = row.run(path)
    except ImportError:
        raise
    except Exception as error:  # each runtime raises errors of its own
        raise ExportError(
            f"{path} cannot be loaded as {format}; it is damaged or of another format: {_reason(error)}"
        ) from error
    try:
        card = row.read_card(path)
        complete = {"genres", "sample_rate", "clip_seconds"} <= card.keys()
    except Exception as error:  # each format raises errors of its own
        raise ExportError(f"{path} holds no {CARD} that can be read: {_reason(error)}") from error
    if not complete:
        raise ExportError(f"{path} holds a {CARD} that was not written by genrekeras. Received: {list(card)}")
    return run, card


def _reason(error):
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def _check_ending(path, format):
    ending = FORMATS[format].ending
    if not path.endswith(ending):
        raise ValueError(f"`path` must end in {ending} for {format}. Received: path={path!r}")


def _row(format):
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {tuple(FORMATS)}. Received: format={format!r}")
    return FORMATS[format]


def _called(model, clips):
    """Call a model, as the export to ONNX needs, and return it."""
    model(clips[:1])
    return model


def _difference(row, path, clips, expected, card):
    try:
        run, carried = row.run(path), row.read_card(path)
        single = np.concatenate([run(clip[None]) for clip in clips])
        batch = run(clips)
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own
        raise ExportError(f"Its own runtime cannot use what was written: {error}") from error
    if carried != card:
        raise ExportError(f"What was written does not carry its genres and sample rate, but {carried}")
    return float(max(np.abs(seen - expected).max() for seen in (single, batch)))


def _made_up_clips(model):
    """Noise, a chord, silence and a loud clipped tone: `(4, samples)`."""
    rng, time = np.random.default_rng(0), np.arange(model.input_shape[1]) / model.sample_rate
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (220.0, 277.2, 329.6)) / 4
    clipped = np.clip(3 * np.sin(2 * np.pi * 110 * time), -1, 1)
    return np.stack([0.1 * rng.standard_normal(len(time)), chord, np.zeros(len(time)), clipped]).astype("float32")
