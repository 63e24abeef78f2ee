"""Batches of waveforms and labels for `keras.Model.fit`."""

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
    """Return batches of clips of equal length with their labels, for `keras.Model.fit`.

    Clips are read from disk batch by batch, so memory does not grow with their number.

    Args:
        split: `Split`, or another sequence of elements of this form with the attributes `sample_rate` and `genres`.
        batch_size: int > 0; the last batch of an epoch may be smaller.
        clip_seconds: float > 0, length of the clips. Longer clips are cropped, shorter clips are padded by
            `genrekeras.audio.to_length`.
        crop: the part of a longer clip that is used: `"start"`; `"center"`; `"even"`, `crops` parts at equal distances
            from the start to the end of the clip (or its center, if `crops` is 1); or `"random"`, drawn in each epoch.
        crops: int > 0, how many crops of each clip an epoch contains. The crops of a clip are consecutive unless they
            are shuffled. With `"start"` and `"center"` they are equal, and only augmentation makes them differ.
        shuffle: bool, whether each epoch has a new random order.
        seed: int >= 0. Equal seeds give equal batches, epoch by epoch. The epochs of a seed differ.
        mixup_alpha: float >= 0. If positive, each clip of a batch is mixed with another clip of the batch,
            `m * clip + (1 - m) * other` with m drawn from Beta(mixup_alpha, mixup_alpha). Labels are one-hot rows that
            are mixed in the same way (train with `categorical_crossentropy`).
            Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
        one_hot: bool, whether labels are one-hot rows even without mixup, as the validation data of a model that is
            trained with mixup must have.
        class_weight: `None`; `"balanced"`, equal total weight of all genres, see `class_weights`; or a sequence of
            floats >= 0, one per genre. The weight of a mixed clip follows from its mixed label.
        workers: int > 0, number of threads that read batches ahead if it is greater than 1. The batches do not
            depend on it.
        processes: bool, whether the workers are processes instead of threads. They start with Python's "spawn" method,
            so a script must call this function below `if __name__ == "__main__":`.

    Returns:
        `Batches`, a `keras.utils.PyDataset` of `(waveforms, labels)` or, with `class_weight`, `(waveforms, labels,
        weights)`. `waveforms` is `(batch, clip_seconds * sample_rate)` float32. `labels` is `(batch,)` int32 or, with
        `mixup_alpha` or `one_hot`, `(batch, len(genres))` float32. `weights` is `(batch,)` float32.

    Raises:
        ValueError: an argument is out of range, or the split is empty.
    """
    if not all(hasattr(split, name) for name in ("__len__", "sample_rate", "genres")):
        raise ValueError(f"`split` must be a split, such as `data.train`. Received: {type(split).__name__}")
    if crop not in CROPS:
        raise ValueError(f"`crop` must be one of {CROPS}. Received: crop={crop!r}")
    check_integers(batch_size=(batch_size, 1), crops=(crops, 1), workers=(workers, 1), seed=(seed, 0))
    if round(clip_seconds * split.sample_rate) < 1:
        raise ValueError(f"`clip_seconds` must be at least one sample long. Received: clip_seconds={clip_seconds}")
    if not mixup_alpha >= 0:
        raise ValueError(f"`mixup_alpha` must be >= 0. Received: mixup_alpha={mixup_alpha}")
    if len(split) == 0:
        raise ValueError(f"`split` has no clips. Received: split={split!r}")
    samples = round(clip_seconds * split.sample_rate)
    weights = checked_weights(class_weight, split)
    maker = _BatchMaker(samples, tuple(split.genres), crop, crops, mixup_alpha, one_hot or mixup_alpha > 0, weights)
    clips = grain.MapDataset.source(_Crops(split, crops)).seed(seed)
    if shuffle:
        clips = clips.shuffle()
    data = clips.random_map(maker.clip).batch(batch_size).random_map(maker.batch)
    indices = grain.MapDataset.source(range(len(split) * crops)).seed(seed)
    track_ids = (indices.shuffle() if shuffle else indices).map(lambda i: _track_id(split, i // crops))
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
        "one_hot": maker.one_hot,
        "class_weight": None if weights is None else weights.tolist(),
    }
    track_ids, genres = track_ids.batch(batch_size), tuple(split.genres)
    return Batches(data, split.sample_rate, genres, clip_seconds, track_ids, fingerprint, workers, processes)


def class_weights(split):
    """Return class weights with which all genres have the same total weight and a clip has the mean weight 1.

    Args:
        split: `Split`, or another object with `labels` and `genres`.

    Returns:
        `(len(genres),)` float32: `clips / (genres with clips * clips of the genre)`; 0 for a genre without clips.
    """
    if not hasattr(split, "labels"):
        raise ValueError(f"`split` must have the attribute `labels`. Received: {type(split).__name__}")
    counts = np.bincount(split.labels, minlength=len(split.genres))
    weights = np.zeros(len(counts), "float32")
    weights[counts > 0] = len(split.labels) / ((counts > 0).sum() * counts[counts > 0])
    return weights


def fill(array, data, function, title):
    """Fill an array with the outputs of a function for the inputs of all batches, with a progress bar.

    Args:
        array: `(n, ...)` array, which is changed.
        data: `Batches` of n elements in total.
        function: callable, inputs of a batch -> rows of `array`.
        title: str, text before the progress bar.
    """
    row = 0
    with bar(len(array), title, "clip") as progress:
        for index in range(len(data)):
            outputs = function(data[index][0])
            array[row : row + len(outputs)] = outputs
            row += len(outputs)
            progress.update(len(outputs))


class Batches(keras.utils.PyDataset):
    """Batches that depend only on the epoch and their index, so that training can be resumed anywhere.

    They are made by `batches` and `image_batches`.

    Args:
        data: `grain.MapDataset` of the batches of an epoch.
        sample_rate: int, in Hz, of the clips.
        genres: tuple of str, in the order of the labels.
        clip_seconds: float, length of the clips; `None` for images.
        track_ids: `grain.MapDataset` of the track ids of these batches.
        fingerprint: JSON-serializable dict that identifies the batches: content of the split, options and seed.
        workers, processes: as in `batches`.

    Attributes:
        sample_rate, genres, clip_seconds: the arguments; `GenreClassifier.fit` compares them with those of the model.
        fingerprint: the argument; `genrekeras.training.fit` compares it with that of the run to resume.
        epoch: int, epoch of the next batches. It is incremented at the end of an epoch, and set at the start of an
            epoch by the callback of `fit_options`.
    """

    def __init__(self, data, sample_rate, genres, clip_seconds, track_ids, fingerprint, workers=1, processes=False):
        # The workers of Keras are not used: after an incomplete pass, such as the one in which Keras builds a model,
        # they return batches of that pass. The workers of this class find batches by their position.
        super().__init__()
        self.sample_rate = sample_rate
        self.genres = genres
        self.clip_seconds = clip_seconds
        self.fingerprint = fingerprint
        self.epoch = 0
        self._first, self._last = 0, len(data)
        # Each epoch is a repetition with its own seed: batch i of epoch e is the element e * steps + i.
        self._batches, self._track_ids = data.repeat(), track_ids.repeat()
        self._workers_ahead = workers
        self._processes = processes
        self._pool = None
        self._ahead = {}  # dict, position -> future of a batch

    def __len__(self):
        return self._last - self._first

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} does not exist: there are {len(self)} batches")
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
            dict of `callbacks`, including one that sets `epoch`, and `shuffle=False`, because Keras would shuffle the
            batches with the global random state of Python.
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            present = callbacks.callbacks
        else:
            present = callbacks = keras.tree.flatten(callbacks or [])
        if not any(isinstance(callback, _SetEpoch) and callback.data is self for callback in present):
            present.append(_SetEpoch(self))
        return {"callbacks": callbacks, "shuffle": False}

    def rest(self, epoch, batch):
        """Return the remaining batches of an interrupted epoch.

        If epoch 3 was interrupted after 17 batches, `model.fit(data.rest(3, 17), initial_epoch=3, epochs=4)` completes
        it, and `model.fit(data, initial_epoch=4, epochs=20)` continues the training.

        Args:
            epoch: int >= 0, counted from 0.
            batch: int, 0 <= batch < len(self), the first batch that remains.

        Returns:
            `Batches`.
        """
        if epoch < 0 or not 0 <= batch < self._last:
            raise ValueError(
                f"`epoch` must be >= 0 and `batch` in 0..{self._last - 1}. Received: epoch={epoch}, batch={batch}"
            )
        rest = copy.copy(self)
        rest.epoch, rest._first = epoch, batch
        return rest

    def track_ids(self, epoch, batch):
        """Return the ids of the tracks in a batch of an epoch, a list of int."""
        return [int(track_id) for track_id in self._track_ids[epoch * self._last + batch]]

    def _start_workers(self):
        """Return a pool of threads or processes, and a function that submits the batch at a position."""
        if not self._processes:
            pool = concurrent.futures.ThreadPoolExecutor(self._workers_ahead)
            return pool, lambda position: pool.submit(self._batches.__getitem__, position)
        pool = concurrent.futures.ProcessPoolExecutor(
            self._workers_ahead, multiprocessing.get_context("spawn"), _start_worker, (self._batches,)
        )
        # In a process that multiprocessing started, multiprocessing waits for child processes before concurrent.futures
        # stops them. With priority 10, it also closes the queue that stops them; so they are stopped before that.
        multiprocessing.util.Finalize(pool, _shut_down, (weakref.ref(pool),), exitpriority=11)
        return pool, lambda position: pool.submit(_worker_batch, position)


