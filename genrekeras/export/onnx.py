"""ONNX: `.onnx` files, run by ONNX Runtime."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from genrekeras.export.base import CARD, Format


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to an `.onnx` file. See `Format`."""
    import onnx

    model.export(path, format="onnx", verbose=False)
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {CARD: json.dumps(card)})
    onnx.save(proto, path)


def run(path: str | bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an exported model, a file or its content, in ONNX Runtime. See `Format`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    return lambda waveforms: session.run(None, {model_input.name: waveforms})[0]


def read_card(path: str) -> dict[str, Any]:
    """Return the card of an `.onnx` file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return json.loads(session.get_modelmeta().custom_metadata_map[CARD])


FORMAT = Format(".onnx", ("torch",), write, run, read_card)
