"""Collections of labelled music as splits, and splits as batches for `model.fit`."""

import logging

# On import, grain warns of a jax profiler that nobody asked for.
_absl = logging.getLogger("absl")
_absl_level = _absl.level
_absl.setLevel(logging.ERROR)

from genrekeras.datasets.batches import Batches, batches
from genrekeras.datasets.fma import load_fma
from genrekeras.datasets.mini import load_mini
from genrekeras.datasets.splits import Dataset, Split

_absl.setLevel(_absl_level)

__all__ = ["Batches", "Dataset", "Split", "batches", "load_fma", "load_mini"]
