"""ONNX: `.onnx` files, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from genrekeras.export.base import CARD, OUTPUTS, Format, Run

if TYPE_CHECKING:
    import keras


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to an `.onnx` file. See `Format`."""
    import onnx

    model.export(path, format="onnx", verbose=False)
    proto = onnx.load(path)
    for output, name in zip(proto.graph.output, OUTPUTS, strict=True):
        proto.graph.node.append(onnx.helper.make_node("Identity", [output.name], [name]))
        output.name = name
    onnx.helper.set_model_props(proto, {CARD: json.dumps(card)})
    onnx.save(proto, path)


def load(path: str | bytes) -> tuple[Run, str | None]:
    """Load an exported model, a file or its content, into ONNX Runtime. See `Format`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to decoding
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(waveforms):
        return dict(zip(OUTPUTS, session.run(OUTPUTS, {"waveform": waveforms}), strict=True))

    return run, session.get_modelmeta().custom_metadata_map.get(CARD)


FORMAT = Format(".onnx", ("torch",), write, load)
