"""Collections of labelled music as splits, and splits as batches for `model.fit`."""

from genrekeras.datasets.batches import Batches, batches, class_weights
from genrekeras.datasets.fma import load_fma
from genrekeras.datasets.folder import load_folder
from genrekeras.datasets.frames import (
    FMA_SECONDS,
    FrameSplit,
    image_batches,
    images_of,
    layers_of_frames,
    load_frames,
    save_frames,
)
from genrekeras.datasets.mini import load_mini
from genrekeras.datasets.splits import PROTOCOLS, Dataset, Split, leakage

__all__ = [
    "FMA_SECONDS",
    "PROTOCOLS",
    "Batches",
    "Dataset",
    "FrameSplit",
    "Split",
    "batches",
    "class_weights",
    "image_batches",
    "images_of",
    "layers_of_frames",
    "leakage",
    "load_fma",
    "load_folder",
    "load_frames",
    "load_mini",
    "save_frames",
]
