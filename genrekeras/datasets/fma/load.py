"""Load FMA from a folder as a `Dataset`."""

import itertools
import os
from collections.abc import Sequence
from typing import Literal

from genrekeras.datasets.fma.builder import Fma
from genrekeras.datasets.fma.metadata import LABELS, SUBSETS, find_tracks
from genrekeras.datasets.prepare import as_dataset, prepare
from genrekeras.datasets.splits import Dataset, Split
from genrekeras.datasets.store import Store
from genrekeras.utils.io import StrPath
from genrekeras.utils.logging import only_absl_errors


def load_fma(
    data_dir: StrPath,
    subset: Literal["small", "medium", "large", "full"] = "small",
    labels: Literal["top", "all"] = "top",
    protocol: Literal["official", "random", "artist_album"] = "official",
    sample_rate: int = 22050,
    seed: int = 0,
    prepared_dir: StrPath | None = None,
    beam_options: Sequence[str] | None = None,
) -> Dataset[Split]:
    """Load FMA from a folder that contains the metadata and the clips.

    The first call decodes all clips and stores them as ArrayRecord files. Later calls read these files, even with
    another protocol or, if these need no further tracks, other labels. If the first call is interrupted, the next call
    resumes the decoding. Clips that cannot be decoded or are shorter than 2 s are left out. A warning counts and lists
    these clips.

    Args:
        data_dir: folder that contains `fma_metadata/tracks.csv` and the clips `fma_small/000/000002.mp3` etc. See
            `genrekeras.datasets.fma.metadata.find_tracks` for other layouts.
        subset: `"small"` (8,000 clips, 8 balanced genres), `"medium"` (25,000 clips, 16 unbalanced genres), `"large"`
            (106,574 clips) or `"full"` (the same tracks in full length).
        labels: `"top"` uses the top genre of each track as its label. Tracks without a top genre are left out, which
            are more than half of `"large"`. `"all"` uses all genres of each track (`genres_all` in tracks.csv, which
            contains the parents of genres too), so clips have several labels. The genres are those that tracks of the
            subset have, sorted by name: 161 in `"large"`. `genrekeras.datasets.fma.read_genres` reads their hierarchy.
        protocol: see `genrekeras.datasets.splits.assign_splits`.
        sample_rate: `> 0`, in Hz, sample rate of the stored clips.
        seed: seed of the random assignment to splits.
        prepared_dir: folder for the stored clips. A clip of 30 s at 22,050 Hz needs 1.3 MB before compression, so
            fma_small needs 10.6 GB. `None` is the folder `prepared` in `data_dir`.
        beam_options: options of an Apache Beam pipeline that decodes the clips, such as `["--runner=DirectRunner",
            "--direct_num_workers=8", "--direct_running_mode=multi_processing"]`. All workers must have access to
            `data_dir` and `prepared_dir` under the same paths. `None` decodes the clips with threads of this process.

    Raises:
        FileNotFoundError: there is no folder, no table or no clip.
        ValueError: the subset or protocol is unknown, the table is not a table of FMA, no clip can be decoded, or an
            argument is out of range. With `labels="all"`: tracks.csv has no column `genres_all`, or there is no
            genres.csv in its folder.
        OSError: `prepared_dir` cannot be written, or the disk has too little free space.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {tuple(SUBSETS)}. Received: subset={subset!r}")
    if labels not in LABELS:
        raise ValueError(f"`labels` must be one of {tuple(LABELS)}. Received: labels={labels!r}")
    name, genres = f"fma_{subset}", SUBSETS[subset]
    return load_tracks(
        Fma, name, data_dir, subset, genres, protocol, sample_rate, seed, prepared_dir, beam_options, labels
    )


def load_tracks(
    store: type[Store],
    name: str,
    data_dir: StrPath,
    subset: str,
    genres: Sequence[str],
    protocol: str,
    sample_rate: int,
    seed: int,
    prepared_dir: StrPath | None = None,
    beam_options: Sequence[str] | None = None,
    labels: Literal["top", "all"] = "top",
) -> Dataset[Split]:
    """Load a collection in the layout of FMA.

    Args:
        store: class of the TFDS dataset.
        name: name of the returned `Dataset`.
        genres: the top genres, in the order of the labels.
        data_dir, subset, protocol, sample_rate, seed, prepared_dir, beam_options, labels: see `load_fma`.
    """
    tracks = find_tracks(data_dir, subset, genres, labels)
    stored = tracks.drop(columns="genres", errors="ignore")  # the store does not depend on the labels
    prepared_dir = os.path.join(data_dir, "prepared") if prepared_dir is None else prepared_dir
    with only_absl_errors():
        builder = prepare(store, stored, genres, subset, sample_rate, protocol, prepared_dir, beam_options)
    if labels == "all":
        genres = sorted(set(itertools.chain.from_iterable(tracks["genres"])))
        tracks = tracks.drop(columns="genre")
    return as_dataset(builder, tracks, genres, name, protocol, seed, data_dir, stacklevel=4)
