"""FMA: a dataset for music analysis.

8,000 clips of 30 s (fma_small), 8 genres of 1,000 each, mp3; tracks by their artists under their own licences, most of
them non-commercial, metadata CC BY 4.0. Official splits of 6,400 / 800 / 800 without a shared artist. Three clips hold
no audio (99134, 108925, 133297) and three are cut short (98565, 98567, 98569); they are found by decoding.

Source: Defferrard, Benzi, Vandergheynst, Bresson, "FMA: A Dataset For Music Analysis", ISMIR 2017.
"""

from genrekeras.datasets.fma.download import DownloadError, download
from genrekeras.datasets.fma.load import load_fma
from genrekeras.datasets.fma.metadata import (
    SUBSETS,
    find_table,
    find_tracks,
    is_fma,
    read_labels,
    read_tracks,
    write_labels,
)
from genrekeras.datasets.fma.verify import Check, check

__all__ = [
    "SUBSETS",
    "Check",
    "DownloadError",
    "check",
    "download",
    "find_table",
    "find_tracks",
    "is_fma",
    "load_fma",
    "read_labels",
    "read_tracks",
    "write_labels",
]
