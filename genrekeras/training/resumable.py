"""Resumable training: save the state of a fit, and resume it after an interruption."""

import contextlib
import json
import math
import os
import re
import signal
import threading
import time
import warnings

import keras
import numpy as np
from genrekeras.datasets.batches import Batches
from genrekeras.training import identity
from genrekeras.utils.io import atomic_write, read_arrays

# Attributes in which Keras' callbacks keep values between epochs. Other callbacks list theirs in `state_attributes`.
_STATE_ATTRIBUTES = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
}


class Interrupted(KeyboardInterrupt):
    """Raised when a signal stops a training, after its state was saved.

    Attributes:
        signal: int, `signal.SIGINT` or `signal.SIGTERM`.
    """

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class NonFiniteLossError(ArithmeticError):
    """Raised when the loss or a weight becomes infinite or NaN.

    Attributes:
        epoch, batch: int, counted from 0, where the value was detected.
        track_ids: list of int, the tracks of that batch; empty if the data has no track ids.
    """

    def __init__(self, what, epoch, batch, track_ids):
        tracks = f", with the tracks {', '.join(map(str, track_ids))}" if track_ids else ""
        super().__init__(
            f"{what} in epoch {epoch + 1}, batch {batch + 1}{tracks}. Earlier saved files are kept. Use a smaller "
            "learning rate or clipped gradients (`global_clipnorm`), or remove the track if a single one is the cause."
        )
        self.epoch, self.batch, self.track_ids = epoch, batch, track_ids


def fit(
    model,
    data,
    epochs,
    state=None,
    validation_data=None,
    callbacks=(),
    every_seconds=60.0,
    initial_epoch=0,
    verbose="auto",
):
    """Train a model as `model.fit` does, and resume an interrupted run.

    Call it again with the same arguments, in a later process, to resume. The state contains the weights, the optimizer,
    the epoch, the position in the data, the states of random layers, the history, the metrics of an unfinished epoch,
    and the values that callbacks keep between epochs (`BestCheckpoint`, `WandbLogger`, Keras' `EarlyStopping` and
    `ReduceLROnPlateau`; other callbacks list such attributes in an attribute `state_attributes`). It is saved at the
    end of each epoch and, within an epoch, every `every_seconds`. Unless that is 0, saving within epochs takes at most
    a twentieth of the time. The file is replaced atomically. If it cannot be written, a warning is given and training
    continues.

    SIGINT (Ctrl-C) and SIGTERM save the state after the current batch and raise `Interrupted`. A second signal has its
    usual effect at once. A signal during validation saves nothing; the file then contains an earlier state.

    With the same seed, backend and machine, the weights and the history of a resumed run equal those of an
    uninterrupted run, bit for bit on PyTorch. (The states of Python's and NumPy's generators are not restored.)

    A state belongs to one run. To resume it, these must be equal: the config of the model (without `card`), its initial
    weights and seeds, its compile config, the data and its options (`data.fingerprint`), the validation data, the
    callbacks with the settings that change the training, and `initial_epoch`. Custom callbacks list the names of such
    settings in an attribute `compared_attributes`. These may change: `epochs` (a larger number continues a finished
    run), `every_seconds`, `verbose`, the files that callbacks write, the workers of the data, the backend and the
    device. Functions, such as a loss or a schedule, are compared by name only.

    Call `keras.utils.set_random_seed` before the model is created. On PyTorch, initial weights are not compared if
    neither process set a seed. On JAX and TensorFlow, a run without a seed cannot be resumed in another process.

    Args:
        model: compiled `keras.Model`, such as a `GenreClassifier` or its `image_model`: built as for the first call, or
            the model of the interrupted call.
        data: `genrekeras.datasets.Batches`.
        epochs: int, the total number, including those before an interruption.
        state: str or path-like, ends in .npz: the file of the state. Delete it once the model is saved. With `None`, no
            state is saved and signals are not handled.
        validation_data, callbacks, initial_epoch, verbose: as in `keras.Model.fit`.
        every_seconds: float >= 0; 0 saves after each batch.

    Returns:
        `keras.callbacks.History` of all epochs.

    Raises:
        Interrupted: a signal was received.
        NonFiniteLossError: the loss or a weight became infinite or NaN. Nothing is saved after that.
        ValueError: `state` belongs to another run (the message names the differences), or cannot be read.
    """
    training = _TrainingState(state, data, keras.tree.flatten(callbacks or []), every_seconds, initial_epoch)
    training.read(model, validation_data)
    with training.handle_signals():
        while not training.is_done(epochs):
            if training.batch:  # finish an interrupted epoch by a fit over the rest of its batches
                batches, last_epoch = data.rest(training.epoch, training.batch), training.epoch + 1
            else:
                batches, last_epoch = data, epochs
            options = batches.fit_options(training.callbacks)
            if isinstance(validation_data, Batches):
                options = validation_data.fit_options(options["callbacks"])
            model.fit(
                batches,
                initial_epoch=training.epoch,
                epochs=last_epoch,
                validation_data=validation_data,
                callbacks=[*options["callbacks"], training],
                shuffle=False,
                verbose=verbose,
            )
    training.restore_finished(model)
    history = keras.callbacks.History()
    history.set_model(model)
    history.epoch, history.history = list(range(training.first_epoch, training.epoch)), training.history
    return history


