"""Load collections of labelled music, and make batches of clips for `keras.Model.fit`."""

from genrekeras.utils.logging import only_absl_errors

with only_absl_errors():  # without JAX, grain warns that its profiler is not available
    import grain  # noqa: F401

from genrekeras.datasets.batches import Batches, batches
from genrekeras.datasets.fma import load_fma
from genrekeras.datasets.folder import load_folder
from genrekeras.datasets.groups import assign_folds, concentration, leakage
from genrekeras.datasets.labels import class_weights
from genrekeras.datasets.spectrogram_batches import image_batches
from genrekeras.datasets.spectrograms import (
    FMA_SECONDS,
    SpectrogramSplit,
    compute_spectrograms,
    load_spectrograms,
    sampled_logmel_front_end,
    save_spectrograms,
)
from genrekeras.datasets.splits import PROTOCOLS, Dataset, Split
from genrekeras.datasets.synthetic import load_synthetic
from genrekeras.datasets.tagged import load_tagged

__all__ = [
    "FMA_SECONDS",
    "PROTOCOLS",
    "Batches",
    "Dataset",
    "SpectrogramSplit",
    "Split",
    "assign_folds",
    "batches",
    "class_weights",
    "compute_spectrograms",
    "concentration",
    "image_batches",
    "leakage",
    "load_fma",
    "load_folder",
    "load_spectrograms",
    "load_synthetic",
    "load_tagged",
    "sampled_logmel_front_end",
    "save_spectrograms",
]
