"""OpenVINO: `.xml` files, each with a `.bin` file of weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from genrekeras.export.base import CARD, OUTPUTS, Format, Run

if TYPE_CHECKING:
    import keras


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to an `.xml` file and its `.bin` file. See `Format`."""
    import openvino

    model.export(path, format="openvino", verbose=False)
    graph = openvino.Core().read_model(path)
    # On TensorFlow, the converter appends inner tensors as further outputs.
    graph = openvino.Model(graph.outputs[: len(OUTPUTS)], graph.get_parameters())
    for output, name in zip(graph.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    graph.set_rt_info(json.dumps(card), [CARD])
    with_card = f"{path[:-4]}-card.xml"
    openvino.save_model(graph, with_card, compress_to_fp16=False)
    del graph  # The graph keeps the old .bin file open.
    for ending in (".xml", ".bin"):
        os.replace(f"{with_card[:-4]}{ending}", f"{path[:-4]}{ending}")


def load(path: str) -> tuple[Run, str | None]:
    """Load an exported model into OpenVINO. See `Format`."""
    import openvino

    core = openvino.Core()
    graph = core.read_model(path)
    # Without the hint, OpenVINO computes in 16 bits on some processors. The probabilities then differed by 0.38.
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(waveforms):
        results = compiled(waveforms)
        return {name: results[name] for name in OUTPUTS}

    return run, graph.get_rt_info([CARD]).astype(str) if graph.has_rt_info([CARD]) else None


FORMAT = Format(".xml", ("torch", "tensorflow"), write, load)
