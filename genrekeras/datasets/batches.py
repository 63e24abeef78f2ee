"""Batches of waveforms for `model.fit`."""

import concurrent.futures
import copy
import dataclasses
import multiprocessing
import multiprocessing.util
import os
import threading
import weakref

import grain
import keras
import numpy as np
from genrekeras import audio
from genrekeras.utils.progress import bar

CROPS = ("start", "center", "even", "random")


def batches(
    split,
    batch_size,
    clip_seconds,
    crop="start",
    crops=1,
    shuffle=False,
    seed=0,
    mixup_alpha=0.0,
    one_hot=False,
    class_weight=None,
    workers=1,
    processes=False,
):
    """What `model.fit` takes: batches of clips of equal length with their labels.

    Clips are read from disk batch by batch; memory does not grow with their number.

    Args:
        split: `Split`, or any sequence of such elements with the attributes `sample_rate` and `genres`.
        batch_size: int > 0; the last batch of an epoch may be smaller.
        clip_seconds: float > 0; longer clips are cropped, shorter ones brought to length by
            `genrekeras.audio.to_length`.
        crop: `"start"`, `"center"`, `"even"` (`crops` of them at equal distances, from the start of the clip to
            its end; a single one in its center), or `"random"`, anew in each epoch.
        crops: int > 0, how many of each clip an epoch holds (of `"start"` and `"center"` all the same, for
            augmentation to tell apart). Those of a clip follow each other, unless they are shuffled.
        shuffle: bool, a new order in each epoch.
        seed: int; the same seed gives the same batches, epoch by epoch, and epochs differ.
        mixup_alpha: float >= 0; if positive, each clip of a batch is mixed with another one of it, `m * clip + (1 - m) *
            other` with m drawn from Beta(mixup_alpha, mixup_alpha), and labels are one-hot rows mixed likewise (train with
            `categorical_crossentropy`).
            Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
        one_hot: bool, labels as one-hot rows without mixup_alpha too: those of the validation data of a model that is trained
            with it.
        class_weight: `None`; `"balanced"`, each genre weighs as much as any other, see `class_weights`; or a sequence
            of floats, one a genre. A clip that is mixed weighs as its mixed label.
        workers: int > 0; with more than one, as many threads read batches ahead. The batches are the same.
        processes: bool, the workers are processes rather than threads. They start with Python's "spawn": the script
            that calls this must keep to `if __name__ == "__main__"`.

    Returns:
        `Batches`, a `keras.utils.PyDataset` of `(waveforms, labels)`: `(batch, clip_seconds * sample_rate)` float32,
        and `(batch,)` int32 or, under mixup_alpha or `one_hot`, `(batch, len(genres))` float32; with `class_weight` a third,
        `(batch,)` float32, the weights.

    Raises:
        ValueError: an option is out of range; the split is empty.
    """
    if not all(hasattr(split, name) for name in ("__len__", "sample_rate", "genres")):
        raise ValueError(f"`split` must be a split, such as `data.train`. Received: {type(split).__name__}")
    if crop not in CROPS:
        raise ValueError(f"`crop` must be one of {CROPS}. Received: crop={crop!r}")
    check_integers(batch_size=(batch_size, 1), crops=(crops, 1), workers=(workers, 1), seed=(seed, 0))
    if round(clip_seconds * split.sample_rate) < 1:
        raise ValueError(f"`clip_seconds` must be > 0, and a sample at least. Received: clip_seconds={clip_seconds}")
    if not mixup_alpha >= 0:
        raise ValueError(f"`mixup_alpha` must be >= 0. Received: mixup_alpha={mixup_alpha}")
    if len(split) == 0:
        raise ValueError(f"`split` has no clips. Received: split={split!r}")
    samples = round(clip_seconds * split.sample_rate)
    weights = checked_weights(class_weight, split)
    make = _Batch(samples, tuple(split.genres), crop, crops, mixup_alpha, one_hot or mixup_alpha > 0, weights)
    clips = grain.MapDataset.source(_Crops(split, crops)).seed(seed)
    if shuffle:
        clips = clips.shuffle()
    data = clips.random_map(make.clip).batch(batch_size).random_map(make.batch)
    numbers = grain.MapDataset.source(range(len(split) * crops)).seed(seed)
    track_ids = (numbers.shuffle() if shuffle else numbers).map(lambda i: _track_id(split, i // crops))
    fingerprint = {
        "split": getattr(split, "fingerprint", None),
        "clips": len(split),
        "batch_size": batch_size,
        "clip_seconds": clip_seconds,
        "crop": crop,
        "crops": crops,
        "shuffle": shuffle,
        "seed": seed,
        "mixup_alpha": mixup_alpha,
        "one_hot": make.one_hot,
        "class_weight": None if weights is None else weights.tolist(),
    }
    track_ids, genres = track_ids.batch(batch_size), tuple(split.genres)
    return Batches(data, split.sample_rate, genres, clip_seconds, track_ids, fingerprint, workers, processes)


def class_weights(split):
    """What a clip of each genre must weigh for all genres to weigh the same, and a clip 1 on average.

    Args:
        split: `Split`, or what has `labels` and `genres`.

    Returns:
        `(len(genres),)` float32: `clips / (genres that occur * clips of the genre)`; 0 for a genre without clips.
    """
    if not hasattr(split, "labels"):
        raise ValueError(f"`split` must have `labels`, as those of a dataset have. Received: {type(split).__name__}")
    counts = np.bincount(split.labels, minlength=len(split.genres))
    weights = np.zeros(len(counts), "float32")
    weights[counts > 0] = len(split.labels) / ((counts > 0).sum() * counts[counts > 0])
    return weights


def fill(array, data, function, title):
    """Put what a function makes of the inputs of all batches into an array, row after row, with a progress bar."""
    row = 0
    with bar(len(array), title, "clip") as progress:
        for index in range(len(data)):
            found = function(data[index][0])
            array[row : row + len(found)] = found
            row += len(found)
            progress.update(len(found))


class Batches(keras.utils.PyDataset):
    """Batches that are known by their position, as `batches` makes them.

    Args:
        data: `grain.MapDataset` of the batches of an epoch.
        sample_rate, genres, clip_seconds, workers, processes: as in `batches`.
        track_ids: `grain.MapDataset` of the track ids of these batches.
        fingerprint: JSON-serializable dict, equal for equal batches: content of the split, options, seed.

    Attributes:
        sample_rate, genres, clip_seconds: of the data; `GenreClassifier.fit` compares them with those of the model.
        fingerprint: the argument; `genrekeras.training.fit` compares it with that of the run to resume.
        epoch: int, the epoch of the next batches. It is incremented at the end of an epoch, and set at the start of an
            epoch by the callback of `fit_options`.
    """

    def __init__(self, data, sample_rate, genres, clip_seconds, track_ids, fingerprint, workers=1, processes=False):
        # Keras' own workers hand out stale batches after a pass that was broken off, as that is in which Keras builds a
        # model; ours know batches by their position.
        super().__init__()
        self.sample_rate = sample_rate
        self.genres = genres
        self.clip_seconds = clip_seconds
        self.fingerprint = fingerprint
        self.epoch = 0
        self._first, self._last = 0, len(data)
        # An epoch is a repetition with its own seed, so that batch i of epoch e is element e * steps + i.
        self._batches, self._track_ids = data.repeat(), track_ids.repeat()
        self._workers_ahead = workers
        self._processes = processes
        self._pool = None
        self._ahead = {}  # position -> future

    def __len__(self):
        return self._last - self._first

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of {len(self)}")
        position = self.epoch * self._last + self._first + index
        if self._workers_ahead == 1 and not self._processes:
            return self._batches[position]
        if self._pool is None:
            self._pool, self._submit = self._start_workers()
        wanted = range(position, position + self._workers_ahead + 1)
        ahead = {p: self._ahead.get(p) or self._submit(p) for p in wanted}
        batch = ahead.pop(position).result()
        self._ahead = ahead
        return batch

    def on_epoch_end(self):
        self.epoch += 1

    def fit_options(self, callbacks=None):
        """Return the arguments of `keras.Model.fit` with which each epoch gets its own batches in their own order.

        Args:
            callbacks: as in `keras.Model.fit`.

        Returns:
            dict of `callbacks`, with one that sets `epoch`, and `shuffle`: Keras would shuffle the batches by the
            global random state of Python.
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            present = callbacks.callbacks
        else:
            present = callbacks = keras.tree.flatten(callbacks or [])
        if not any(isinstance(callback, _SetEpoch) and callback.data is self for callback in present):
            present.append(_SetEpoch(self))
        return {"callbacks": callbacks, "shuffle": False}

    def rest(self, epoch, batch):
        """The batches of an epoch that was broken off, from `batch` on.

        `model.fit(data.rest(3, 17), initial_epoch=3, epochs=4)` ends epoch 3 (the fourth) behind its first 17 batches;
        `model.fit(data, initial_epoch=4, epochs=20)` goes on as if nothing had happened.

        Args:
            epoch: int >= 0.
            batch: int, 0 <= batch < len(self).

        Returns:
            `Batches`.
        """
        if epoch < 0 or not 0 <= batch < self._last:
            raise ValueError(
                f"`epoch` must be >= 0, and `batch` lie in 0..{self._last - 1}. Received: epoch={epoch}, batch={batch}"
            )
        rest = copy.copy(self)
        rest.epoch, rest._first = epoch, batch
        return rest

    def track_ids(self, epoch, batch):
        """Ids of the tracks in a batch of an epoch: a list of int."""
        return [int(track_id) for track_id in self._track_ids[epoch * self._last + batch]]

    def _start_workers(self):
        if not self._processes:
            pool = concurrent.futures.ThreadPoolExecutor(self._workers_ahead)
            return pool, lambda position: pool.submit(self._batches.__getitem__, position)
        pool = concurrent.futures.ProcessPoolExecutor(
            self._workers_ahead, multiprocessing.get_context("spawn"), _remember, (self._batches,)
        )
        # A process that multiprocessing made waits for its own ones before concurrent.futures sends them home, and
        # closes (with priority 10) the queue by which they are told to go.
        multiprocessing.util.Finalize(pool, _shut, (weakref.ref(pool),), exitpriority=11)
        return pool, lambda position: pool.submit(_remembered, position)


class _SetEpoch(keras.callbacks.Callback):
    """Set the epoch of batches. Counting is not enough: Keras reads a batch to build a model and ends an epoch."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_epoch_begin(self, epoch, logs=None):
        self.data.epoch = epoch


def _track_id(split, index):
    return split.track_ids[index] if hasattr(split, "track_ids") else split[index]["track_id"]


@dataclasses.dataclass(frozen=True)
class _Crops:
    """Each clip of a split several times, with the number of its crop."""

    split: object
    crops: int

    def __len__(self):
        return len(self.split) * self.crops

    def __getitem__(self, index):
        return self.split[index // self.crops] | {"crop": index % self.crops}


@dataclasses.dataclass(frozen=True)
class _Batch:
    """How elements of a split become a batch. It travels to worker processes."""

    samples: int
    genres: tuple
    crop: str
    crops: int
    mixup_alpha: float
    one_hot: bool
    weights: np.ndarray

    def clip(self, element, rng):
        """(waveform, label) of one clip."""
        waveform, label = element["audio"], element["genre"]
        if not 0 <= label < len(self.genres):
            raise ValueError(
                f"The label of track {element['track_id']} must lie in 0..{len(self.genres) - 1}. Received: {label}"
            )
        start = self._start(max(0, len(waveform) - self.samples), element["crop"], rng)
        clip = audio.to_length(waveform[start:], self.samples)
        return np.array(clip), np.int32(label)  # a copy, that does not hold the whole track in memory

    def batch(self, clips, rng):
        """What `fit` takes."""
        waveforms, labels = clips
        rows = np.eye(len(self.genres), dtype="float32")[labels]
        if self.mixup_alpha:
            other = rng.permutation(len(labels))
            part = rng.beta(self.mixup_alpha, self.mixup_alpha, (len(labels), 1)).astype("float32")
            waveforms = part * waveforms + (1 - part) * waveforms[other]
            rows = part * rows + (1 - part) * rows[other]
        batch = waveforms, (rows if self.one_hot else labels)
        return batch if self.weights is None else (*batch, rows @ self.weights)

    def _start(self, spare, crop, rng):
        if self.crop == "random":
            return int(rng.integers(spare + 1))
        if self.crop == "even" and self.crops > 1:
            return spare * crop // (self.crops - 1)
        return 0 if self.crop == "start" else spare // 2


def check_integers(**arguments):
    """Raise a ValueError that names the first of these, name -> (value, least), that is no integer or too small."""
    for name, (value, least) in arguments.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}")


def checked_weights(class_weight, split):
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == "balanced":
        return class_weights(split)
    try:
        weights = np.asarray(class_weight, "float32")
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (len(split.genres),) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f'`class_weight` must be None, "balanced", or {len(split.genres)} numbers >= 0, one a genre. '
            f"Received: class_weight={class_weight!r}"
        )
    return weights


def _shut(pool):
    if pool := pool():
        pool.shutdown(cancel_futures=True)


_DATA = []  # of a worker process


def _remember(data):
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _DATA[:] = [data]


def _end_with_parent():
    """Or the workers of a process that was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _remembered(position):
    return _DATA[0][position]
