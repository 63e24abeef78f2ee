"""Make batches of waveforms and labels for `keras.Model.fit`."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import multiprocessing
import multiprocessing.util
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import grain
import keras
import numpy as np
import numpy.typing as npt
from genrekeras import audio
from genrekeras.datasets.labels import checked_label, checked_weights, label_rows, sample_weights
from genrekeras.utils.progress import bar

if TYPE_CHECKING:  # This module imports `batches`.
    from genrekeras.datasets.splits import Split

Crop: TypeAlias = Literal["start", "center", "even", "random"]
CROPS = ("start", "center", "even", "random")


def batches(
    split: Split | Any,
    batch_size: int,
    clip_seconds: float,
    crop: Crop = "start",
    crops: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    mixup_alpha: float = 0.0,
    one_hot: bool = False,
    class_weight: Literal["balanced"] | npt.ArrayLike | None = None,
    workers: int = 1,
    processes: bool = False,
    distribution: keras.distribution.DataParallel | None = None,
) -> Batches:
    """Return batches of clips of equal length and their labels, for `keras.Model.fit`.

    Each batch is read from disk when it is needed, so memory does not grow with the number of clips.

    Args:
        split: `Split`, or a sequence with the same kind of elements and the attributes `sample_rate` and `genres`. If
            its clips have several labels, it also needs the attribute `multi_label`, which is true.
        batch_size: `> 0`, number of clips in a batch. The last batch of an epoch may be smaller.
        clip_seconds: `> 0`, length of the clips in a batch. Longer clips of the split are cropped, and shorter clips
            are padded by `genrekeras.audio.to_length`.
        crop: position of the crops in a longer clip. `"even"` means `crops` positions at equal distances from the start
            to the end of the clip, or the center if `crops` is 1. `"random"` means a new random position for each crop
            in each epoch.
        crops: `> 0`, number of crops of each clip in an epoch. Without shuffling, the crops of a clip are
            consecutive. With `"start"` and `"center"`, the crops of a clip are equal before augmentation.
        shuffle: whether each epoch has a new random order.
        seed: `>= 0`, seed of all random choices. The random choices differ between epochs.
        mixup_alpha: `>= 0`, parameter of mixup. 0 disables mixup. Otherwise, each clip of a batch is mixed with another
            clip of the batch: `m * clip + (1 - m) * other`, where m is drawn from Beta(mixup_alpha,
            mixup_alpha). Labels are one-hot and mixed with the same weights, so the loss must be
            `categorical_crossentropy`.
            Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
        one_hot: whether labels are one-hot without mixup too. Set it for validation data if the training data
            uses mixup.
        class_weight: floats >= 0, one per genre. With `"balanced"`, all genres have the same total weight, see
            `class_weights`. With mixup, the weights are mixed like the labels. The weight of a clip with several labels
            is the mean of their weights.
        workers: `> 0`, number of threads that read batches. With 1, batches are not read ahead. The content of the
            batches does not depend on this number.
        processes: whether the workers are processes instead of threads. Python starts the processes with the
            method "spawn", so a script must call this function below `if __name__ == "__main__":`.
        distribution: data parallelism of the training. The batches then contain only the rows of this process:
            consecutive rows of the global batches, which are those of a training without distribution. Other rows are
            not read. If the number of devices does not divide the size of the last batch, other clips with the weight 0
            are appended.

    Returns:
        A `keras.utils.PyDataset`. A batch is `(waveforms, labels)` or, with `class_weight` or `distribution`,
        `(waveforms, labels, weights)`.

            - `waveforms`: `(batch, clip_seconds * sample_rate)` float32.
            - `labels`: `(batch,)` int32. With several labels, `mixup_alpha` or `one_hot`, `(batch, len(genres))`
              float32.
            - `weights`: `(batch,)` float32.

    Raises:
        ValueError: an argument is out of range, the split is empty, or the number of devices of `distribution` does not
            divide `batch_size`. Reading a batch raises it if a label is invalid.
    """
    if not all(hasattr(split, name) for name in ("__len__", "sample_rate", "genres")):
        raise ValueError(
            "`split` must have a length and the attributes `sample_rate` and `genres`, such as `data.train`. "
            f"Received: {type(split).__name__}"
        )
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
    genres, multi_label = tuple(split.genres), getattr(split, "multi_label", False)
    one_hot = one_hot or multi_label or mixup_alpha > 0
    transform = _BatchTransform(samples, genres, crop, crops, mixup_alpha, one_hot, weights, multi_label)
    clips = grain.MapDataset.source(_Crops(split, crops)).seed(seed)
    if shuffle:
        clips = clips.shuffle()
    clips = clips.random_map(transform.clip)
    if distribution is None:
        data = clips.batch(batch_size).random_map(transform.batch)
    else:
        rows = _LocalRows(clips, transform, batch_size, *_devices_and_process(distribution, batch_size, mixup_alpha))
        data = grain.MapDataset.source(range(-(-len(clips) // batch_size))).map_with_index(rows)
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
        "one_hot": one_hot,
        "class_weight": None if weights is None else weights.tolist(),
    }
    track_ids = track_ids.batch(batch_size)
    rate = split.sample_rate
    return Batches(data, rate, genres, clip_seconds, track_ids, fingerprint, workers, processes, multi_label)


def fill(array: np.ndarray, data: Batches, function: Callable[[np.ndarray], np.ndarray], title: str) -> None:
    """Apply a function to the inputs of all batches, write its outputs into an array, and show a progress bar.

    Args:
        array: `(n, ...)` array. All rows are overwritten.
        data: batches of n clips or images in total.
        function: inputs of a batch -> rows of `array`.
        title: text before the progress bar.
    """
    row = 0
    with bar(len(array), title, "clip") as progress:
        for index in range(len(data)):
            outputs = function(data[index][0])
            array[row : row + len(outputs)] = outputs
            row += len(outputs)
            progress.update(len(outputs))


class Batches(keras.utils.PyDataset):
    """Sequence of the batches of an epoch.

    The content of a batch depends only on the epoch and the index of the batch. Therefore, training can be resumed at
    any batch. The functions `batches` and `image_batches` return objects of this class.

    Args:
        data: the batches of an epoch.
        sample_rate: in Hz, sample rate of the clips.
        genres: in the order of the labels.
        clip_seconds: length of the clips. `None` for images.
        track_ids: the track ids of the batches of an epoch.
        fingerprint: identifies the batches by the content of the split, the options and the seed. It can be written as
            JSON.
        workers: see `batches`.
        processes: see `batches`.
        multi_label: whether the labels are rows of 0 and 1, because a clip may have several labels.

    Attributes:
        sample_rate, genres, clip_seconds, multi_label: the arguments. `GenreClassifier.fit` compares these attributes
            with those of the model.
        fingerprint: the argument. When a run is resumed, `genrekeras.training.fit` compares this attribute with the
            fingerprint of the run.
        epoch: epoch of the next batches. `on_epoch_end` increments this number. The callback of `fit_options` sets
            this number at the start of an epoch.
    """

    def __init__(
        self,
        data: grain.MapDataset,
        sample_rate: int,
        genres: tuple[str, ...],
        clip_seconds: float | None,
        track_ids: grain.MapDataset,
        fingerprint: dict[str, Any],
        workers: int = 1,
        processes: bool = False,
        multi_label: bool = False,
    ):
        # The workers of Keras are not used. Keras may stop a pass early, for example when it builds a model. Then the
        # workers would return the remaining batches of this pass in the next pass.
        super().__init__()
        self.sample_rate = sample_rate
        self.genres = genres
        self.clip_seconds = clip_seconds
        self.multi_label = multi_label
        self.fingerprint = fingerprint
        self.epoch = 0
        self._first, self._last = 0, len(data)
        # Each repetition has its own seed. Batch i of epoch e is the element e * len(data) + i.
        self._batches, self._track_ids = data.repeat(), track_ids.repeat()
        self._workers_ahead = workers
        self._processes = processes
        self._pool = None
        self._ahead: dict[int, concurrent.futures.Future] = {}  # position of a batch -> the batch

    def __len__(self):
        return self._last - self._first

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} does not exist. There are {len(self)} batches.")
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

    def fit_options(
        self, callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.CallbackList | None = None
    ) -> dict[str, Any]:
        """Return arguments of `keras.Model.fit`. With them, each epoch uses its own batches in the correct order.

        Args:
            callbacks: see `keras.Model.fit`.

        Returns:
            The arguments `callbacks` and `shuffle`. `callbacks` contains an additional callback that sets the
            attribute `epoch`. `shuffle` is False, because Keras would shuffle the batches with the global random state
            of Python.
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            present = callbacks.callbacks
        else:
            present = callbacks = keras.tree.flatten(callbacks or [])
        if not any(isinstance(callback, _SetEpoch) and callback.data is self for callback in present):
            present.append(_SetEpoch(self))
        return {"callbacks": callbacks, "shuffle": False}

    def rest(self, epoch: int, batch: int) -> Self:
        """Return the remaining batches of an interrupted epoch.

        For example, assume that epoch 3 was interrupted after 17 batches. `model.fit(data.rest(3, 17), initial_epoch=3,
        epochs=4)` completes this epoch. Then `model.fit(data, initial_epoch=4, epochs=20)` continues the training.

        Args:
            epoch: `>= 0`, index of the epoch.
            batch: 0 <= batch < len(self), index of the first remaining batch.
        """
        if epoch < 0 or not 0 <= batch < self._last:
            raise ValueError(
                f"`epoch` must be >= 0 and `batch` in 0..{self._last - 1}. Received: epoch={epoch}, batch={batch}"
            )
        rest = copy.copy(self)
        rest.epoch, rest._first = epoch, batch
        return rest

    def track_ids(self, epoch: int, batch: int) -> list[int]:
        """Return the track ids of a batch.

        Args:
            epoch: `>= 0`, index of the epoch.
            batch: `>= 0`, index of the batch in the epoch.
        """
        return [int(track_id) for track_id in self._track_ids[epoch * self._last + batch]]

    def _start_workers(self):
        """Start the workers. Return the pool and a function that makes the pool read the batch at a position."""
        if not self._processes:
            pool = concurrent.futures.ThreadPoolExecutor(self._workers_ahead)
            return pool, lambda position: pool.submit(self._batches.__getitem__, position)
        pool = concurrent.futures.ProcessPoolExecutor(
            self._workers_ahead, multiprocessing.get_context("spawn"), _start_worker, (self._batches,)
        )

        def submit(position):
            return pool.submit(_worker_batch, position)

        # If multiprocessing started this process, multiprocessing waits for the workers at exit. concurrent.futures
        # would stop the workers only later, so the process would not exit. Therefore, this finalizer stops the workers
        # and waits for them: when no batches use `submit` any more, or at exit. Its priority is 11, because
        # multiprocessing closes a queue that the pool needs with priority 10.
        multiprocessing.util.Finalize(submit, pool.shutdown, kwargs={"cancel_futures": True}, exitpriority=11)
        return pool, submit


