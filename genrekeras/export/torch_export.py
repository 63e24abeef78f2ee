"""`torch.export`: `.pt2` files of PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from genrekeras.export.base import CARD, OUTPUTS, Format, Run

if TYPE_CHECKING:
    import keras


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


def load(path: str) -> tuple[Run, str | None]:
    """Load an exported model into PyTorch. See `Format`."""
    import torch

    extra = {CARD: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def run(waveforms):
        outputs = module(torch.from_numpy(waveforms))
        return {name: output.detach().numpy() for name, output in zip(OUTPUTS, outputs, strict=True)}

    return run, extra[CARD] or None


FORMAT = Format(".pt2", ("torch",), write, load)
