"""Load, save and compute the spectrograms of a collection, for experiments that need no audio.

The spectrograms are images in memory or in an npz file. The file contains these arrays:

- `decibels`: `(n, mels, frames)` uint8. The values 0 to 255 represent -80 to 0 dB relative to the peak of the clip.
  Row 0 is the highest frequency band.
- `label`: `(n,)` int, indices of genres. If tracks have several labels, `(n, genres)` int, 1 for the genres of a track
  and 0 for the others.
- `split`: `(n,)` int, 0 for training, 1 for validation and 2 for test.
- `track_id`: `(n,)` int.
- `genres`: `(genres,)` str, optional. The default is the eight genres of fma_small.
- `protocol`: str, optional. The default is "official".
- `sample_rate`: int, in Hz, optional. The default is 44,100.
- `artist_id`: `(n,)` int, optional. The value -1 means unknown.

A model with the front end `sampled_logmel_front_end` computes the same images from waveforms.
"""

import hashlib
import os
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from genrekeras.datasets.batches import Batches, Crop, batches, fill
from genrekeras.datasets.groups import UNKNOWN, group_tracks
from genrekeras.datasets.labels import add_labels, label_array
from genrekeras.datasets.spectrogram_batches import image_batches
from genrekeras.datasets.splits import (
    SPLITS,
    Dataset,
    Split,
    as_positions,
    assign_splits,
    check_protocol,
    relabelled_tracks,
)
from genrekeras.genres import GENRES
from genrekeras.layers import MelSpectrogram, PowerToDecibels, SpectrogramToImage, UniformTemporalSubsample
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.utils.io import StrPath, atomic_write, read_arrays

FMA_SECONDS = 1_321_967 / 44_100  # length of most clips of FMA; slightly longer clips are cropped


class SpectrogramSplit:
    """Spectrogram images of a split, in memory. The class has the methods of `Split`.

    Args:
        name: such as "validation".
        images: `(n, mels, frames, 1)` uint8 array, inputs of `model.image_model`.
        tracks: table with a row for each image. See the attribute `tracks` for the columns.
        sample_rate: in Hz, sample rate of the waveforms from which the images were computed.
        genres: in the order of the labels.
        protocol: protocol that assigned the tracks to splits.

    Attributes:
        name, images, sample_rate, genres, protocol: the arguments.
        tracks: table with a row for each image, indexed by `track_id`. The columns are those of `Split.tracks`. The
            checksum is computed from the image.
        labels, multi_label: see `Split`.
        track_ids: `(n,)` int64 array.
        fingerprint: hash of the images and their labels.
        groups: `(n,)` int array, group of each track, see `genrekeras.datasets.groups.group_tracks`.
        inputs: `"image"`, the kind of inputs in the batches, see `GenreClassifier.for_inference`.
        max_crops: 1, the number of different crops of a track.
    """

    inputs: Literal["image"] = "image"
    max_crops = 1

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        tracks: pd.DataFrame,
        sample_rate: int,
        genres: Sequence[str],
        protocol: str,
    ):
        self.name = name
        self.images = images
        self.sample_rate = sample_rate
        self.tracks = tracks
        self.genres = tuple(genres)
        self.labels = label_array(tracks, len(self.genres))
        self.multi_label = self.labels.ndim == 2
        self.track_ids = tracks.index.to_numpy("int64")
        self.protocol = protocol
        labels = pd.DataFrame(self.labels, tracks.index)
        content = pd.util.hash_pandas_object(labels.assign(checksum=tracks["checksum"])).to_numpy()
        self.fingerprint = hashlib.sha256(content.tobytes()).hexdigest()[:16]

    def __len__(self):
        return len(self.images)

    @property
    def groups(self) -> np.ndarray:
        """Group of each track, see `genrekeras.datasets.groups.group_tracks`."""
        return group_tracks(self.tracks)

    def batches(
        self,
        batch_size: int,
        clip_seconds: float | None = None,
        crop: Crop = "start",
        crops: int = 1,
        seed: int = 0,
        workers: int = 1,
    ) -> Batches:
        """Return batches in the order of the split. Each image is repeated `crops` times.

        The arguments are those of `Split.batches`. `clip_seconds`, `crop` and `workers` have no effect.
        """
        return image_batches(self, batch_size, seed=seed, repeats=crops)

    def input_coverage(self, clip_seconds: float | None = None, crop: Crop = "start", crops: int = 1) -> str:
        """Describe the part of each clip that the images contain, such as "128 frames of each"."""
        return f"{self.images.shape[2]} frames of each"

    def select(self, positions: npt.ArrayLike) -> "SpectrogramSplit":
        """Return a new split with the selected images.

        Args:
            positions: `(n,)` int, indices of the images to keep, in the order of the new split.
        """
        positions = as_positions(positions)
        tracks = self.tracks.iloc[positions]
        return SpectrogramSplit(self.name, self.images[positions], tracks, self.sample_rate, self.genres, self.protocol)

    def join(self, others: Sequence["SpectrogramSplit"], name: str) -> "SpectrogramSplit":
        """Return a split with the images of this split and of other splits of the same dataset."""
        images = np.concatenate([part.images for part in (self, *others)])
        tracks = pd.concat([part.tracks for part in (self, *others)])
        return SpectrogramSplit(name, images, tracks, self.sample_rate, self.genres, self.protocol)

    def with_genres(self, genres: Sequence[str], ignore_others: bool = False) -> "SpectrogramSplit":
        """Return a split with the same images, whose labels are indices in `genres`. See `Split.with_genres`."""
        tracks = relabelled_tracks(self, genres, ignore_others)
        return SpectrogramSplit(self.name, self.images, tracks, self.sample_rate, genres, self.protocol)

    def __repr__(self):
        shape = self.images.shape[1:3]
        return f"SpectrogramSplit({self.name!r}, {len(self)} images of {shape}, protocol={self.protocol!r})"