class _SetEpoch(keras.callbacks.Callback):
    """Callback that sets the attribute `epoch` of `Batches`.

    `Batches.on_epoch_end` alone would count too many epochs, because Keras also calls it after building a model.
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
    """Sequence that repeats each clip of a split `crops` times and adds the index of the crop."""

    split: object
    crops: int

    def __len__(self):
        return len(self.split) * self.crops

    def __getitem__(self, index):
        return self.split[index // self.crops] | {"crop": index % self.crops}


@dataclasses.dataclass(frozen=True)
class _BatchTransform:
    """Functions that convert elements of a split to a batch. They are pickled for worker processes.

    Attributes:
        samples: length of a clip in a batch.
        genres, crop, crops, mixup_alpha, one_hot: see `batches`.
        weights: `(len(genres),)` float32 array, class weights, or `None`.
        multi_label: whether the label of a clip is a row.
    """

    samples: int
    genres: tuple[str, ...]
    crop: Crop
    crops: int
    mixup_alpha: float
    one_hot: bool
    weights: np.ndarray | None
    multi_label: bool

    def clip(self, element, rng):
        """Return the waveform and the label of a crop."""
        waveform = element["audio"]
        label = checked_label(element["genre"], len(self.genres), self.multi_label, element["track_id"])
        start = self._crop_start(max(0, len(waveform) - self.samples), element["crop"], rng)
        clip = audio.to_length(waveform[start:], self.samples)
        return np.array(clip), label  # a copy, so the memory of the longer clip can be freed

    def batch(self, clips, rng):
        """Return a batch of clips, with mixup and class weights."""
        waveforms, labels = clips
        rows = label_rows(labels, len(self.genres))
        if self.mixup_alpha:
            other = rng.permutation(len(labels))
            weight = rng.beta(self.mixup_alpha, self.mixup_alpha, (len(labels), 1)).astype("float32")
            waveforms = weight * waveforms + (1 - weight) * waveforms[other]
            rows = weight * rows + (1 - weight) * rows[other]
        batch = waveforms, (rows if self.one_hot else labels)
        return batch if self.weights is None else (*batch, sample_weights(rows, self.weights))

    def _crop_start(self, spare, crop, rng):
        """Return the position of the first sample of a crop.

        Args:
            spare: int >= 0, number of samples by which the clip is longer than the crop.
            crop: int, index of the crop.
            rng: `numpy.random.Generator`.
        """
        if self.crop == "random":
            return int(rng.integers(spare + 1))
        if self.crop == "even" and self.crops > 1:
            return spare * crop // (self.crops - 1)
        return 0 if self.crop == "start" else spare // 2


def _devices_and_process(distribution, batch_size, mixup_alpha):
    """Return the numbers of devices and processes, and the index of this process. Check that batches can be divided."""
    devices = distribution.num_model_replicas
    if batch_size % devices:
        raise ValueError(
            f"`batch_size` must be divisible by the number of devices, which is {devices}. "
            f"Received: batch_size={batch_size}"
        )
    if mixup_alpha:
        raise ValueError(
            "`mixup_alpha` must be 0 with a `distribution`, because mixup needs the rows of all processes. "
            f"Received: mixup_alpha={mixup_alpha}"
        )
    return devices, distribution.num_processes, distribution.data_shard_id


@dataclasses.dataclass(frozen=True)
class _LocalRows:
    """Function that reads the rows of a process of a global batch, with weights.

    If the size of the last batch is not a multiple of the number of devices, the first clips of the epoch are appended
    with the weight 0. (Rows of zeros would change the statistics of batch normalization.)

    Attributes:
        clips: waveforms and labels. The index of a clip is its global position.
        transform: makes a batch of clips.
        batch_size: number of rows of a global batch.
        devices: number of devices of all processes.
        processes: number of processes.
        process: index of this process.
    """

    clips: grain.MapDataset
    transform: _BatchTransform
    batch_size: int
    devices: int
    processes: int
    process: int

    def __call__(self, index, element):
        """Return the rows. The index of a batch includes the batches of earlier epochs."""
        size = len(self.clips)
        epoch, batch = divmod(index, -(-size // self.batch_size))
        first = batch * self.batch_size
        unpadded = min(self.batch_size, size - first)
        padded = -(-unpadded // self.devices) * self.devices
        rows = padded // self.processes
        positions = first + self.process * rows + np.arange(rows)
        clips = [self.clips[epoch * size + int(position)] for position in positions % size]
        waveforms, labels, *weights = self.transform.batch(tuple(map(np.stack, zip(*clips, strict=True))), None)
        # Keras divides the loss by the number of rows, with the appended ones.
        scale = np.where(positions < size, padded / unpadded, 0.0).astype("float32")
        return waveforms, labels, scale * weights[0] if weights else scale


def check_integers(**arguments: tuple[Any, int]) -> None:
    """Raise a `ValueError` if an argument is not an integer, or if it is too small.

    Args:
        arguments: tuples (value, minimum), by the name of the argument.
    """
    for name, (value, minimum) in arguments.items():
        if not isinstance(value, int) or value < minimum:
            raise ValueError(f"`{name}` must be an integer >= {minimum}. Received: {name}={value!r}")


_worker_data: list[grain.MapDataset] = []  # in a worker process, this list contains the dataset of the batches


def _start_worker(data):
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    _worker_data[:] = [data]


def _exit_with_parent():
    """Wait until the parent process ends, and exit this worker process.

    A parent process that is killed cannot stop its worker processes.
    """
    multiprocessing.parent_process().join()
    os._exit(1)


def _worker_batch(position):
    return _worker_data[0][position]
