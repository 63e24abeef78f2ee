"""Resumed training equals uninterrupted training, here within one process; test_interrupted_runs.py kills processes."""

import os
import signal
import warnings

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import numpy, small_model
from genrekeras import training

OPTIONS = {"batch_size": 8, "clip_seconds": 0.5, "crop": "random", "seed": 5}


class Clips:
    """40 clips of 64 samples; those with odd numbers are louder."""

    sample_rate, genres, track_ids = 64, ("soft", "loud"), np.arange(100, 140)

    def __init__(self, wrong=None):
        self.wrong = wrong

    def __len__(self):
        return 40

    def __getitem__(self, index):
        audio = np.random.default_rng(index).standard_normal(64) * (1 + index % 2)
        if index == self.wrong:
            audio[:] = np.nan
        return {"audio": audio.astype("float32"), "genre": index % 2, "track_id": self.track_ids[index]}


def batches(shuffle=True, wrong=None, **options):
    return gk.datasets.batches(Clips(wrong), **{**OPTIONS, "shuffle": shuffle, **options})


@keras.saving.register_keras_serializable("tests")
class Quieter(keras.layers.Layer):
    """An augmentation with a random generator."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x, training=None):
        return x * keras.random.uniform((), 0.5, 1.0, seed=self.generator) if training else x


def network(average=True, seed=3, dropout=0.5, rate=1e-2, loss="sparse_categorical_crossentropy", **options):
    """A model with all kinds of state: BatchNorm, dropout, a layer with a generator, an average of the weights."""
    keras.utils.set_random_seed(seed)
    layers = [Quieter(), keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    layers += [keras.layers.Dropout(dropout), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((32,)), *layers])
    optimizer = keras.optimizers.AdamW(rate, use_ema=average, ema_momentum=0.9, **options)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


class Failure(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Interrupts a training at the start of a batch, counted from 1, by an exception or by a signal."""

    def __init__(self, batch, number=None):
        super().__init__()
        self.remaining, self.number = batch, number

    def on_train_batch_begin(self, batch, logs=None):
        self.remaining -= 1
        if self.remaining == 0 and self.number is None:
            raise Failure
        if self.remaining == 0:
            os.kill(os.getpid(), self.number)


def callbacks(folder):
    rate = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=1.0)
    return [rate, gk.callbacks.BestCheckpoint(folder / "best.keras")]


def train(folder, *others, **options):
    model = network()
    arguments = {"validation_data": batches(False), "callbacks": [*callbacks(folder), *others], "verbose": 0}
    history = training.fit(model, batches(), 4, folder / "state.npz", **{**arguments, **options})
    return model, history


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(weights, history, weights of the best model) of a training by `model.fit`."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    model = network()
    data, validation = batches(), batches(False)
    options = validation.fit_options(data.fit_options(callbacks(folder))["callbacks"])
    history = model.fit(data, epochs=4, validation_data=validation, verbose=0, **options)
    return model.get_weights(), history.history, keras.saving.load_model(folder / "best.keras").get_weights()


def assert_same(model, history, expected, folder):
    """Bit for bit on torch, up to rounding on other backends."""
    weights, expected_history, best_weights = expected
    tolerance = {"rtol": 0, "atol": 0} if keras.backend.backend() == "torch" else {"rtol": 1e-5, "atol": 1e-6}
    assert list(history.history) == list(expected_history) and history.epoch == [0, 1, 2, 3]
    for key, values in expected_history.items():
        np.testing.assert_allclose(history.history[key], values, **tolerance)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
    for a, b in zip(keras.saving.load_model(folder / "best.keras").get_weights(), best_weights, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.backends
def test_many_interruptions(uninterrupted, tmp_path):
    """In the first batch, within epochs, in the last batch of one, in the first of the next."""
    for batch in (1, 3, 4, 2, 5, 6):
        with pytest.raises(Failure):
            train(tmp_path, Interrupt(batch), every_seconds=0)
    assert_same(*train(tmp_path, every_seconds=0), uninterrupted, tmp_path)
    assert_same(*train(tmp_path), uninterrupted, tmp_path)  # all epochs are done


def test_the_state_is_saved_after_each_epoch(uninterrupted, tmp_path):
    with pytest.raises(Failure):
        train(tmp_path, Interrupt(13), every_seconds=1e9)
    with np.load(tmp_path / "state.npz") as file:
        assert b'"epoch": 2, "batch": 0' in file["about"].tobytes()
    assert_same(*train(tmp_path), uninterrupted, tmp_path)


@pytest.mark.backends
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_the_state(name, uninterrupted, tmp_path):
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler)  # it may be ignored, as in the background of a shell
    try:
        with pytest.raises(training.Interrupted, match=name) as caught:
            train(tmp_path, Interrupt(8, number), every_seconds=1e9)
        assert isinstance(caught.value, KeyboardInterrupt)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    with np.load(tmp_path / "state.npz") as file:
        assert b'"epoch": 1, "batch": 3' in file["about"].tobytes()
    assert_same(*train(tmp_path), uninterrupted, tmp_path)