def sampled_logmel_front_end(
    frames: int | None = 128, sample_rate: int = 44100, n_mels: int = 128
) -> list[keras.layers.Layer]:
    """Return the layers that compute spectrogram images from waveforms.

    The images have the form that the docstring of this module describes.

    Args:
        frames: `> 0`, number of frames in an image. The frames are sampled at equal distances. `None` keeps all frames.
        sample_rate: `> 0`, in Hz, sample rate of the waveforms.
        n_mels: `> 0`, number of mel bands.

    Returns:
        The layers, for the argument `front_end` of `GenreClassifier`.
    """
    return [
        MelSpectrogram(sample_rate=sample_rate, n_mels=n_mels),
        PowerToDecibels(),
        *([] if frames is None else [UniformTemporalSubsample(frames)]),
        SpectrogramToImage(scale="decibels", flip=True),
    ]


def load_spectrograms(
    path: StrPath,
    protocol: Literal["official", "random"] = "official",
    sample_rate: int | None = None,
    seed: int = 0,
    groups: StrPath | None = None,
) -> Dataset[SpectrogramSplit]:
    """Load a file of spectrograms.

    The docstring of the module `genrekeras.datasets.spectrograms` describes the file format.

    Args:
        path: path of an npz file.
        protocol: `"official"` uses the splits in the file. `"random"` assigns 80 % of each folder of FMA (1,000 track
            ids) to training. The other 20 % are both the validation and the test split (the protocol of the PyTorch
            system of 2023).
        sample_rate: `> 0`, in Hz, sample rate of the waveforms from which the images were computed. `None` uses the
            value in the file. If the file contains no value, the sample rate is 44,100 Hz.
        seed: seed of the random assignment to splits.
        groups: path of a CSV file with the columns `track_id` and `artist_id`, for a file of spectrograms without
            artists. The CSV file may contain further tracks and columns.

    Raises:
        ValueError: a file is missing or has another format, or the protocol is unknown.
    """
    name = os.path.basename(os.fspath(path))
    keys = ("decibels", "label", "split", "track_id")
    try:
        arrays = read_arrays(path)
        images, labels, splits, ids = (arrays[key] for key in keys)
        genres = tuple(arrays["genres"].tolist()) if "genres" in arrays else GENRES
        file_protocol = str(arrays["protocol"]) if "protocol" in arrays else "official"
        sample_rate = int(arrays.get("sample_rate", 44100)) if sample_rate is None else sample_rate
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`path` must be an npz file with the arrays {keys} ({error}): {path}") from error
    if images.ndim != 3 or images.dtype != np.uint8 or {len(labels), len(splits), len(ids)} != {len(images)}:
        raise ValueError(
            f"{path}: `decibels` must be uint8 of the shape (n, mels, frames), with one label, split and track_id per "
            f"image. Received: {images.dtype} of the shape {images.shape}, and {len(labels)} labels, {len(splits)} "
            f"splits and {len(ids)} ids."
        )
    multi_label = labels.shape[1:] == (len(genres),)
    is_vector = [array.ndim == 1 for array in (splits, ids)] + [labels.ndim == 1 or multi_label]
    if not all(is_vector) or any(array.dtype.kind not in "iu" for array in (labels, splits, ids)):
        raise ValueError(
            f"{path}: `label`, `split` and `track_id` must be one-dimensional arrays of integers. With several labels, "
            f"`label` must have the shape (n, {len(genres)})."
        )
    highest = 1 if multi_label else len(genres) - 1
    if len(ids) == 0 or labels.min() < 0 or labels.max() > highest or not np.isin(splits, (0, 1, 2)).all():
        raise ValueError(f"{path}: `label` must be in 0..{highest}, and `split` in 0..2.")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"{path}: `track_id` contains an id several times. Each track must have one image.")
    artist_ids = arrays.get("artist_id", np.full(len(ids), UNKNOWN)) if groups is None else _read_artists(groups, ids)
    if artist_ids.shape != ids.shape or artist_ids.dtype.kind not in "iu":
        raise ValueError(f"{path}: `artist_id` must contain one integer per image.")
    if multi_label:
        columns = {"genres": [tuple(genres[label] for label in np.flatnonzero(row)) for row in labels]}
    else:
        columns = {"genre": [genres[label] for label in labels]}
    tracks = pd.DataFrame(
        {
            **columns,
            "folder": ids // 1000,
            "split": [SPLITS[split] for split in splits],
            "artist_id": artist_ids.astype("int64"),
            "album_id": UNKNOWN,
            "checksum": [zlib.crc32(image.tobytes()) for image in images],
        },
        index=pd.Index(ids, name="track_id"),
    )
    check_protocol(protocol, tracks)
    positions = assign_splits(protocol, tracks, seed)
    tracks = add_labels(tracks, genres).drop(columns=["folder", "split"])
    used_protocol = file_protocol if protocol == "official" else protocol
    data = {
        split: SpectrogramSplit(split, images[rows][..., None], tracks.iloc[rows], sample_rate, genres, used_protocol)
        for split, rows in positions.items()
    }
    counts = {"tracks": len(ids), "missing": 0, "incomplete": 0, "broken": 0, "readable": len(ids)}
    counts |= {split: len(rows) for split, rows in positions.items()}
    return Dataset(
        name,
        used_protocol,
        **data,
        genres=tuple(genres),
        sample_rate=sample_rate,
        counts=counts,
        incomplete={},
        broken={},
    )


