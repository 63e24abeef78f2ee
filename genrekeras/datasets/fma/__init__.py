"""Download, verify and load FMA, a dataset for music analysis.

fma_small has 8,000 mp3 clips of 30 s, 1,000 for each of 8 genres. The official training, validation and test splits
have 6,400, 800 and 800 clips. They share no artists, except for compilations. Three clips contain no audio (99134,
108925, 133297), and three clips are cut short (98565, 98567, 98569). These clips are detected when they are decoded.
The artists chose the licences of the tracks; most licences are non-commercial. The licence of the metadata is CC BY
4.0.

Source: Defferrard, Benzi, Vandergheynst, Bresson, "FMA: A Dataset For Music Analysis", ISMIR 2017.
"""

from genrekeras.datasets.fma.download import DownloadError, download
from genrekeras.datasets.fma.load import load_fma
from genrekeras.datasets.fma.metadata import (
    SUBSETS,
    find_table,
    find_tracks,
    is_fma,
    read_genres,
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
    "read_genres",
    "read_labels",
    "read_tracks",
    "write_labels",
]
