"""Spectrograms of a whole collection as images in memory, or in one file: experiments that need no audio.

The file is an npz archive: `decibels`, `(n, mels, frames)` uint8, whose row 0 is the highest band and in which 0..255
stand for -80..0 dB below the peak of the clip; `label`, `(n,)`, indices of genres; `split`, `(n,)`, 0 training, 1
validation, 2 test; `track_id`, `(n,)`; and, where these are not FMA's eight genres, official splits and 44,100 Hz,
`genres`, `(genres,)`, `protocol`, text, and `sample_rate`. A model with the front end of `sampled_logmel_front_end` makes the
same of a waveform.
"""

import hashlib
import os
import zlib

import grain
import numpy as np
import pandas as pd
from genrekeras.datasets.batches import Batches, batches, check_integers, checked_weights, fill
from genrekeras.datasets.splits import SPLITS, UNKNOWN, Dataset, assign_splits, check_protocol, group_tracks, relabelled
from genrekeras.genres import GENRES
from genrekeras.layers import MelSpectrogram, PowerToDecibels, SpectrogramToImage, UniformTemporalSubsample
from genrekeras.utils.io import atomic_write, read_arrays

FMA_SECONDS = 1_321_967 / 44_100  # length of most clips of FMA; those of 30.00 s are heard to there


class SpectrogramSplit:
    """The images of a split, in memory.

    Attributes:
        name: str, such as "validation".
        images: `(n, mels, frames, 1)` uint8, what `model.image_model` takes.
        tracks: `pandas.DataFrame`, indexed by `track_id`: `label`, `genre`, `artist_id`, `album_id` (both -1, unknown)
            and `checksum` (of the image).
        labels: `(n,)` int32.
        track_ids: `(n,)` int64.
        sample_rate: int, in Hz, of the waveforms that the images were made of.
        genres: tuple of str.
        protocol: str, how tracks were dealt to splits.
        fingerprint: str, changes with the content.
        groups: as of `Split`.
        inputs: `"image"`, the inputs of a model that the batches are for, see `GenreClassifier.for_inference`.
        max_crops: 1, the number of different crops of a track.
    """

    inputs = "image"
    max_crops = 1

    def __init__(self, name, images, tracks, sample_rate, genres, protocol):
        self.name = name
        self.images = images
        self.sample_rate = sample_rate
        self.tracks = tracks
        self.labels = tracks["label"].to_numpy("int32")
        self.track_ids = tracks.index.to_numpy("int64")
        self.genres = tuple(genres)
        self.protocol = protocol
        content = pd.util.hash_pandas_object(tracks[["label", "checksum"]]).to_numpy()
        self.fingerprint = hashlib.sha256(content.tobytes()).hexdigest()[:16]

    def __len__(self):
        return len(self.images)

    @property
    def groups(self):
        return group_tracks(self.tracks)

    def batches(self, batch_size, clip_seconds=None, crop="start", crops=1, seed=0, workers=1):
        """Return `Batches` of each image `crops` times, in the order of the split; the other arguments are not used."""
        return image_batches(self, batch_size, seed=seed, repeats=crops)

    def input_coverage(self, clip_seconds=None, crop="start", crops=1):
        """Describe what the images contain, such as "128 frames of each"."""
        return f"{self.images.shape[2]} frames of each"

    def select(self, positions):
        """A split of some of its tracks.

        Args:
            positions: sequence of int, in the order wanted.
        """
        positions = np.asarray(positions)
        if positions.dtype == bool:
            raise ValueError("`positions` must be integers, not a mask (np.flatnonzero makes them of one).")
        positions = positions if len(positions) else positions.astype("int64")
        tracks = self.tracks.iloc[positions]
        return SpectrogramSplit(self.name, self.images[positions], tracks, self.sample_rate, self.genres, self.protocol)

    def with_genres(self, genres):
        """Return the same images with labels that are indices in `genres`, as `Split.with_genres` does."""
        tracks = relabelled(self, genres)
        return SpectrogramSplit(self.name, self.images, tracks, self.sample_rate, genres, self.protocol)

    def __repr__(self):
        return f"SpectrogramSplit({self.name!r}, {len(self)} images of {self.images.shape[1:3]}, protocol={self.protocol!r})"


def sampled_logmel_front_end(frames=128, sample_rate=44100, n_mels=128):
    """The front end that makes of a waveform what the file holds: a list of layers.

    Args:
        frames: int > 0, columns of the image, sampled at equal distances; `None` keeps all.
        sample_rate: int > 0, in Hz.
        n_mels: int > 0, rows of the image.
    """
    return [
        MelSpectrogram(sample_rate=sample_rate, n_mels=n_mels),
        PowerToDecibels(),
        *([] if frames is None else [UniformTemporalSubsample(frames)]),
        SpectrogramToImage(scale="decibels", flip=True),
    ]


