"""Callbacks: step decay of the learning rate, checkpoint of the best epoch, and logging to Weights & Biases."""

import math
import netrc
import os
import urllib.parse
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.process import is_first_process, without_distribution


class StepDecay(keras.callbacks.LearningRateScheduler):
    """Multiply the learning rate by a factor every few epochs.

    The learning rate is `initial_learning_rate * factor ** (epoch // every)`. It depends on the epoch only, so resumed
    training continues with the correct learning rate.

    Args:
        initial_learning_rate: `> 0`, learning rate of the first epoch.
        factor: in (0, 1], factor of the learning rate.
        every: `> 0`, in epochs, number of epochs with the same learning rate.
        verbose: 1 prints the learning rate of each epoch.

    Raises:
        ValueError: an argument is out of range.
    """

    compared_attributes = ("initial_learning_rate", "factor", "every")  # used by `genrekeras.training.fit`

    def __init__(self, initial_learning_rate: float, factor: float = 0.1, every: int = 10, verbose: int = 0):
        if not initial_learning_rate > 0:
            raise ValueError(
                f"`initial_learning_rate` must be > 0. Received: initial_learning_rate={initial_learning_rate}"
            )
        if not 0 < factor <= 1:
            raise ValueError(f"`factor` must lie in (0, 1]. Received: factor={factor}")
        if int(every) != every or every <= 0:
            raise ValueError(f"`every` must be a positive integer, a number of epochs. Received: every={every}")
        super().__init__(self.rate, verbose)
        self.initial_learning_rate = initial_learning_rate
        self.factor = factor
        self.every = every

    def rate(self, epoch: int, learning_rate: float | None = None) -> float:
        """Return the learning rate of an epoch, counted from 0. The current `learning_rate` is not used."""
        return float(self.initial_learning_rate * self.factor ** (epoch // self.every))


class BestCheckpoint(keras.callbacks.Callback):
    """Save the model after each epoch that is better than all epochs before it.

    A new file is written under a temporary name and then renamed, so the previous file is kept until the new file is
    complete. (`keras.callbacks.ModelCheckpoint` overwrites the previous file.) If the file cannot be written, a warning
    is issued and training continues. If no epoch runs, no file is written. If several processes train together, only
    the first one writes the file.

    Args:
        path: path of the file, ends in `.keras`.
        monitor: name of the metric to compare. The metric is read from the logs of each epoch.
        mode: `None` is `"min"` if `monitor` ends in "loss" or "error", and `"max"` otherwise.
        model: the model to save; `None` for the trained model. Set it if the trained model is only a part of the model
            to save, such as the head of a `GenreClassifier`.

    Attributes:
        best: the best value of the metric so far; `None` before the first value.
        best_epoch: epoch of `best`, counted from 0.

    Raises:
        ValueError: an argument is invalid. Also raised at the end of training if `monitor` was in the logs of no epoch.
            The model of the last epoch is saved in this case.
    """

    compared_attributes = ("monitor", "mode")  # used by `genrekeras.training.fit`
    state_attributes = ("best", "best_epoch")  # used by `genrekeras.training.fit`

    def __init__(
        self,
        path: StrPath,
        monitor: str = "val_accuracy",
        mode: Literal["max", "min"] | None = None,
        model: keras.Model | None = None,
    ):
        super().__init__()
        path = os.fspath(path)
        if not path.endswith(".keras"):
            raise ValueError(f"`path` must end in .keras. Received: path={path!r}")
        if mode not in ("max", "min", None):
            raise ValueError(f'`mode` must be "max", "min" or None. Received: mode={mode!r}')
        self.path = path
        self.monitor = monitor
        self._model_to_save = model
        self.mode = mode or ("min" if monitor.endswith(("loss", "error")) else "max")
        self.best: float | None = None
        self.best_epoch: int | None = None
        # None before the first epoch. Then True if `monitor` was in the logs of any epoch, and else False.
        self._is_monitor_logged: bool | None = None

    def on_train_begin(self, logs=None):
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        self._is_monitor_logged = None

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            self._is_monitor_logged = self._is_monitor_logged or False
            return  # an epoch without validation has no validation metrics
        self._is_monitor_logged = True
        if self.best is not None and is_first_process() and not os.path.exists(self.path):
            warnings.warn(
                f"{self.path} does not exist any more. Only this epoch and later epochs are compared.", stacklevel=2
            )
            self.best = self.best_epoch = None
        value = float(logs[self.monitor])
        if math.isnan(value) or (self.best is not None and not self._is_better(value)):
            return
        if self._save():
            self.best, self.best_epoch = value, epoch

    def on_train_end(self, logs=None):
        if self._is_monitor_logged is False:
            self._save()
            raise ValueError(
                f"`monitor` must be one of {sorted(logs or {})}. The model of the last epoch was saved instead of the "
                f"best one. Received: monitor={self.monitor!r}"
            )

    def _is_better(self, value):
        return value > self.best if self.mode == "max" else value < self.best

    def _save(self):
        if not is_first_process():
            return True
        try:
            with atomic_write(self.path) as temporary, without_distribution():
                (self._model_to_save or self.model).save(temporary)
        except OSError as error:
            warnings.warn(f"The model could not be saved as {self.path}: {error}. Training continues.", stacklevel=2)
            return False
        return True


# W&B may delay the start of training and its end by at most these times, in seconds.
_TIMEOUTS = {"init_timeout": 5, "finish_timeout": 5, "finish_timeout_raises": False}
# By default, W&B uploads the names of host, user and script, the command-line arguments, the installed packages, the
# state of git and data about the hardware. These settings disable that.
_NO_METADATA = {
    **dict.fromkeys(("x_disable_meta", "x_disable_stats", "x_disable_machine_info"), True),
    **dict.fromkeys(("disable_git", "disable_code", "disable_job_creation"), True),
    **dict.fromkeys(("x_save_requirements", "save_code"), False),
    **dict.fromkeys(("host", "username", "email", "program"), ""),
}


class WandbLogger(keras.callbacks.Callback):
    """Log a run to Weights & Biases: config, metrics of each epoch, learning rate, and confusion matrix.

    The run is uploaded if the environment variable WANDB_API_KEY or the netrc file contains a key, and WANDB_MODE is
    neither "offline" nor "disabled". Otherwise the run is logged offline, and `wandb sync` can upload it from `folder`.
    The user is never prompted for a key. If the server does not answer within 5 s, the run is logged offline too.
    Closing a run takes at most 5 s. Only the config and the logged values are uploaded. Data about the machine, the
    script and the environment is not uploaded.

    This callback sets no environment variable. A program can turn off W&B's messages and error reports with
    `genrekeras.utils.process.quiet_wandb`. W&B's own Keras callbacks are not used because they import TensorFlow.

    Args:
        project: name of the W&B project.
        config: configuration of the run.
        name: name of the run; `None` for a random name.
        folder: folder of the run. The files of the run are written into its subfolder `wandb`.

    Attributes:
        run: the W&B run; `None` before `start` and after `finish`.
        run_id: id of the run. If `run_id` is set before `start`, the run with this id is resumed.
    """

    state_attributes = ("run_id",)  # used by `genrekeras.training.fit`

    def __init__(
        self,
        project: str = "genrekeras",
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        folder: StrPath = ".",
    ):
        super().__init__()
        self.project = project
        self.config = dict(config or {})
        self.name = name
        self.folder = os.fspath(folder)
        self.run: Any = None
        self.run_id: str | None = None

    def start(self) -> None:
        """Start the run if it is not started yet."""
        if self.run is None:
            import wandb

            def init(mode):
                settings = wandb.Settings(silent=True, console="off", **_TIMEOUTS, **_NO_METADATA)
                return wandb.init(
                    project=self.project,
                    config=self.config,
                    name=self.name,
                    dir=self.folder,
                    mode=mode,
                    settings=settings,
                    id=self.run_id,
                    resume="allow" if self.run_id else None,
                )

            try:
                self.run = init(_wandb_mode())
            except wandb.Error as error:
                warnings.warn(f"W&B cannot be reached ({error}). The run is logged offline.", stacklevel=2)
                self.run = init("offline")
            self.run_id = self.run.id

    def on_train_begin(self, logs=None):
        self.start()

    def on_epoch_end(self, epoch, logs=None):
        metrics = {key: np.asarray(value).tolist() for key, value in (logs or {}).items()}
        metrics.setdefault("learning_rate", float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.run.log({"epoch": epoch + 1, **metrics})

    def log_report(self, report: Any) -> None:
        """Log the scores of a report of `genrekeras.evaluation`, and the confusion matrix of a single-label report."""
        import wandb

        self.start()
        values = {report.SCORE: report.score, "macro_f1": report.macro_f1, "log_loss": report.log_loss}
        if report.TABLE == "confusion_matrix":
            values["confusion_matrix"] = wandb.plot.confusion_matrix(
                y_true=np.asarray(report.labels).tolist(),
                preds=np.asarray(report.predictions).tolist(),
                class_names=list(report.genres),
            )
        self.run.log({f"{report.split}/{key}": value for key, value in values.items()})

    def finish(self) -> None:
        """Close the run. If this method is not called, W&B closes the run at the end of the program."""
        if self.run is not None:
            self.run.finish()
            self.run = None


def _wandb_mode():
    """Return the mode of the run: "online", "offline" or "disabled".

    WANDB_MODE is used if its value is "offline" or "disabled". Otherwise the mode is "online" if there is a key.
    Without a key the mode is "offline", because W&B would prompt for a key in the mode "online".
    """
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _netrc_has_key() else "offline"


def _netrc_has_key():
    """Return whether the netrc file contains a key for the W&B server."""
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