def test_more_epochs_continue_a_finished_run(tmp_path):
    model = network(average=False)
    training.fit(model, batches(), 2, tmp_path / "state.npz", verbose=0)
    model = network(average=False)
    history = training.fit(model, batches(), 3, tmp_path / "state.npz", verbose=0)
    assert history.epoch == [0, 1, 2] and len(history.history["loss"]) == 3
    assert int(numpy(model.optimizer.iterations)) == 15


def test_early_stopping_is_final(tmp_path):
    stop = {"monitor": "loss", "min_delta": 100.0, "patience": 1}
    for _ in range(2):
        early = keras.callbacks.EarlyStopping(**stop)
        history = training.fit(network(), batches(), 9, tmp_path / "state.npz", callbacks=[early], verbose=0)
        assert history.epoch == [0, 1]
    with pytest.raises(ValueError, match="restore_best_weights"):
        early = keras.callbacks.EarlyStopping(**stop, restore_best_weights=True)
        training.fit(network(), batches(), 9, tmp_path / "state.npz", callbacks=[early])


class Folder(Clips):
    """Clips with a fingerprint, as a `Split` has it."""

    def __init__(self, fingerprint="a"):
        super().__init__()
        self.fingerprint = fingerprint


def run(model=None, split=None, validation=None, callbacks=(), rate=0.1, **options):
    """Arguments of `fit` for a run, or for another run that differs in the given arguments."""
    data = gk.datasets.batches(split or Folder(), **{**OPTIONS, **options})
    callbacks = callbacks or [
        gk.callbacks.StepDecay(rate, every=1),
        keras.callbacks.EarlyStopping("loss", patience=9),
    ]
    return {"model": model or network(), "data": data, "validation_data": validation, "callbacks": callbacks}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The state of a run of one epoch."""
    path = tmp_path_factory.mktemp("finished") / "state.npz"
    training.fit(**run(), epochs=1, state=path, verbose=0)
    return path


def smoothed():
    return keras.losses.SparseCategoricalCrossentropy(ignore_class=5)


def with_callbacks(*others):
    return run(callbacks=[gk.callbacks.StepDecay(0.1, every=1), *others])


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: run(network(rate=2e-2)), r"learning_rate was 0\.0099\d+, now 0\.0199"),
        (lambda: run(network(clipnorm=1.0)), r"compile\.optimizer\.config\.clipnorm was None, now 1\.0"),
        (lambda: run(network(loss=smoothed())), r"compile\.loss.* was 'sparse_categorical_crossentropy'"),
        (lambda: run(network(dropout=0.25)), r"model\..*rate was 0\.5, now 0\.25"),
        (lambda: run(network(seed=4)), r"seeds\.\d was \d+, now \d+"),
        (lambda: run(split=Folder("b")), r"data\.split was 'a', now 'b'"),
        (lambda: run(batch_size=9), r"data\.batch_size was 8, now 9"),
        (lambda: run(seed=6), r"data\.seed was 5, now 6"),
        (lambda: run(shuffle=True), r"data\.shuffle was False, now True"),
        (lambda: run(class_weight=[1, 2]), r"data\.class_weight"),
        (lambda: run(validation=batches()), r"validation_data"),
        (lambda: run(rate=0.2), r"callbacks\.0\.initial_learning_rate was 0\.1, now 0\.2"),
        (lambda: with_callbacks(keras.callbacks.EarlyStopping("loss", patience=8)), r"patience was 9, now 8"),
        (lambda: with_callbacks(), r"callbacks\.1\.class was 'EarlyStopping', now 'nothing'"),
        (lambda: {**run(), "initial_epoch": 1}, r"initial_epoch was 0, now 1"),
    ],
)
def test_the_state_of_another_run_is_refused(other, message, finished):
    """The message names the difference; neither the file nor the model changes."""
    before, other = finished.read_bytes(), other()
    weights = other["model"].get_weights()
    for epochs in (1, 2):
        with pytest.raises(ValueError, match=rf"`state` must belong to this run.*state\.npz.*{message}"):
            training.fit(**other, epochs=epochs, state=finished, verbose=0)
    assert finished.read_bytes() == before
    for a, b in zip(other["model"].get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_initial_weights_are_another_run(finished):
    model = network()
    model.layers[1].kernel.assign(model.layers[1].kernel * 1.01)
    with pytest.raises(ValueError, match=r"initial_weights\.0 was"):
        training.fit(**run(model), epochs=1, state=finished, verbose=0)


def test_arguments_that_may_change(finished, tmp_path):
    """Epochs, `verbose`, `every_seconds`, workers, files of callbacks; names that Keras numbers."""
    path = tmp_path / "state.npz"
    path.write_bytes(finished.read_bytes())
    keras.layers.Dense(1), keras.layers.Dropout(0.1), keras.optimizers.AdamW()
    options = {"verbose": 2, "every_seconds": 0.0}
    history = training.fit(**run(workers=2), epochs=2, state=path, **options)
    assert history.epoch == [0, 1]
    for epochs, folder in ((1, tmp_path / "a"), (2, tmp_path / "b")):
        arguments = with_callbacks(gk.callbacks.BestCheckpoint(folder / "best.keras", "loss"))
        history = training.fit(**arguments, epochs=epochs, state=folder / "state.npz", verbose=0)
        if epochs == 1:
            folder.rename(tmp_path / "b")
    assert history.epoch == [0, 1]


def test_the_model_of_an_interrupted_call_is_resumed(tmp_path):
    """In the same process, with its trained weights and learning rate."""

    def arguments(model, *others):
        callbacks = [gk.callbacks.StepDecay(1e-2, factor=0.5, every=1), *others]
        return {"model": model, "data": batches(), "callbacks": callbacks, "verbose": 0}

    path = tmp_path / "state.npz"
    whole = network(average=False)
    training.fit(**arguments(whole), epochs=3)
    model = network(average=False)
    with pytest.raises(training.Interrupted):
        training.fit(**arguments(model, Interrupt(8, signal.SIGTERM)), epochs=3, state=path)
    training.fit(**arguments(model), epochs=3, state=path)
    for a, b in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.optimizer.learning_rate = 1.0
    with pytest.raises(ValueError, match=r"learning_rate was .* now 1\.0"):
        training.fit(**arguments(model), epochs=4, state=path)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only on torch it is known whether a seed was set")
def test_a_run_without_a_seed_is_resumed(tmp_path):
    """Its initial weights differ in each process."""
    import torch

    for epochs, seed in ((1, 3), (2, 4)):
        model = network(seed=seed)
        torch.seed()  # as in a process that sets no seed
        history = training.fit(model, batches(), epochs, tmp_path / "state.npz", verbose=0)
    assert history.epoch == [0, 1]


def test_two_phases_of_a_genre_classifier(tmp_path):
    """First the head is trained, then all layers; interrupted in the second phase and run again from the start."""

    class FewClips(Clips):
        sample_rate = 22050

        def __len__(self):
            return 16

    data = gk.datasets.batches(FewClips(), 8, 1.0, shuffle=True)

    def phases(folder, *callbacks):
        keras.utils.set_random_seed(1)
        model = small_model(genres=Clips.genres, fine_tune="all", card={"about": str(folder)})
        for name, state in (("head", "first.npz"), ("all", "second.npz")):
            model.fine_tune = name
            model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
            options = {"callbacks": callbacks, "every_seconds": 0, "verbose": 0}
            training.fit(model, data, 1, folder / state, **options)
        return model

    whole = phases(tmp_path / "whole")
    with pytest.raises(Failure):
        phases(tmp_path / "interrupted", Interrupt(4))
    resumed = phases(tmp_path / "interrupted")
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"model\.fine_tune was 'head', now 'all'"):
        training.fit(resumed, data, 1, tmp_path / "interrupted" / "first.npz")


@pytest.fixture(scope="module")
def saved_state(tmp_path_factory):
    """Content of the state of a finished run of `train`."""
    folder = tmp_path_factory.mktemp("saved")
    train(folder)
    return (folder / "state.npz").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", "half", "flipped", "pickle"])
def test_a_damaged_state_is_named(content, saved_state, tmp_path):
    path = tmp_path / "state.npz"
    if content == "half":
        content = saved_state[: len(saved_state) // 2]
    elif content == "flipped":
        content = saved_state.replace(b'"batch": 0', b'"batch": 1')
    elif content == "pickle":
        np.savez(path, about=np.array([{"epoch": 3}], dtype=object))
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"`state` cannot be read.*state\.npz"):
        train(tmp_path)
    assert path.read_bytes() == content


def test_a_state_that_cannot_be_written_gives_a_warning(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = training.fit(network(), batches(), 2, tmp_path / "state.npz", verbose=0)
    assert len(history.history["loss"]) == 2 and os.listdir(tmp_path) == []
    assert any("could not be saved" in str(w.message) and "No space left" in str(w.message) for w in caught)


@pytest.mark.backends
def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    """The error names the tracks of the batch; the saved state does not change."""
    with pytest.raises(Failure):
        train(tmp_path, Interrupt(7), every_seconds=1e9)
    before = (tmp_path / "state.npz").read_bytes()
    wrong = batches(wrong=17)
    epoch, batch = next((1, b) for b in range(5) if 117 in wrong.track_ids(1, b))
    with pytest.raises(training.NonFiniteLossError, match=r"loss is not finite in epoch 2.*117") as caught:
        options = {"every_seconds": 1e9, "verbose": 0}
        training.fit(network(), wrong, 4, tmp_path / "state.npz", batches(False), callbacks(tmp_path), **options)
    assert (caught.value.epoch, caught.value.batch) == (epoch, batch)
    assert 117 in caught.value.track_ids and len(caught.value.track_ids) == 8
    assert (tmp_path / "state.npz").read_bytes() == before


@pytest.mark.backends
def test_a_weight_that_is_not_finite_is_not_saved(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.layers[-1].bias.assign(np.full(2, np.inf, "float32"))

    with pytest.raises(training.NonFiniteLossError, match="A weight is not finite in epoch 1, batch 3"):
        training.fit(network(), batches(), 2, tmp_path / "state.npz", callbacks=[Spoil()], every_seconds=0, verbose=0)
    with np.load(tmp_path / "state.npz") as file:
        assert b'"batch": 2' in file["about"].tobytes()


def test_track_ids_of_batches():
    data = batches()
    for epoch in (0, 3):
        data.epoch = epoch
        for batch in range(len(data)):
            tracks, labels = data.track_ids(epoch, batch), data[batch][1]
            assert [track % 2 for track in tracks] == labels.tolist()
        assert sorted(track for b in range(5) for track in data.track_ids(epoch, b)) == list(range(100, 140))
    crops = gk.datasets.batches(Clips(), 8, 0.25, crop="even", crops=2)
    assert crops.track_ids(0, 0) == [100, 100, 101, 101, 102, 102, 103, 103]
    elements = [{"audio": np.zeros(64, "float32"), "genre": 0, "track_id": 7}]

    class Plain(list):
        sample_rate, genres = 64, ("a", "b")

    assert gk.datasets.batches(Plain(elements), 8, 0.5).track_ids(2, 0) == [7]


@pytest.mark.parametrize(
    "options, message",
    [({"state": "a.h5"}, "must end in .npz"), ({"state": None, "every_seconds": -1}, "`every_seconds` must be >= 0")],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        training.fit(network(), batches(), 1, **options)
