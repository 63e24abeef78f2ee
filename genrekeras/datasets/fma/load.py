"""An FMA folder as splits."""

import os

from genrekeras.datasets.fma.builder import Fma
from genrekeras.datasets.fma.metadata import SUBSETS, find_tracks
from genrekeras.datasets.prepare import as_dataset, prepare
from genrekeras.utils.logging import only_absl_errors


def load_fma(
    data_dir, subset="small", protocol="official", sample_rate=22050, seed=0, prepared_dir=None, beam_options=None
):
    """FMA, from a folder with its metadata and clips.

    The first call decodes all clips (with a progress bar) and stores them as ArrayRecord files; later calls read these.
    If it is broken off, the next call goes on where it stopped. Audio is stored once for all protocols. Clips that
    cannot be decoded, or that are shorter than 2 s, are left out, named in one warning and counted.

    Args:
        data_dir: str or path-like, the folder that holds `fma_metadata/tracks.csv` and `fma_small/000/000002.mp3` ...
            (other layouts that are found: `genrekeras.datasets.fma.metadata.find_tracks`).
        subset: `"small"` (8,000 clips, 8 genres, balanced), `"medium"` (25,000 clips, 16 genres, unbalanced),
            `"large"` (106,574 clips) or `"full"` (as many whole tracks), of both those that have a top genre.
        protocol: `"official"`, `"random"` or `"artist_album"`: see `genrekeras.datasets.splits.assign_splits`.
        sample_rate: int > 0, in Hz, at which clips are stored.
        seed: int, of the random protocol.
        prepared_dir: str or path-like, where to store the decoded clips (30 s at 22,050 Hz: 1.3 MB a clip, 10.6 GB for
            fma_small, before compression); `None` is the folder `prepared` in `data_dir`.
        beam_options: sequence of str, build with Apache Beam under these options, such as
            `["--runner=DirectRunner", "--direct_num_workers=8", "--direct_running_mode=multi_processing"]`; folders
            must be there under the same names on all workers. `None` builds in threads of this process.

    Returns:
        `Dataset`.

    Raises:
        FileNotFoundError: no folder, no table, or no clips.
        ValueError: an unknown subset or protocol, a table that is not FMA's, or not one readable clip.
        OSError: `prepared_dir` cannot be written, or its disk has too little room.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {tuple(SUBSETS)}. Received: subset={subset!r}")
    return load_tracks(
        Fma, f"fma_{subset}", data_dir, subset, SUBSETS[subset], protocol, sample_rate, seed, prepared_dir, beam_options
    )


def load_tracks(
    store, name, data_dir, subset, genres, protocol, sample_rate, seed, prepared_dir=None, beam_options=None
):
    """As `load_fma`, for any collection in FMA's layout with its own `store`, `name` and `genres`."""
    tracks = find_tracks(data_dir, subset, genres)
    prepared_dir = os.path.join(data_dir, "prepared") if prepared_dir is None else prepared_dir
    with only_absl_errors():
        builder = prepare(store, tracks, genres, subset, sample_rate, protocol, prepared_dir, beam_options)
    return as_dataset(builder, tracks, name, protocol, seed, data_dir)
