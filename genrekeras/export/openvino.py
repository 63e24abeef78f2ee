"""OpenVINO: `.xml` files, each with a `.bin` file of weights."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from genrekeras.export.base import CARD, Format


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to an `.xml` file and its `.bin` file. See `Format`."""
    import openvino

    model.export(path, format="openvino", verbose=False)
    graph = openvino.Core().read_model(path)
    graph.set_rt_info(json.dumps(card), [CARD])
    with_card = f"{path[:-4]}-card.xml"
    openvino.save_model(graph, with_card, compress_to_fp16=False)
    del graph  # The graph keeps the old .bin file open.
    for ending in (".xml", ".bin"):
        os.replace(f"{with_card[:-4]}{ending}", f"{path[:-4]}{ending}")


def run(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an exported model in OpenVINO. See `Format`."""
    import openvino

    # Without the hint, OpenVINO computes in 16 bits on some processors. The probabilities then differed by 0.38.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda waveforms: compiled(waveforms)[0]


def read_card(path: str) -> dict[str, Any]:
    """Return the card of an `.xml` file."""
    import openvino

    return json.loads(openvino.Core().read_model(path).get_rt_info([CARD]).astype(str))


FORMAT = Format(".xml", ("torch", "tensorflow"), write, run, read_card)