def _read_artists(path, track_ids):
    """Return the artist ids of tracks from a CSV file, `(n,)` int. Tracks that are not in the file have the id -1.

    Raises:
        ValueError: the file cannot be read, or has no such columns of integers.
    """
    try:
        table = pd.read_csv(path, usecols=["track_id", "artist_id"], dtype="int64").set_index("track_id")
        return table["artist_id"].reindex(track_ids, fill_value=UNKNOWN).to_numpy()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`groups` must be a CSV file with the columns track_id and artist_id, with each track once "
            f"({error}): {os.fspath(path)}"
        ) from error


def compute_spectrograms(
    split: Split, model: GenreClassifier, crop: Crop = "start", crops: int = 1, workers: int = 2
) -> SpectrogramSplit:
    """Compute the spectrogram images of a split with the front end of a model.

    Args:
        split: clips with audio.
        model: the layers of its front end compute the images, without augmentation. The values of the images are
            rounded to the integers 0 to 255.
        crop: see `batches`. The length of a crop is `model.clip_seconds`.
        crops: see `batches`. Each crop becomes an image.
        workers: `> 0`, number of threads that read batches. With 1, batches are not read ahead.

    Returns:
        A split with `crops` consecutive images for each track.

    Raises:
        ValueError: the sample rates of the split and the model differ, or the images of the model are not in [0, 255].
    """
    if model.image_range != (0.0, 255.0):
        raise ValueError(
            "`model` must have images in [0, 255], because they are stored as bytes. "
            f"Received: image_range={model.image_range}"
        )
    data = batches(split, 16, model.clip_seconds, crop, crops, workers=workers)
    model.check_data(data)
    images = np.empty((len(split) * crops, *model.front_end.output_shape[1:]), "uint8")

    def to_bytes(waveforms):
        return np.clip(np.round(model.front_end.predict_on_batch(waveforms)), 0, 255)

    fill(images, data, to_bytes, f"Images of {split.name}")
    tracks = split.tracks.iloc[np.repeat(np.arange(len(split)), crops)]
    tracks = tracks.assign(checksum=[zlib.crc32(image.tobytes()) for image in images])
    return SpectrogramSplit(split.name, images, tracks, split.sample_rate, split.genres, split.protocol)


