"""`torch.export`: `.pt2` files of PyTorch."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from genrekeras.export.base import CARD, Format


def write(model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray) -> None:
    """Export a model and its card to a `.pt2` file. See `Format`."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, waveform):
            return self.model(waveform, training=False)

    # `keras.Model.export` is not used, because it fixes the batch size to 1.
    example = torch.from_numpy(clips[:2])
    program = torch.export.export(Module().eval(), (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, path, extra_files={CARD: json.dumps(card)})


def run(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an exported model in PyTorch. See `Format`."""
    import torch

    module = torch.export.load(path).module()
    return lambda waveforms: module(torch.from_numpy(waveforms)).detach().numpy()


def read_card(path: str) -> dict[str, Any]:
    """Return the card of a `.pt2` file."""
    import torch

    extra = {CARD: ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[CARD])


FORMAT = Format(".pt2", ("torch",), write, run, read_card)