def load_spectrograms(path, protocol="official", sample_rate=None, seed=0):
    """Read such a file.

    Args:
        path: str or path-like.
        protocol: `"official"`, the splits of the file; or `"random"`, all of its tracks dealt 80/20 by lot within each
            folder of FMA, as the 2023 system did.
        sample_rate: int > 0, in Hz, of the waveforms that the images were made of; `None` takes that of the file, or
            44,100 where it names none.
        seed: int, of the lots.

    Returns:
        `Dataset` of `SpectrogramSplit`.

    Raises:
        ValueError: the file is missing or is something else, or the protocol is unknown.
    """
    name = os.path.basename(os.fspath(path))
    try:
        arrays = read_arrays(path)
        images, labels, splits, ids = (arrays[key] for key in ("decibels", "label", "split", "track_id"))
        genres = tuple(arrays["genres"].tolist()) if "genres" in arrays else GENRES
        dealt_by = str(arrays["protocol"]) if "protocol" in arrays else "official"
        sample_rate = int(arrays.get("sample_rate", 44100)) if sample_rate is None else sample_rate
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`path` must be an npz file of decibels, label, split, track_id ({error}): {path}") from error
    if images.ndim != 3 or images.dtype != np.uint8 or {len(labels), len(splits), len(ids)} != {len(images)}:
        raise ValueError(f"{path} holds {images.dtype} of the shape {images.shape}, not (n, mels, frames) of uint8.")
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (labels, splits, ids)):
        raise ValueError(f"{path} holds label, split or track_id that are not a row of integers.")
    if len(ids) == 0 or labels.min() < 0 or labels.max() >= len(genres) or not np.isin(splits, (0, 1, 2)).all():
        raise ValueError(f"{path} holds labels outside of 0..{len(genres) - 1}, or splits outside of 0..2.")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"{path} holds several images of a track; it must be one of each.")
    tracks = pd.DataFrame(
        {
            "label": labels.astype("int32"),
            "genre": [genres[label] for label in labels],
            "folder": ids // 1000,
            "split": [SPLITS[split] for split in splits],
            "artist_id": UNKNOWN,
            "album_id": UNKNOWN,
            "checksum": [zlib.crc32(image.tobytes()) for image in images],
        },
        index=pd.Index(ids, name="track_id"),
    )
    check_protocol(protocol, tracks)
    places = assign_splits(protocol, tracks, seed)
    tracks = tracks.drop(columns=["folder", "split"])
    protocol = dealt_by if protocol == "official" else protocol
    dealt = {
        split: SpectrogramSplit(split, images[rows][..., None], tracks.iloc[rows], sample_rate, genres, protocol)
        for split, rows in places.items()
    }
    counts = {"tracks": len(ids), "missing": 0, "incomplete": 0, "broken": 0, "readable": len(ids)}
    counts |= {split: len(rows) for split, rows in places.items()}
    about = {"sample_rate": sample_rate, "counts": counts, "incomplete": {}, "broken": {}}
    return Dataset(name, protocol, **dealt, genres=tuple(genres), **about)


def compute_spectrograms(split, model, crop="start", crops=1, workers=2):
    """What a model sees of each clip of a split, in memory: a byte for each point of an image.

    Args:
        split: `Split`.
        model: `GenreClassifier`, whose front end makes the images (without augmentation).
        crop, crops: which `model.clip_seconds` of a clip, and how many of them, as in `batches`; each is an image.
        workers: int > 0, threads that read ahead.

    Returns:
        `SpectrogramSplit`, the crops of a track behind each other.

    Raises:
        ValueError: the split has another sample rate than the model.
    """
    data = batches(split, 16, model.clip_seconds, crop, crops, workers=workers)
    model.check_data(data)
    images = np.empty((len(split) * crops, *model.front_end.output_shape[1:]), "uint8")

    def gray(waveforms):
        return np.clip(np.round(model.front_end.predict_on_batch(waveforms)), 0, 255)

    fill(images, data, gray, f"Images of {split.name}")
    tracks = split.tracks.iloc[np.repeat(np.arange(len(split)), crops)]
    tracks = tracks.assign(checksum=[zlib.crc32(image.tobytes()) for image in images])
    return SpectrogramSplit(split.name, images, tracks, split.sample_rate, split.genres, split.protocol)


