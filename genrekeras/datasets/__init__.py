"""Collections of labelled music as splits, and splits as batches for `model.fit`."""

from genrekeras.datasets.batches import Batches, batches
from genrekeras.datasets.fma import load_fma
from genrekeras.datasets.mini import load_mini
from genrekeras.datasets.splits import Dataset, Split

__all__ = ["Batches", "Dataset", "Split", "batches", "load_fma", "load_mini"]
