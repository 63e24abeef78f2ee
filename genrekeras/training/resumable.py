"""Training that may be broken off at any moment, and goes on as if it had not been."""

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

# What those of Keras know of the epochs before; a callback of one's own says it by an attribute `state_attributes`.
_REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
}


class Interrupted(KeyboardInterrupt):
    """A signal stopped a training, whose state is saved.

    Attributes:
        signal: int, `signal.SIGINT` or `signal.SIGTERM`.
    """

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class NonFiniteLossError(ArithmeticError):
    """The loss, or a weight, is no longer a finite number.

    Attributes:
        epoch, batch: int, from 0, where that was seen.
        track_ids: list of int, the tracks of that batch; empty if the data does not tell.
    """

    def __init__(self, what, epoch, batch, track_ids):
        tracks = f", with the tracks {', '.join(map(str, track_ids))}" if track_ids else ""
        super().__init__(
            f"{what} in epoch {epoch + 1}, batch {batch + 1}{tracks}. What was saved before stays. A smaller learning "
            "rate, or clipped gradients (`global_clipnorm`), may help; of a single clip, so would leaving it out."
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

    Call it again with the same arguments, in a later process, to resume. The state holds weights, optimizer, epoch,
    position in the data, states of random layers, the history, the metrics of an epoch that has begun, and what
    callbacks keep from epoch to epoch (`BestCheckpoint`, `WandbLogger`, Keras' `EarlyStopping` and
    `ReduceLROnPlateau`; other callbacks list the names of such attributes in an attribute `state_attributes`). It is saved
    when an epoch ends and, within an epoch, every `every_seconds`. Unless that is 0, saving within epochs takes at most
    a twentieth of the time. The file is replaced atomically. If it cannot be written, a warning is given and training
    continues.

    SIGINT (Ctrl-C) and SIGTERM save the state after the current batch and raise `Interrupted`. A second signal has its
    usual effect at once. A signal during validation saves nothing; the file then holds an earlier state.

    With the same seed, backend and machine, the weights and the history of a resumed run equal those of an
    uninterrupted run, bit for bit on PyTorch. (The states of Python's and NumPy's generators are not restored.)

    A state belongs to one run. These must be equal to resume it: the config of the model (without `card`), its initial
    weights and seeds, its compile config, the data and its options (`data.fingerprint`), the validation data, the
    callbacks with the settings that change the training, and `initial_epoch`. Callbacks of your own list the names of
    such settings in an attribute `compared`. These may change: `epochs` (a larger number continues a finished run),
    `every_seconds`, `verbose`, the files that callbacks write, the workers of the data, the backend and the device.
    Functions, such as a loss or a schedule, are compared by name only.

    Call `keras.utils.set_random_seed` before the model is made. On PyTorch, initial weights are not compared if
    neither process set a seed. On JAX and TensorFlow, a run without a seed cannot be resumed in another process.

    Args:
        model: compiled `keras.Model`, such as a `GenreClassifier` or its `image_model`, built as for the first call,
            or as the interrupted call left it.
        data: `genrekeras.datasets.Batches`.
        epochs: int, the total number, including those before an interruption.
        state: str or path-like, ends in .npz: the file of the state. Delete it once the model is saved. `None` keeps
            no state and leaves signals alone.
        validation_data, callbacks, initial_epoch, verbose: as in `keras.Model.fit`.
        every_seconds: float >= 0; 0 saves after each batch.

    Returns:
        `keras.callbacks.History` of all epochs.

    Raises:
        Interrupted: a signal arrived.
        NonFiniteLossError: the loss or a weight became infinite or NaN. Nothing is saved after that.
        ValueError: `state` belongs to another run (the message names what differs), or cannot be read.
    """
    keeper = _TrainingState(state, data, keras.tree.flatten(callbacks or []), every_seconds, initial_epoch)
    keeper.begin(model, validation_data)
    with keeper.listen():
        while not keeper.is_done(epochs):
            part, until = (data.rest(keeper.epoch, keeper.batch), keeper.epoch + 1) if keeper.batch else (data, epochs)
            options = part.fit_options(keeper.others)
            if isinstance(validation_data, Batches):
                options = validation_data.fit_options(options["callbacks"])
            model.fit(
                part,
                initial_epoch=keeper.epoch,
                epochs=until,
                validation_data=validation_data,
                callbacks=[*options["callbacks"], keeper],
                shuffle=False,
                verbose=verbose,
            )
    keeper.restore(model)
    history = keras.callbacks.History()
    history.set_model(model)
    history.epoch, history.history = list(range(keeper.first_epoch, keeper.epoch)), keeper.history
    return history


class _TrainingState(keras.callbacks.Callback):
    """Keeps the state of a training, and brings it back; the last of its callbacks.

    Attributes:
        others: list, the callbacks before it.
        first_epoch, epoch, batch: int, where the training began and where it is: so many batches of the epoch are done.
        history: dict, key -> list, a value an epoch.
        stopped: bool, a callback ended the training.
    """

    _SAVED = ("first_epoch", "epoch", "batch", "history", "stopped")

    def __init__(self, path, data, others, every_seconds, initial_epoch):
        super().__init__()
        self.path = None if path is None else os.fspath(path)
        if self.path is not None and not self.path.endswith(".npz"):
            raise ValueError(f"`state` must end in .npz. Received: state={self.path!r}")
        if not every_seconds >= 0:
            raise ValueError(f"`every_seconds` must be >= 0. Received: every_seconds={every_seconds}")
        for other in others if self.path else ():
            if isinstance(other, keras.callbacks.EarlyStopping) and other.restore_best_weights:
                raise ValueError(
                    "`EarlyStopping(restore_best_weights=True)` keeps weights that a later process does not have: "
                    "leave that out, and add `BestCheckpoint`."
                )
        self.data, self.others, self.every_seconds = data, others, every_seconds
        self.first_epoch, self.epoch, self.batch = initial_epoch, initial_epoch, 0
        self.history, self.stopped = {}, False
        self._behind = 0  # how many batches of its first epoch were done before `fit` began
        self._arrays, self._known = None, None  # to be brought back
        self._heard = None  # a signal
        self._saved_at, self._cost = time.monotonic(), 0.0

    def begin(self, model, validation_data):
        """Describe the run, and read the file if it exists."""
        if self.path is None:
            return
        callbacks = [(other, _remembered(other)) for other in self.others]
        self._run = identity.of_run(model, self.data, validation_data, callbacks, self.first_epoch)
        if not os.path.exists(self.path):
            return
        try:
            arrays = read_arrays(self.path)
            about = json.loads(arrays["about"].tobytes())
            self._arrays = {
                part: [arrays[f"{part}{i}"] for i in range(count)] for part, count in about["arrays"].items()
            }
            run, self._known = about["run"], about["callbacks"]
            for name in self._SAVED:
                setattr(self, name, about[name])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`state` cannot be read ({error}); delete it to start anew: {self.path}") from error
        self._check(run, model)
        self._run = run
        self._remind()

    def _check(self, run, model):
        differences = identity.differences(run, self._run)
        trained = re.compile(r"initial_weights\.\d+|compile\.optimizer\..*learning_rate")  # training changes these
        if not differences or (all(map(trained.fullmatch, differences)) and self._is_as_saved(model)):
            return
        some = [f"{name} was {old!r:.60}, now {new!r:.60}" for name, (old, new) in list(differences.items())[:5]]
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ValueError(
            f"`state` must belong to this run. Received: state={self.path!r} of another run: {'; '.join(some)}{more}. "
            "Pass the arguments of that run to resume it; delete the file, or name another one, to start anew."
        )

    def _is_as_saved(self, model):
        """Return whether the model has not changed since the file was written, as after an interruption."""
        variables = _variables(model)
        return all(
            len(variables[part]) == len(self._arrays[part])
            and all(map(np.array_equal, map(keras.ops.convert_to_numpy, variables[part]), self._arrays[part]))
            for part in ("model", "optimizer")
        )

    def is_done(self, epochs):
        return self.stopped or self.epoch >= epochs

    @contextlib.contextmanager
    def listen(self):
        """Note the first signal instead of dying of it."""
        if self.path is None or threading.current_thread() is not threading.main_thread():
            yield  # Python lets only the main thread do this
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # as by nohup

        def give_back():
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number, frame):
            self._heard = number
            give_back()

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            give_back()

    def restore(self, model):
        """Put what was read into the model of a training that needs no more epochs."""
        if self._arrays is not None:
            self.set_model(model)
            self._bring_back("model", "optimizer")
            model.optimizer.finalize_variable_values(model.trainable_variables)

    def on_train_begin(self, logs=None):
        self._behind = self.batch
        if self._arrays is not None:
            self._remind()  # again: some forget as training begins
            self._bring_back("model", "optimizer")

    def on_epoch_begin(self, epoch, logs=None):
        if self._arrays is not None and self.batch:
            if len(self.model.metrics_variables) < len(self._arrays["metrics"]):
                self.model.test_on_batch(*self.data[0])  # TensorFlow makes them as it goes
            self._bring_back("metrics")
        elif self._arrays is not None:
            self._bring_back_random()

    def on_train_batch_begin(self, batch, logs=None):
        if self._arrays is not None:
            self._bring_back_random()  # only now: torch draws as it begins to read data

    def on_train_batch_end(self, batch, logs=None):
        self.batch = self._behind + batch + 1
        if not math.isfinite(float((logs or {}).get("loss", 0.0))):
            self._fail("The loss is not finite")
        if self.path is None or self.batch == len(self.data):
            return  # the epoch's validation comes first
        seconds = time.monotonic() - self._saved_at
        if self._heard or (seconds >= self.every_seconds and (not self.every_seconds or seconds > 20 * self._cost)):
            self._save()
        self._obey()

    def on_test_batch_end(self, batch, logs=None):
        self._obey()

    def on_epoch_end(self, epoch, logs=None):
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        self.stopped = bool(self.model.stop_training)
        arrays = self._capture() if self.path else None
        behind, self._behind, self.batch, self.epoch = self._behind, 0, 0, epoch + 1
        if self.path:
            self._save(arrays)
        if behind:  # `fit` ends here, and if there is a moving average of the weights it puts that in their place
            self._arrays = {part: [np.array(value) for value in values] for part, values in arrays.items()}
            self._known = self._knowledge()
        self._obey()

    def _capture(self):
        """The values of all variables."""
        arrays = {
            part: [keras.ops.convert_to_numpy(variable) for variable in variables]
            for part, variables in _variables(self.model).items()
        }
        arrays["random"] = _random_states_of_torch() if keras.backend.backend() == "torch" else []
        for array in arrays["model"] + arrays["optimizer"]:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self._fail("A weight is not finite")
        return arrays

    def _bring_back(self, *parts):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        for part in parts:
            variables, values = _variables(self.model)[part], self._arrays[part]
            if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
                raise ValueError(
                    f"`state` must belong to this model; the shapes of its {part} variables differ. "
                    f"Received: state={self.path!r}. Delete the file, or name another one, to start anew."
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _bring_back_random(self):
        if keras.backend.backend() == "torch":
            _set_random_states_of_torch(self._arrays["random"])
        self._arrays = None

    def _save(self, arrays=None):
        began = time.monotonic()
        arrays = arrays or self._capture()
        about = {name: getattr(self, name) for name in self._SAVED}
        about |= {"run": self._run, "callbacks": self._knowledge()}
        about["arrays"] = {part: len(values) for part, values in arrays.items()}
        content = {f"{part}{i}": value for part, values in arrays.items() for i, value in enumerate(values)}
        content["about"] = np.frombuffer(json.dumps(about).encode(), "uint8")
        try:
            with atomic_write(self.path) as temporary:
                np.savez(temporary, **content)
        except OSError as error:
            warnings.warn(f"The state could not be saved as {self.path}: {error}. Training goes on.", stacklevel=2)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    def _obey(self):
        if self._heard:
            raise Interrupted(self._heard)

    def _fail(self, what):
        raise NonFiniteLossError(what, self.epoch, self.batch - 1, self.data.track_ids(self.epoch, self.batch - 1))

    def _knowledge(self):
        return [{name: getattr(other, name) for name in names} for other, names in self._remembering()]

    def _remind(self):
        for (other, names), row in zip(self._remembering(), self._known, strict=True):
            for name in names:
                setattr(other, name, row[name])

    def _remembering(self):
        """(callback, names of its attributes) of those that know of the epochs before."""
        return [(other, names) for other in self.others if (names := _remembered(other))]


def _variables(model):
    return {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}


def _random_states_of_torch():
    """Of the generators from which layers without a seed draw there, each device's."""
    import torch

    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy() for state in (torch.get_rng_state(), *devices)]


def _set_random_states_of_torch(states):
    import torch

    states = [torch.from_numpy(np.array(state)) for state in states]
    if states:  # a state that was saved on another backend has none
        torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])  # pragma: no cover - needs a GPU


def _remembered(callback):
    """Names of the attributes by which a callback knows of the epochs before."""
    for kind, names in _REMEMBERED.items():
        if isinstance(callback, kind):
            return list(names)
    return list(getattr(callback, "state_attributes", ()))