def save_spectrograms(path: StrPath, *splits: SpectrogramSplit) -> None:
    """Save spectrograms as a file that `load_spectrograms` reads.

    Args:
        path: path of the npz file.
        *splits: splits with one image per track and the names "train", "validation" or "test".

    Raises:
        ValueError: there is no split, a split has another name, the genres, protocols or sample rates of the splits
            differ, only some splits have several labels per track, or a track has several images.
        OSError: the file cannot be written.
    """
    if not splits or not {split.name for split in splits} <= set(SPLITS):
        raise ValueError(f"`splits` must be one or more splits with names in {SPLITS}. Received: splits={splits!r}")
    if len({(split.genres, split.protocol, split.sample_rate) for split in splits}) > 1:
        raise ValueError(f"`splits` must have the same genres, protocol and sample rate. Received: splits={splits!r}")
    if len({split.multi_label for split in splits}) > 1:
        raise ValueError("`splits` must all have one label per track, or all have several.")
    track_ids = np.concatenate([split.track_ids for split in splits])
    if len(np.unique(track_ids)) < len(track_ids):
        raise ValueError(f"`splits` must contain one image per track. Received: splits={splits!r}")
    content: dict[str, Any] = {
        "decibels": np.concatenate([split.images[..., 0] for split in splits]),
        "label": np.concatenate([split.labels for split in splits]).astype("int32"),
        "split": np.repeat([SPLITS.index(split.name) for split in splits], [len(split) for split in splits]),
        "track_id": track_ids,
        "genres": np.array(splits[0].genres),
        "protocol": np.array(splits[0].protocol),
        "sample_rate": np.array(splits[0].sample_rate),
        "artist_id": np.concatenate([split.tracks["artist_id"].to_numpy("int64") for split in splits]),
    }
    with atomic_write(path) as temporary:
        np.savez(temporary, **content)