class _TrainingState(keras.callbacks.Callback):
    """Save the state of a training and restore it. Must be the last callback.

    Attributes:
        callbacks: list, the callbacks before this one.
        first_epoch: int, the epoch in which the training began.
        epoch, batch: int, the position of the training: `batch` batches of this epoch are done.
        history: dict, key -> list of one value per epoch.
        stopped: bool, whether a callback ended the training.
    """

    _SAVED = ("first_epoch", "epoch", "batch", "history", "stopped")

    def __init__(self, path, data, callbacks, every_seconds, initial_epoch):
        super().__init__()
        self.path = None if path is None else os.fspath(path)
        if self.path is not None and not self.path.endswith(".npz"):
            raise ValueError(f"`state` must end in .npz. Received: state={self.path!r}")
        if not every_seconds >= 0:
            raise ValueError(f"`every_seconds` must be >= 0. Received: every_seconds={every_seconds}")
        for callback in callbacks if self.path else ():
            if isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights:
                raise ValueError(
                    "`EarlyStopping(restore_best_weights=True)` cannot be resumed: its best weights are only in memory."
                    " Omit `restore_best_weights`, and add `BestCheckpoint`."
                )
        self.data, self.callbacks, self.every_seconds = data, callbacks, every_seconds
        self.first_epoch, self.epoch, self.batch = initial_epoch, initial_epoch, 0
        self.history, self.stopped = {}, False
        self._first_batch = 0  # of the current `fit`: number of batches of its first epoch that were done before
        self._arrays, self._callback_values = None, None  # to be restored
        self._signal = None  # number of a received signal
        self._saved_at, self._save_seconds = time.monotonic(), 0.0

    def read(self, model, validation_data):
        """Describe the run; read the file if it exists, and check that it belongs to the run."""
        if self.path is None:
            return
        callbacks = [(callback, _state_attributes(callback)) for callback in self.callbacks]
        self._run = identity.describe_run(model, self.data, validation_data, callbacks, self.first_epoch)
        if not os.path.exists(self.path):
            return
        try:
            arrays = read_arrays(self.path)
            about = json.loads(arrays["about"].tobytes())
            self._arrays = {
                part: [arrays[f"{part}{i}"] for i in range(count)] for part, count in about["arrays"].items()
            }
            run, self._callback_values = about["run"], about["callbacks"]
            for name in self._SAVED:
                setattr(self, name, about[name])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"`state` cannot be read: {error}. Delete the file to start from the beginning. "
                f"Received: state={self.path!r}"
            ) from error
        self._check_run(run, model)
        self._run = run
        self._restore_callbacks()

    def _check_run(self, run, model):
        """Raise `ValueError` if the file belongs to another run."""
        differences = identity.differences(run, self._run)
        trained = re.compile(r"initial_weights\.\d+|compile\.optimizer\..*learning_rate")  # training changes these
        if not differences or (all(map(trained.fullmatch, differences)) and self._equals_saved(model)):
            return
        first = [f"{name} was {old!r:.60}, now {new!r:.60}" for name, (old, new) in list(differences.items())[:5]]
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(
            f"`state` must belong to this run. Received: state={self.path!r} of another run: {'; '.join(first)}{more}. "
            "Pass the arguments of that run to resume it; delete the file or choose another one to start a new run."
        )

    def _equals_saved(self, model):
        """Return whether model and optimizer have the values of the file, as after an interruption."""
        variables = _variables(model)
        return all(
            len(variables[part]) == len(self._arrays[part])
            and all(map(np.array_equal, map(keras.ops.convert_to_numpy, variables[part]), self._arrays[part]))
            for part in ("model", "optimizer")
        )

    def is_done(self, epochs):
        return self.stopped or self.epoch >= epochs

    @contextlib.contextmanager
    def handle_signals(self):
        """Record the first SIGINT or SIGTERM instead of ending the process."""
        if self.path is None or threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can set signal handlers
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # nohup

        def restore_handlers():
            for number, handler in before.items():
                signal.signal(number, handler)

        def record(number, frame):
            self._signal = number
            restore_handlers()

        for number in before:
            signal.signal(number, record)
        try:
            yield
        finally:
            restore_handlers()

    def restore_finished(self, model):
        """Restore a model whose training needs no further epoch."""
        if self._arrays is not None:
            self.set_model(model)
            self._restore_variables("model", "optimizer")
            model.optimizer.finalize_variable_values(model.trainable_variables)

    def on_train_begin(self, logs=None):
        self._first_batch = self.batch
        if self._arrays is not None:
            self._restore_callbacks()  # again: some callbacks reset their attributes in on_train_begin
            self._restore_variables("model", "optimizer")

    def on_epoch_begin(self, epoch, logs=None):
        if self._arrays is not None and self.batch:
            if len(self.model.metrics_variables) < len(self._arrays["metrics"]):
                self.model.test_on_batch(*self.data[0])  # on TensorFlow, the first batch creates the metrics
            self._restore_variables("metrics")
        elif self._arrays is not None:
            self._restore_random_states()

    def on_train_batch_begin(self, batch, logs=None):
        if self._arrays is not None:
            self._restore_random_states()  # not earlier: on torch, the start of iteration draws a random number

    def on_train_batch_end(self, batch, logs=None):
        self.batch = self._first_batch + batch + 1
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            self._raise_non_finite("The loss is not finite")
        if self.path is None or self.batch == len(self.data):
            return  # after the last batch, the validation comes first
        seconds = time.monotonic() - self._saved_at
        is_due = seconds >= self.every_seconds and (not self.every_seconds or seconds > 20 * self._save_seconds)
        if self._signal or is_due:
            self._save()
        self._raise_if_signalled()

    def on_test_batch_end(self, batch, logs=None):
        self._raise_if_signalled()

    def on_epoch_end(self, epoch, logs=None):
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        self.stopped = bool(self.model.stop_training)
        arrays = self._capture() if self.path else None
        was_resumed = self._first_batch > 0
        self._first_batch, self.batch, self.epoch = 0, 0, epoch + 1
        if self.path:
            self._save(arrays)
        if was_resumed:
            # This `fit` ends with this epoch, and a moving average replaces the weights then: the next `fit` restores
            # them.
            self._arrays = {part: [np.array(value) for value in values] for part, values in arrays.items()}
            self._callback_values = self._capture_callbacks()
        self._raise_if_signalled()

    def _capture(self):
        """Return the values of all variables and random states: dict, part -> list of arrays."""
        arrays = {
            part: [keras.ops.convert_to_numpy(variable) for variable in variables]
            for part, variables in _variables(self.model).items()
        }
        arrays["random"] = _random_states_of_torch() if keras.backend.backend() == "torch" else []
        for array in arrays["model"] + arrays["optimizer"]:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self._raise_non_finite("A weight is not finite")
        return arrays

    def _restore_variables(self, *parts):
        """Assign the values in `_arrays` to the variables of some parts."""
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        for part in parts:
            variables, values = _variables(self.model)[part], self._arrays[part]
            if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
                raise ValueError(
                    f"`state` must belong to this model: the shapes of its {part} variables differ. "
                    f"Received: state={self.path!r}. Delete the file or choose another one to start a new run."
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _restore_random_states(self):
        """Restore the states of random generators, the last step of a restoration."""
        if keras.backend.backend() == "torch":
            _set_random_states_of_torch(self._arrays["random"])
        self._arrays = None

    def _save(self, arrays=None):
        """Write the file, by default with the current values; warn if that fails."""
        began = time.monotonic()
        arrays = self._capture() if arrays is None else arrays
        about = {name: getattr(self, name) for name in self._SAVED}
        about |= {"run": self._run, "callbacks": self._capture_callbacks()}
        about["arrays"] = {part: len(values) for part, values in arrays.items()}
        content = {f"{part}{i}": value for part, values in arrays.items() for i, value in enumerate(values)}
        content["about"] = np.frombuffer(json.dumps(about).encode(), "uint8")
        try:
            with atomic_write(self.path) as temporary:
                np.savez(temporary, **content)
        except OSError as error:
            warnings.warn(f"The state could not be saved as {self.path}: {error}. Training continues.", stacklevel=2)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began

    def _raise_if_signalled(self):
        if self._signal:
            raise Interrupted(self._signal)

    def _raise_non_finite(self, what):
        raise NonFiniteLossError(what, self.epoch, self.batch - 1, self.data.track_ids(self.epoch, self.batch - 1))

    def _stateful_callbacks(self):
        """Return (callback, names of its state attributes) for each callback that has such attributes."""
        pairs = [(callback, _state_attributes(callback)) for callback in self.callbacks]
        return [(callback, names) for callback, names in pairs if names]

    def _capture_callbacks(self):
        """Return the values of the state attributes: a dict for each stateful callback."""
        return [{name: getattr(callback, name) for name in names} for callback, names in self._stateful_callbacks()]

    def _restore_callbacks(self):
        for (callback, names), values in zip(self._stateful_callbacks(), self._callback_values, strict=True):
            for name in names:
                setattr(callback, name, values[name])


def _variables(model):
    return {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}


def _random_states_of_torch():
    """Return the states of PyTorch's generators, from which layers without a seed draw: CPU, then each GPU."""
    import torch

    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy() for state in (torch.get_rng_state(), *devices)]


def _set_random_states_of_torch(states):
    """Restore the states that `_random_states_of_torch` returned; do nothing for a state from another backend."""
    import torch

    states = [torch.from_numpy(np.array(state)) for state in states]
    if states:
        torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])  # pragma: no cover - needs a GPU


def _state_attributes(callback):
    """Return the names of the attributes in which a callback keeps values between epochs."""
    for kind, names in _STATE_ATTRIBUTES.items():
        if isinstance(callback, kind):
            return list(names)
    return list(getattr(callback, "state_attributes", ()))