class _SetEpoch(keras.callbacks.Callback):
    """Set the epoch of batches.

    `Batches.on_epoch_end` alone would count too many epochs: Keras also calls it after it has built a model.
    """

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_epoch_begin(self, epoch, logs=None):
        self.data.epoch = epoch


def _track_id(split, index):
    return split.track_ids[index] if hasattr(split, "track_ids") else split[index]["track_id"]


@dataclasses.dataclass(frozen=True)
class _Crops:
    """Sequence in which each clip of a split is repeated, with the number of its crop."""

    split: object
    crops: int

    def __len__(self):
        return len(self.split) * self.crops

    def __getitem__(self, index):
        return self.split[index // self.crops] | {"crop": index % self.crops}


@dataclasses.dataclass(frozen=True)
class _BatchMaker:
    """Functions that turn elements of a split into a batch. Worker processes get it pickled."""

    samples: int
    genres: tuple
    crop: str
    crops: int
    mixup_alpha: float
    one_hot: bool
    weights: np.ndarray

    def clip(self, element, rng):
        """Return the waveform and the label of a crop of a clip."""
        waveform, label = element["audio"], element["genre"]
        if not 0 <= label < len(self.genres):
            raise ValueError(
                f"The label of track {element['track_id']} must be in 0..{len(self.genres) - 1}. Received: {label}"
            )
        start = self._start(max(0, len(waveform) - self.samples), element["crop"], rng)
        clip = audio.to_length(waveform[start:], self.samples)
        return np.array(clip), np.int32(label)  # a copy, so that the track can be freed

    def batch(self, clips, rng):
        """Return the batch that `Batches` yields."""
        waveforms, labels = clips
        rows = np.eye(len(self.genres), dtype="float32")[labels]
        if self.mixup_alpha:
            other = rng.permutation(len(labels))
            weight = rng.beta(self.mixup_alpha, self.mixup_alpha, (len(labels), 1)).astype("float32")
            waveforms = weight * waveforms + (1 - weight) * waveforms[other]
            rows = weight * rows + (1 - weight) * rows[other]
        batch = waveforms, (rows if self.one_hot else labels)
        return batch if self.weights is None else (*batch, rows @ self.weights)

    def _start(self, spare, crop, rng):
        """Return the first sample of a crop of a clip that is `spare` samples too long."""
        if self.crop == "random":
            return int(rng.integers(spare + 1))
        if self.crop == "even" and self.crops > 1:
            return spare * crop // (self.crops - 1)
        return 0 if self.crop == "start" else spare // 2


def check_integers(**arguments):
    """Raise a `ValueError` if an argument is not an integer or too small.

    Args:
        arguments: name -> (value, minimum).
    """
    for name, (value, minimum) in arguments.items():
        if not isinstance(value, int) or value < minimum:
            raise ValueError(f"`{name}` must be an integer >= {minimum}. Received: {name}={value!r}")


def checked_weights(class_weight, split):
    """Return the argument `class_weight` of `batches` as a `(len(split.genres),)` float32 array, or `None`.

    Raises:
        ValueError: `class_weight` is not one of the allowed values.
    """
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
            f'`class_weight` must be None, "balanced", or {len(split.genres)} numbers >= 0, one per genre. '
            f"Received: class_weight={class_weight!r}"
        )
    return weights


def _shut_down(reference):
    """Stop the processes of a pool, given a weak reference to it."""
    if pool := reference():
        pool.shutdown(cancel_futures=True)


_worker_data = []  # in a worker process: the `grain.MapDataset` that it reads


def _start_worker(data):
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _worker_data[:] = [data]


def _exit_with_parent():
    """Exit this worker process as soon as its parent process has ended; if that was killed, it cannot stop workers."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _worker_batch(position):
    return _worker_data[0][position]
