"""Batches of waveforms for `model.fit`."""

import concurrent.futures

import keras
import numpy as np
from genrekeras import audio
from genrekeras.datasets.quiet import quiet_absl

with quiet_absl():
    import grain

CROPS = ("start", "center", "random")


def batches(split, batch_size, clip_seconds, crop="start", shuffle=False, seed=0, mixup=0.0, one_hot=False, workers=1):
    """What `model.fit` takes: batches of clips of equal length with their labels.

    Args:
        split: `Split`, or any sequence of such elements with the attributes `sample_rate` and `genres`.
        batch_size: int > 0; the last batch of an epoch may be smaller.
        clip_seconds: float > 0; longer clips are cropped, shorter ones brought to length by
            `genrekeras.audio.to_length`.
        crop: `"start"`, `"center"` or `"random"`, anew in each epoch.
        shuffle: bool, a new order in each epoch.
        seed: int; the same seed gives the same batches, epoch by epoch, and epochs differ.
        mixup: float >= 0; if positive, each clip of a batch is mixed with another one of it, `m * clip + (1 - m) *
            other` with m drawn from Beta(mixup, mixup), and labels are one-hot rows mixed likewise (train with
            `categorical_crossentropy`).
            Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
        one_hot: bool, labels as one-hot rows without mixup too: those of the validation data of a model that is trained
            with it.
        workers: int > 0; with more than one, as many threads read batches ahead. The batches are the same.

    Returns:
        `Batches`, a `keras.utils.PyDataset` of `(waveforms, labels)`: `(batch, clip_seconds * sample_rate)` float32,
        and `(batch,)` int32 or, under mixup or `one_hot`, `(batch, len(genres))` float32.

    Raises:
        ValueError: an option is out of range; the split is empty.
    """
    return Batches(split, batch_size, clip_seconds, crop, shuffle, seed, mixup, one_hot, workers)


class Batches(keras.utils.PyDataset):
    """See `batches`.

    Attributes:
        sample_rate, genres, clip_seconds: of the data; `GenreClassifier.fit` compares them with the model's.
        epoch: int, the epoch that the next batches belong to; counts up when an epoch ends, and `GenreClassifier.fit`
            sets it as each epoch begins.
    """

    def __init__(self, split, batch_size, clip_seconds, crop, shuffle, seed, mixup, one_hot, workers):
        if not all(hasattr(split, name) for name in ("__len__", "sample_rate", "genres")):
            raise ValueError(f"`split` must be a split, such as `data.train`. Received: {type(split).__name__}")
        if crop not in CROPS:
            raise ValueError(f"`crop` must be one of {CROPS}. Received: crop={crop!r}")
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}")
        if round(clip_seconds * split.sample_rate) < 1:
            raise ValueError(
                f"`clip_seconds` must be > 0, and a sample at least. Received: clip_seconds={clip_seconds}"
            )
        if not mixup >= 0:
            raise ValueError(f"`mixup` must be >= 0. Received: mixup={mixup}")
        if len(split) == 0:
            raise ValueError(f"`split` has no clips. Received: split={split!r}")
        # Keras' own workers hand out stale batches after a pass that was broken off, as that is in which Keras builds a
        # model; ours know batches by their position.
        super().__init__()
        self.sample_rate = split.sample_rate
        self.genres = tuple(split.genres)
        self.clip_seconds = clip_seconds
        self.epoch = 0
        self._crop = crop
        self._mixup = mixup
        self._steps = -(-len(split) // batch_size)

        # An epoch is a repetition with its own seed, so that batch i of epoch e is element e * steps + i.
        clips = grain.MapDataset.source(split).seed(seed)
        if shuffle:
            clips = clips.shuffle()
        clips = clips.random_map(self._clip).batch(batch_size)
        if mixup or one_hot:
            clips = clips.map(self._one_hot)
        if mixup:
            clips = clips.random_map(self._mix)
        self._clips = clips.repeat()

        self._threads = workers
        self._pool = concurrent.futures.ThreadPoolExecutor(workers) if workers > 1 else None
        self._ahead = {}  # position -> future

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        if not 0 <= index < self._steps:
            raise IndexError(f"Batch {index} of {self._steps}")
        position = self.epoch * self._steps + index
        if self._pool is None:
            return self._clips[position]
        wanted = range(position, position + self._threads + 1)
        ahead = {p: self._ahead.get(p) or self._pool.submit(self._clips.__getitem__, p) for p in wanted}
        batch = ahead.pop(position).result()
        self._ahead = ahead
        return batch

    def on_epoch_end(self):
        self.epoch += 1

    def _clip(self, element, rng):
        waveform, label = element["audio"], element["genre"]
        if not 0 <= label < len(self.genres):
            raise ValueError(
                f"The label of track {element['track_id']} must lie in 0..{len(self.genres) - 1}. Received: {label}"
            )
        samples = round(self.clip_seconds * self.sample_rate)
        spare = max(0, len(waveform) - samples)
        start = {"start": 0, "center": spare // 2, "random": int(rng.integers(spare + 1))}[self._crop]
        return audio.to_length(waveform[start:], samples), np.int32(label)

    def _one_hot(self, batch):
        waveforms, labels = batch
        return waveforms, np.eye(len(self.genres), dtype="float32")[labels]

    def _mix(self, batch, rng):
        waveforms, labels = batch
        other = rng.permutation(len(labels))
        part = rng.beta(self._mixup, self._mixup, (len(labels), 1)).astype("float32")
        return part * waveforms + (1 - part) * waveforms[other], part * labels + (1 - part) * labels[other]
