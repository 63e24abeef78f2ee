"""Resumable training: save the state of a training, and resume the training after an interruption."""

import contextlib
import json
import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from genrekeras.datasets.batches import Batches
from genrekeras.training import identity
from genrekeras.utils.io import StrPath, atomic_write, read_arrays
from genrekeras.utils.process import is_first_process

# Attributes in which Keras' callbacks keep values between epochs. Custom callbacks list theirs in `state_attributes`.
_STATE_ATTRIBUTES = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
}


class Interrupted(KeyboardInterrupt):
    """Raised when a signal stops a training. The state file, if any, contains the last saved state.

    Attributes:
        signal: `signal.SIGINT` or `signal.SIGTERM`.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class NonFiniteLossError(ArithmeticError):
    """Raised when the loss or a weight becomes infinite or NaN.

    Attributes:
        epoch: counted from 0, epoch in which the value was detected.
        batch: counted from 0, batch in which the value was detected.
        track_ids: the tracks of this batch; empty if the data has no track ids.
    """

    def __init__(self, what: str, epoch: int, batch: int, track_ids: list[int]):
        tracks = f", with the tracks {', '.join(map(str, track_ids))}" if track_ids else ""
        super().__init__(
            f"{what} in epoch {epoch + 1}, batch {batch + 1}{tracks}. Files that were saved earlier are kept. Use a "
            "smaller learning rate or clipped gradients (`global_clipnorm`). If a single track is the cause, remove it."
        )
        self.epoch, self.batch, self.track_ids = epoch, batch, track_ids


def fit(
    model: keras.Model,
    data: Batches,
    epochs: int,
    state: StrPath | None = None,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = (),
    every_seconds: float = 60.0,
    initial_epoch: int = 0,
    verbose: Literal["auto", 0, 1, 2] = "auto",
) -> keras.callbacks.History:
    """Train a model as `model.fit` does, and resume an interrupted run.

    To resume a run, call this function again with the same arguments. This may be in a later process. The state of a
    run contains:

    - the weights, the optimizer and the states of random layers;
    - the epoch, the position in the data, the history and the metrics of an unfinished epoch;
    - the values that these callbacks keep between epochs: `BestCheckpoint`, `WandbLogger`, and Keras' `EarlyStopping`
      and `ReduceLROnPlateau`. Custom callbacks list the names of such attributes in an attribute `state_attributes`.

    The state is saved at the end of each epoch and, within an epoch, every `every_seconds`. Saving within epochs takes
    at most a twentieth of the time, unless `every_seconds` is 0. The file is replaced atomically. If the file cannot be
    written, a warning is issued and training continues.

    After SIGINT (Ctrl-C) or SIGTERM, the state is saved at the end of the current batch, and `Interrupted` is raised. A
    second signal has its usual effect at once. After a signal during validation, no state is saved, and the file
    contains an earlier state.

    A resumed run and an uninterrupted run have the same weights and history if seed, backend and machine are the same.
    On PyTorch they are equal bit for bit. The states of Python's and NumPy's random generators are not restored.

    A state belongs to one run. These must be the same to resume the run:

    - the config of the model (without `card`), its initial weights, its seeds and its compile config;
    - the data and its options (`data.fingerprint`), and the validation data;
    - `initial_epoch`, and the callbacks with their settings that change the training. Custom callbacks list the names
      of such settings in an attribute `compared_attributes`.

    These may change: `epochs` (a larger number continues a finished run), `every_seconds`, `verbose`, the files that
    callbacks write, the workers of the data, the backend and the device. Functions, such as a loss or a schedule, are
    compared by name only.

    Call `keras.utils.set_random_seed` before the model is created. On PyTorch, initial weights are not compared if
    neither process has set a seed. On JAX and TensorFlow, a run without a seed cannot be resumed in another process.

    Args:
        model: compiled model, such as a `GenreClassifier` or its `image_model`. To resume a run, pass a model
            that is built as for the first call, or the model of the interrupted call.
        data: batches of the training split.
        epochs: total number of epochs, including the epochs before an interruption.
        state: path of the state file, ends in .npz. Delete the file after the model is saved. With `None`, no state is
            saved and signals are not handled. If several processes train together, only the first one writes the file.
        validation_data: as in `keras.Model.fit`.
        callbacks: as in `keras.Model.fit`.
        every_seconds: `>= 0`, in s, time between two saved states within an epoch. With 0, the state is saved after
            each batch.
        initial_epoch: as in `keras.Model.fit`.
        verbose: as in `keras.Model.fit`.

    Returns:
        History of all epochs.

    Raises:
        Interrupted: a signal was received.
        NonFiniteLossError: the loss or a weight became infinite or NaN. No state is saved after that.
        ValueError: `state` cannot be read or belongs to another run. The message contains the differences.
    """
    training = _TrainingState(state, data, keras.tree.flatten(callbacks or []), every_seconds, initial_epoch)
    training.read(model, validation_data)
    with training.handle_signals():
        while not training.is_done(epochs):
            if training.batch:  # An interrupted epoch is finished by a fit on the rest of its batches.
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
    """Save the state of a training and restore it. This must be the last callback.

    Attributes:
        callbacks: list, the callbacks before this one.
        first_epoch: int, the epoch in which the training began.
        epoch: int, the current epoch.
        batch: int, number of batches of the current epoch that are done.
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
                    "`EarlyStopping(restore_best_weights=True)` cannot be resumed, because its best weights are only "
                    "in memory. Omit `restore_best_weights`, and add `BestCheckpoint`."
                )
        self.data, self.callbacks, self.every_seconds = data, callbacks, every_seconds
        self.first_epoch, self.epoch, self.batch = initial_epoch, initial_epoch, 0
        self.history, self.stopped = {}, False
        self._first_batch = 0  # number of batches of the current epoch that an earlier `model.fit` has done
        self._arrays_to_restore, self._callback_values_to_restore = None, None
        self._signal = None  # number of the received signal
        self._saved_at, self._save_seconds = time.monotonic(), 0.0

    def read(self, model, validation_data):
        """Describe the run. If the file exists, read it and check that it belongs to the run."""
        if self.path is None:
            return
        callbacks = [(callback, _state_attributes(callback)) for callback in self.callbacks]
        self._run = identity.describe_run(model, self.data, validation_data, callbacks, self.first_epoch)
        if not os.path.exists(self.path):
            return
        try:
            arrays = read_arrays(self.path)
            about = json.loads(arrays["about"].tobytes())
            self._arrays_to_restore = {
                part: [arrays[f"{part}{i}"] for i in range(count)] for part, count in about["arrays"].items()
            }
            run, self._callback_values_to_restore = about["run"], about["callbacks"]
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
        changed_by_training = re.compile(r"initial_weights\.\d+|compile\.optimizer\..*learning_rate")
        if not differences or (all(map(changed_by_training.fullmatch, differences)) and self._equals_saved(model)):
            return
        first = [f"{name} was {old!r:.60}, now {new!r:.60}" for name, (old, new) in list(differences.items())[:5]]
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(
            f"`state` must belong to this run. Received: state={self.path!r} of another run: {'; '.join(first)}{more}. "
            "To resume that run, pass its arguments. To start a new run, delete the file or choose another one."
        )

    def _equals_saved(self, model):
        """Return whether model and optimizer have the saved values. The model of an interrupted call has them."""
        variables, saved = _variables(model), self._arrays_to_restore
        return all(
            len(variables[part]) == len(saved[part])
            and all(map(np.array_equal, map(keras.ops.convert_to_numpy, variables[part]), saved[part]))
            for part in ("model", "optimizer")
        )

    def is_done(self, epochs):
        return self.stopped or self.epoch >= epochs

    @contextlib.contextmanager
    def handle_signals(self):
        """Context manager: record the first SIGINT or SIGTERM instead of ending the process."""
        if self.path is None or threading.current_thread() is not threading.main_thread():
            yield  # Only the main thread can set signal handlers.
            return
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # A signal that the process ignores stays ignored.
        handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

        def restore_handlers():
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def record(number, frame):
            self._signal = number
            restore_handlers()

        for number in handlers:
            signal.signal(number, record)
        try:
            yield
        finally:
            restore_handlers()

    def restore_finished(self, model):
        """Restore the model if the training in the file is finished."""
        if self._arrays_to_restore is not None:
            self.set_model(model)
            self._restore_variables("model", "optimizer")
            model.optimizer.finalize_variable_values(model.trainable_variables)

    def on_train_begin(self, logs=None):
        self._first_batch = self.batch
        if self._arrays_to_restore is not None:
            self._restore_callbacks()  # Some callbacks have reset their attributes in `on_train_begin`.
            self._restore_variables("model", "optimizer")

    def on_epoch_begin(self, epoch, logs=None):
        if self._arrays_to_restore is not None and self.batch:
            if len(self.model.metrics_variables) < len(self._arrays_to_restore["metrics"]):
                self.model.test_on_batch(*self.data[0])  # On TensorFlow, the first batch creates the metrics.
            self._restore_variables("metrics")
        elif self._arrays_to_restore is not None:
            self._restore_random_states()

    def on_train_batch_begin(self, batch, logs=None):
        if self._arrays_to_restore is not None:
            # Before this, on PyTorch, the start of the iteration has drawn a random number.
            self._restore_random_states()

    def on_train_batch_end(self, batch, logs=None):
        self.batch = self._first_batch + batch + 1
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            self._raise_non_finite("The loss is not finite")
        if self.path is None or self.batch == len(self.data):
            return  # After the last batch, `on_epoch_end` saves the state and handles signals.
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
            # This `model.fit` ends after this epoch. At its end, an optimizer with a moving average replaces the
            # weights. Therefore the next `model.fit` must restore the weights.
            self._arrays_to_restore = {part: [np.array(value) for value in values] for part, values in arrays.items()}
            self._callback_values_to_restore = self._capture_callbacks()
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
        """Assign the values in `_arrays_to_restore` to the variables of the parts."""
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        for part in parts:
            variables, values = _variables(self.model)[part], self._arrays_to_restore[part]
            if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
                raise ValueError(
                    f"`state` must belong to this model, but its {part} variables have other shapes. "
                    f"Received: state={self.path!r}. To start a new run, delete the file or choose another one."
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _restore_random_states(self):
        """Restore the states of the random generators. This is the last step of a restoration."""
        if keras.backend.backend() == "torch":
            _set_random_states_of_torch(self._arrays_to_restore["random"])
        self._arrays_to_restore = None

    def _save(self, arrays=None):
        """Write `arrays`, by default the current values, to the file. Warn if the file cannot be written."""
        if not is_first_process():
            return
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
        """Return (callback, names of its state attributes) for each callback with state attributes."""
        pairs = [(callback, _state_attributes(callback)) for callback in self.callbacks]
        return [(callback, names) for callback, names in pairs if names]

    def _capture_callbacks(self):
        """Return the values of the state attributes: one dict for each callback with state attributes."""
        return [{name: getattr(callback, name) for name in names} for callback, names in self._stateful_callbacks()]

    def _restore_callbacks(self):
        for (callback, names), values in zip(self._stateful_callbacks(), self._callback_values_to_restore, strict=True):
            for name in names:
                setattr(callback, name, values[name])


def _variables(model):
    return {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}


def _random_states_of_torch():
    """Return the states of PyTorch's global random generators: CPU, then each GPU."""
    import torch

    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy() for state in (torch.get_rng_state(), *devices)]


def _set_random_states_of_torch(states):
    """Restore the states that `_random_states_of_torch` returned. A state from another backend has no such states."""
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
