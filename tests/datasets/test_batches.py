"""Batches: order, crops, mixup, reproducible epochs, workers."""

import time
import types

import keras
import numpy as np
import psutil
import pytest
from conftest import numpy, small_model
from genrekeras import GenreClassifier
from genrekeras.datasets import batches, class_weights
from processes import start, wait

RATE = 100


class Clips:
    """Clips of 3 s whose samples count up, so that a batch shows which clip it contains and where it was cropped."""

    sample_rate, genres = RATE, ("a", "b", "c")

    def __init__(self, count=10, samples=3 * RATE):
        self.count, self.samples = count, samples

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        waveform = 1000.0 * index + np.arange(self.samples)
        return {"audio": waveform.astype("float32"), "genre": index % 3, "track_id": index}


def clips_of(batch):
    return [int(first // 1000) for first in batch[0][:, 0]]


def starts_of(batch):
    return [int(first % 1000) for first in batch[0][:, 0]]


def test_shapes_and_order():
    data = batches(Clips(), 4, 2.0)
    assert isinstance(data, keras.utils.PyDataset) and len(data) == 3
    shapes = [(data[i][0].shape, data[i][1].shape) for i in range(3)]
    assert shapes == [((4, 200), (4,)), ((4, 200), (4,)), ((2, 200), (2,))]
    assert data[0][0].dtype == np.float32 and data[0][1].dtype == np.int32
    assert [clip for i in range(3) for clip in clips_of(data[i])] == list(range(10))
    np.testing.assert_array_equal(data[1][1], [1, 2, 0, 1])
    with pytest.raises(IndexError):
        data[3]


def test_crops():
    assert set(starts_of(batches(Clips(), 10, 2.0)[0])) == {0}
    assert set(starts_of(batches(Clips(), 10, 2.0, crop="center")[0])) == {50}
    starts = starts_of(batches(Clips(200), 200, 2.0, crop="random")[0])
    assert min(starts) == 0 and max(starts) == 100 and 40 < np.mean(starts) < 60


def test_short_clips_are_reflected():
    waveform = batches(Clips(1, samples=100), 1, 2.0)[0][0][0]
    assert len(waveform) == 200 and waveform[0] == 50 and waveform[50] == 0 and waveform[149] == 99


def epoch_of(data):
    epoch = [data[i] for i in range(len(data))]
    data.on_epoch_end()
    return [clips_of(b) for b in epoch], [starts_of(b) for b in epoch]


def test_epochs_differ_and_runs_with_the_same_seed_are_equal():
    def run(seed):
        data = batches(Clips(), 4, 2.0, crop="random", shuffle=True, seed=seed)
        return [epoch_of(data) for _ in range(3)]

    first = run(0)
    for order, _ in first:
        assert sorted(clip for batch in order for clip in batch) == list(range(10))  # each clip once per epoch
    assert first[0] != first[1] != first[2]
    assert run(0) == first and run(1) != first


def test_workers_read_ahead_and_give_the_same_batches():
    arguments = {"crop": "random", "shuffle": True, "seed": 3, "mixup_alpha": 0.4}
    alone, ahead = batches(Clips(), 4, 2.0, **arguments), batches(Clips(), 4, 2.0, **arguments, workers=3)
    for epoch, index in ((0, 0), (0, 1), (0, 2), (1, 0), (0, 0), (0, 1), (5, 2)):  # also after an incomplete pass
        alone.epoch = ahead.epoch = epoch
        for one, other in zip(alone[index], ahead[index], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(ahead._ahead) == 3


@pytest.mark.backends
@pytest.mark.parametrize("workers", [1, 2])
def test_fit_reads_each_epoch_in_the_order_of_the_seed(workers):
    """Keras would shuffle the batches of a PyDataset with Python's global random state."""
    seen = []

    class Constant(Clips):
        """Each clip has a constant value, which identifies it in the inputs of the model."""

        sample_rate = 22050

        def __getitem__(self, index):
            return {"audio": np.full(22050, index / 10, "float32"), "genre": index % 3, "track_id": index}

    class Recorded(GenreClassifier):
        def train_step(self, *arguments):
            waveforms = arguments[-1][0]
            seen.append([round(10 * float(value)) for value in numpy(waveforms[:, 0])])
            return super().train_step(*arguments)

    def train(**arguments):
        seen.clear()
        model = Recorded("mel_cnn", pretrained=None, clip_seconds=1.0, genres=("a", "b", "c"))
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        model.fit(batches(Constant(6), 2, 1.0, shuffle=True, seed=5, workers=workers), verbose=0, **arguments)
        return list(seen)

    data = batches(Constant(6), 2, 1.0, shuffle=True, seed=5)
    expected = []
    for _ in range(3):
        expected.append([[round(10 * float(value)) for value in data[i][0][:, 0]] for i in range(len(data))])
        data.on_epoch_end()
    assert expected[0] != expected[1] != expected[2]
    assert train(epochs=3) == expected[0] + expected[1] + expected[2]
    assert train(epochs=3, initial_epoch=2) == expected[2]


def test_a_label_out_of_range():
    class Wrong(Clips):
        genres = ("a", "b")

    with pytest.raises(ValueError, match=r"The label of track 2 must be in 0\.\.1. Received: 2"):
        batches(Wrong(), 4, 2.0)[0]


def test_mixup():
    data = batches(Clips(30), 30, 3.0, mixup_alpha=0.4, seed=1)
    waveforms, labels = data[0]
    assert labels.shape == (30, 3) and labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert (labels.max(axis=1) < 1).any()
    # Clip i of the batch is m * clip i + (1 - m) * clip j. The label and the waveform give the same m and j.
    for i, (waveform, label) in enumerate(zip(waveforms, labels, strict=True)):
        weight = label[i % 3]
        if weight < 0.999:  # otherwise the other clip has the same genre
            other = (waveform[0] - weight * 1000 * i) / (1 - weight) / 1000
            assert abs(other - round(other)) < 0.05 and label[round(other) % 3] == pytest.approx(1 - weight, abs=1e-5)
    np.testing.assert_array_equal(batches(Clips(30), 30, 3.0, mixup_alpha=0.4, seed=1)[0][0], waveforms)
    data.on_epoch_end()
    assert not np.array_equal(data[0][0], waveforms)


def test_many_crops_of_a_clip():
    even = batches(Clips(4), 3, 1.0, crop="even", crops=3)
    assert len(even) == 4
    epoch = [even[i] for i in range(4)]
    assert [clip for batch in epoch for clip in clips_of(batch)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [start for batch in epoch for start in starts_of(batch)] == [0, 100, 200] * 4
    assert starts_of(batches(Clips(4), 4, 1.0, crop="even")[0]) == [100] * 4
    random = batches(Clips(5), 50, 1.0, crop="random", crops=10, shuffle=True, seed=2)
    clips, starts = clips_of(random[0]), starts_of(random[0])
    assert sorted(clips) == sorted(list(range(5)) * 10) and clips != sorted(clips) and len(set(starts)) > 30


def test_class_weights_give_genres_the_same_total_weight():
    class Unequal(Clips):
        labels = np.array([0] * 6 + [1] * 3 + [2])

        def __getitem__(self, index):
            return super().__getitem__(index) | {"genre": int(self.labels[index])}

    with pytest.raises(ValueError, match=r"`split` must have the attribute `labels`.*list"):
        class_weights([0, 1])
    weights = class_weights(Unequal())
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3], rtol=1e-6)
    np.testing.assert_allclose(np.bincount(Unequal.labels) * weights, 10 / 3, rtol=1e-6)
    _, labels, given = batches(Unequal(), 10, 1.0, class_weight="balanced")[0]
    np.testing.assert_array_equal(given, weights[labels])
    assert given.dtype == np.float32 and given.mean() == pytest.approx(1)
    _, rows, mixed = batches(Unequal(), 10, 1.0, class_weight=[1, 2, 3.5], mixup_alpha=0.4)[0]
    np.testing.assert_allclose(mixed, rows @ [1, 2, 3.5], rtol=1e-6)
    Unequal.labels = np.array([0] * 5 + [2] * 5)
    np.testing.assert_allclose(class_weights(Unequal()), [1, 0, 1])


@pytest.mark.backends
def test_fit_uses_class_weights():
    """With weight 0 for all genres, the weights of the model do not change."""
    split = _valid()
    split.labels = np.arange(4) % 3
    model = small_model(genres=split.genres, fine_tune="head")
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    data = batches(split, 4, 1.0, class_weight=[0, 0, 0])
    before = [numpy(weight).copy() for weight in model.trainable_variables]
    model.fit(data, verbose=0)
    assert all(np.array_equal(numpy(w), b) for w, b in zip(model.trainable_variables, before, strict=True))
    model.fit(batches(split, 4, 1.0, class_weight="balanced"), verbose=0)
    assert not all(np.array_equal(numpy(w), b) for w, b in zip(model.trainable_variables, before, strict=True))


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_worker_processes_give_the_same_batches(synthetic, workers):
    """They read a split from disk."""
    options = {"crop": "random", "crops": 2, "shuffle": True, "seed": 3, "mixup_alpha": 0.4}
    options["class_weight"] = np.arange(1, 9).tolist()
    alone = batches(synthetic.train, 8, 1.0, **options)
    ahead = batches(synthetic.train, 8, 1.0, **options, workers=workers, processes=True)
    for epoch, index in ((0, 0), (0, 1), (1, 0), (0, 0), (5, 31)):
        alone.epoch = ahead.epoch = epoch
        for one, other in zip(alone[index], ahead[index], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(ahead._pool._processes) == workers


READER = """
import sys, time
import numpy as np
from genrekeras.datasets import batches

class Clips:
    sample_rate, genres = 100, ("a", "b")
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return {"audio": np.zeros(300, "float32"), "genre": index % 2, "track_id": index}

if __name__ == "__main__":
    data = batches(Clips(), 4, 2.0, processes=True)
    data[0]
    print(*data._pool._processes)
    if sys.argv[1] == "drops its batches, ends":
        del data
    time.sleep(600 * (sys.argv[1] == "is killed"))
"""


@pytest.mark.parametrize(
    "reader", [*(pytest.param(x, marks=pytest.mark.slow) for x in ("ends", "drops its batches, ends")), "is killed"]
)
def test_a_worker_process_ends_with_its_parent(reader, tmp_path):
    """multiprocessing started the parent, so the parent waits for child processes before it ends."""
    (tmp_path / "reads.py").write_text(READER)
    process = start(tmp_path / "reads.py", reader, stdout=tmp_path / "out", stderr=tmp_path / "err")
    until = time.monotonic() + 120
    while not (output := (tmp_path / "out").is_file() and (tmp_path / "out").read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    assert output, (tmp_path / "err").read_text()
    worker = int(output)
    if reader == "is killed":
        process.kill()
    assert wait(process, 60) == (-9 if reader == "is killed" else 0)
    while not has_ended(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert has_ended(worker)


def has_ended(process):
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE  # its parent does not read the exit code
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("workers", [1, 2])
def test_the_rest_of_an_interrupted_epoch(workers):
    data = batches(Clips(), 3, 2.0, crop="random", shuffle=True, seed=5, workers=workers)
    epochs = []
    for _ in range(3):
        epochs.append([data[i][0] for i in range(len(data))])
        data.on_epoch_end()
    rest = data.rest(1, 2)
    assert len(rest) == 2
    np.testing.assert_array_equal(rest[0][0], epochs[1][2])
    np.testing.assert_array_equal(rest[1][0], epochs[1][3])
    data.epoch = 2
    np.testing.assert_array_equal(data[0][0], epochs[2][0])  # `data` is unchanged
    with pytest.raises(ValueError, match=r"`batch` in 0\.\.3"):
        data.rest(0, 4)


@pytest.mark.backends
def test_fit_completes_an_interrupted_epoch():
    def weights_after_each_step(*runs):
        keras.utils.set_random_seed(3)
        model = small_model(genres=("a", "b", "c"), fine_tune="head", dropout=0.0)
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        seen = []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                seen.append(numpy(self.model.trainable_variables[-1]).copy())

        for data, options in runs:
            model.fit(data, verbose=0, callbacks=[Watch()], **options)
        return np.stack(seen)

    class Noise(Clips):
        sample_rate = 22050

        def __getitem__(self, index):
            waveform = np.random.default_rng(index).standard_normal(22050).astype("float32")
            return {"audio": waveform, "genre": index % 3, "track_id": index}

    data = batches(Noise(6), 2, 1.0, shuffle=True, seed=5)
    expected = weights_after_each_step((data, {"epochs": 2}))
    interrupted = weights_after_each_step(
        (data, {"epochs": 1, "steps_per_epoch": 1}),
        (data.rest(0, 1), {"epochs": 1}),
        (data, {"initial_epoch": 1, "epochs": 2}),
    )
    assert len(expected) == 6
    np.testing.assert_array_equal(interrupted, expected)


def test_one_hot_labels_for_the_validation_of_mixup():
    labels = batches(Clips(), 4, 2.0, one_hot=True)[0][1]
    np.testing.assert_array_equal(labels, np.eye(3)[[0, 1, 2, 0]])


def distribution(devices, processes=1, process=0):
    """What `batches` uses of a `keras.distribution.DataParallel`, which only JAX has."""
    return types.SimpleNamespace(num_model_replicas=devices, num_processes=processes, data_shard_id=process)


@pytest.mark.parametrize("devices, processes", [(1, 1), (4, 1), (2, 2), (8, 4)])
@pytest.mark.parametrize("count, class_weight", [(32, None), (35, "balanced")])
def test_each_process_reads_its_rows_of_the_batches(devices, processes, count, class_weight):
    options = {"crop": "random", "shuffle": True, "seed": 3, "class_weight": class_weight}
    reads = [[] for _ in range(processes + 1)]

    class Recorded(Clips):
        labels = np.arange(count) % 3

        def __getitem__(self, index):
            reads[self.process].append(index)
            return super().__getitem__(index)

    def recorded(process, distribution):
        clips = Recorded(count)
        clips.process = process
        return batches(clips, 16, 2.0, distribution=distribution, **options)

    parts = [recorded(process, distribution(devices, processes, process)) for process in range(processes)]
    whole = recorded(-1, None)
    for _ in range(2):
        for i in range(len(whole)):
            expected = whole[i]
            rows = len(expected[0])
            waveforms, labels, weights = map(np.concatenate, zip(*[part[i] for part in parts], strict=True))
            assert len(waveforms) == -(-rows // devices) * devices
            np.testing.assert_array_equal(waveforms[:rows], expected[0])
            np.testing.assert_array_equal(labels[:rows], expected[1])
            loss = expected[2] if class_weight else np.ones(rows)
            np.testing.assert_allclose(weights[:rows] / len(weights), loss / rows, rtol=1e-6)  # equal mean losses
            assert not weights[rows:].any()
        for data in (whole, *parts):
            data.on_epoch_end()
        together = sorted(np.concatenate(reads[:-1]))
        if count % devices == 0:
            assert together == list(range(count))  # disjoint
        assert set(together) == set(range(count)) and len(together) == -(-count // devices) * devices
        for read in reads:
            read.clear()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"distribution": distribution(3)}, "`batch_size` must be divisible .* which is 3. Received: batch_size=4"),
        ({"distribution": distribution(2), "mixup_alpha": 0.2}, "`mixup_alpha` must be 0 with a `distribution`"),
        ({"crop": "end"}, "`crop` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"batch_size": 2.0}, "`batch_size` must be"),
        ({"workers": 0}, "`workers` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"seed": None}, "`seed` must be"),
        ({"clip_seconds": -1.0}, "`clip_seconds` must be"),
        ({"clip_seconds": 1e-6}, "`clip_seconds` must be"),
        ({"mixup_alpha": -0.1}, "`mixup_alpha` must be"),
        ({"crops": 0}, "`crops` must be"),
        ({"class_weight": "fair"}, "`class_weight` must be"),
        ({"class_weight": [1, 2]}, "`class_weight` must be"),
        ({"class_weight": [1, 2, -1]}, "`class_weight` must be"),
        ({"split": Clips(0)}, "`split` has no clips"),
        ({"split": [1, 2]}, "`split` must have a length and the attributes .*list"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(**{"split": Clips(), "batch_size": 4, "clip_seconds": 2.0, **arguments})


@pytest.mark.parametrize(
    "data, name",
    [
        ({"sample_rate": 44100}, "sample_rate"),
        ({"genres": ("a", "b")}, "genres"),
        ({"clip_seconds": 2.0}, "clip_seconds"),
    ],
)
def test_data_that_does_not_fit_the_model(data, name):
    model = small_model(genres=("a", "b", "c"), fine_tune="head")
    model.compile("sgd", "sparse_categorical_crossentropy")
    split = Clips(4)
    split.sample_rate = data.get("sample_rate", 22050)
    split.genres = data.get("genres", model.genres)
    wrong = batches(split, 2, data.get("clip_seconds", 1.0))
    for use in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match=f"The data's `{name}` is not the model's"):
            use(wrong)
    good = batches(_valid(), 2, 1.0)
    with pytest.raises(ValueError, match=f"The data's `{name}`"):
        model.fit(good, validation_data=wrong)


def _valid():
    split = Clips(4)
    split.sample_rate = 22050
    return split