def save_spectrograms(path, *splits):
    """Write the file that `load_spectrograms` reads.

    Args:
        path: str or path-like, .npz.
        *splits: `SpectrogramSplit` of an image a track, named "train", "validation", "test".

    Raises:
        ValueError: there is no split, one has another name, two differ in genres, protocol or sample rate, or a track
            has several images.
        OSError: it cannot be written.
    """
    if not splits or not {split.name for split in splits} <= set(SPLITS):
        raise ValueError(f"`splits` must be one or more, named {SPLITS}. Received: splits={splits!r}")
    if len({(split.genres, split.protocol, split.sample_rate) for split in splits}) > 1:
        raise ValueError(f"`splits` must have the same genres, protocol and sample rate. Received: splits={splits!r}")
    track_ids = np.concatenate([split.track_ids for split in splits])
    if len(np.unique(track_ids)) < len(track_ids):
        raise ValueError(f"`splits` must hold one image of each track. Received: splits={splits!r}")
    content = {
        "decibels": np.concatenate([split.images[..., 0] for split in splits]),
        "label": np.concatenate([split.labels for split in splits]),
        "split": np.repeat([SPLITS.index(split.name) for split in splits], [len(split) for split in splits]),
        "track_id": track_ids,
        "genres": np.array(splits[0].genres),
        "protocol": np.array(splits[0].protocol),
        "sample_rate": np.array(splits[0].sample_rate),
    }
    with atomic_write(path) as temporary:
        np.savez(temporary, **content)


def image_batches(
    split,
    batch_size,
    shuffle=False,
    seed=0,
    repeats=1,
    variants=1,
    mix_probability=0.0,
    one_hot=False,
    class_weight=None,
):
    """What `model.image_model.fit` takes (with `shuffle=False`; the order is theirs).

    Args:
        split: `SpectrogramSplit`.
        batch_size: int > 0; the last batch of an epoch may be smaller.
        shuffle: bool, a new order in each epoch.
        seed: int; the same seed gives the same batches, epoch by epoch, and epochs differ.
        repeats: int > 0, how often an epoch holds each image, one behind the other unless they are shuffled.
        variants: int > 0, how many images of a track the split holds, one behind the other (`compute_spectrograms`, `crops`): an
            epoch has one of them, by lot.
        mix_probability: float in [0, 1], share of the batches in which each image is mixed with another one of the batch, which
            gets the smaller part: half of these by a weighted mean (mixup), the others by giving it some of the
            frames, at random places or the last ones. Labels are one-hot rows mixed likewise (train with
            `categorical_crossentropy`).
            Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix",
            ICCV 2019.
        one_hot: bool, labels as one-hot rows without mixing too.
        class_weight: as in `batches`.

    Returns:
        `Batches` of `(images, labels)`, `(batch, mels, frames, 1)` float32 in 0..255 and `(batch,)` int32, or, with
        `mix_probability` or `one_hot`, `(batch, len(genres))` float32; with `class_weight` also `(batch,)` float32 weights.

    Raises:
        ValueError: an option is out of range; the split is empty.
    """
    check_integers(batch_size=(batch_size, 1), repeats=(repeats, 1), variants=(variants, 1), seed=(seed, 0))
    weights = checked_weights(class_weight, split)
    if not 0 <= mix_probability <= 1:
        raise ValueError(f"`mix_probability` must lie in [0, 1]. Received: mix_probability={mix_probability}")

    def of_rows(rows, rng):
        rows = np.asarray(rows) // repeats * variants
        if variants > 1:
            rows = rows + rng.integers(variants, size=len(rows))
        images, labels = split.images[rows].astype("float32"), split.labels[rows]
        one_hot_rows = np.eye(len(split.genres), dtype="float32")[labels]
        if rng.random() < mix_probability:
            images, one_hot_rows = _mixed(images, one_hot_rows, rng)
        batch = images, (one_hot_rows if mix_probability or one_hot else labels)
        return batch if weights is None else (*batch, one_hot_rows @ weights)

    if len(split) == 0:
        raise ValueError(f"`split` has no images. Received: split={split!r}")
    if len(split) % variants:
        raise ValueError(f"`variants` must divide the {len(split)} images. Received: variants={variants}")
    rows = grain.MapDataset.source(range(len(split) // variants * repeats)).seed(seed)
    rows = (rows.shuffle() if shuffle else rows).batch(batch_size)
    track_ids = rows.map(lambda rows: split.track_ids[np.asarray(rows) // repeats * variants])
    fingerprint = {
        "split": split.fingerprint,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed,
        "repeats": repeats,
        "variants": variants,
        "mix_probability": mix_probability,
        "one_hot": bool(mix_probability or one_hot),
        "class_weight": None if weights is None else weights.tolist(),
    }
    return Batches(rows.random_map(of_rows), split.sample_rate, split.genres, None, track_ids, fingerprint)


def _mixed(images, labels, rng):
    """Each with another; its own part is the larger one."""
    count, frames = len(images), images.shape[2]
    other, own = rng.permutation(count), rng.beta(0.5, 0.5, count)
    own = np.maximum(own, 1 - own)
    if rng.random() < 0.5:
        images = own[:, None, None, None] * images + (1 - own)[:, None, None, None] * images[other]
    else:
        places = rng.random((count, frames)).argsort(axis=1) if rng.random() < 0.5 else np.arange(frames)[None]
        keep = places < np.round(own * frames)[:, None]
        own = keep.mean(axis=1)
        images = np.where(keep[:, None, :, None], images, images[other])
    own = own[:, None].astype("float32")
    return images.astype("float32"), own * labels + (1 - own) * labels[other]
