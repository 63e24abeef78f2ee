"""Callbacks: the learning rate in steps, the best model kept, the run logged."""

import math
import netrc
import os
import urllib.parse
import warnings

import keras
import numpy as np
from genrekeras.utils.io import atomic_write


class StepDecay(keras.callbacks.LearningRateScheduler):
    """Multiplies the learning rate by `factor` every `every` epochs; the optimizer keeps its state.

    A pure function of the epoch, `initial_learning_rate * factor ** (epoch // every)`: a run that is resumed goes on
    with the rate that it had.

    Args:
        initial_learning_rate: float > 0, of the first epoch.
        factor: float in (0, 1].
        every: int > 0, in epochs.
        verbose: int, 1 says each epoch's rate.
    """

    compared_attributes = ("initial_learning_rate", "factor", "every")  # by `genrekeras.training.fit`

    def __init__(self, initial_learning_rate, factor=0.1, every=10, verbose=0):
        if not initial_learning_rate > 0:
            raise ValueError(
                f"`initial_learning_rate` must be > 0. Received: initial_learning_rate={initial_learning_rate}"
            )
        if not 0 < factor <= 1:
            raise ValueError(f"`factor` must lie in (0, 1]. Received: factor={factor}")
        if int(every) != every or every <= 0:
            raise ValueError(f"`every` must be a positive integer, in epochs. Received: every={every}")
        super().__init__(self.rate, verbose)
        self.initial_learning_rate = initial_learning_rate
        self.factor = factor
        self.every = every

    def rate(self, epoch, learning_rate=None):
        """The rate of an epoch (from 0); the rate so far does not matter."""
        return float(self.initial_learning_rate * self.factor ** (epoch // self.every))


class BestCheckpoint(keras.callbacks.Callback):
    """Save the model after each epoch that is better than all epochs before it.

    The file is written under a temporary name and then moved, so that the previous file stays until the new one is
    complete. (`keras.callbacks.ModelCheckpoint` overwrites the previous file.) If it cannot be written, a warning is
    given and training continues. If no epoch runs, nothing is written.

    Args:
        path: str or path-like, ends in `.keras`.
        monitor: str, name of the metric to compare, from the logs of the epoch.
        mode: `"max"` or `"min"`; `None` is "min" for a loss or an error and "max" for all others.
        model: the model to save if the trained model is only a part of it, such as the head of a `GenreClassifier`.

    Attributes:
        best: float, the best value so far; `None` before the first.
        best_epoch: int, epoch of `best`, counted from 0.

    Raises:
        ValueError: at the end of training, if epochs ran and none had `monitor` in its logs. The last epoch is saved.
    """

    compared_attributes = ("monitor", "mode")  # by `genrekeras.training.fit`
    state_attributes = ("best", "best_epoch")  # by `genrekeras.training.fit`

    def __init__(self, path, monitor="val_accuracy", mode=None, model=None):
        super().__init__()
        path = os.fspath(path)
        if not path.endswith(".keras"):
            raise ValueError(f"`path` must end in .keras. Received: path={path!r}")
        if mode not in ("max", "min", None):
            raise ValueError(f'`mode` must be "max", "min" or None. Received: mode={mode!r}')
        self.path = path
        self.monitor = monitor
        self._whole_model = model
        self.mode = mode or ("min" if monitor.endswith(("loss", "error")) else "max")
        self.best = None
        self.best_epoch = None
        self._seen = None  # whether `monitor` was in the logs of an epoch; None before the first epoch

    def on_train_begin(self, logs=None):
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        self._seen = None

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            self._seen = self._seen or False
            return  # there may be epochs without validation
        self._seen = True
        if self.best is not None and not os.path.exists(self.path):
            warnings.warn(f"{self.path} is gone: what follows is compared with what follows only.", stacklevel=2)
            self.best = self.best_epoch = None
        value = float(logs[self.monitor])
        if math.isnan(value) or (self.best is not None and not self._is_better(value)):
            return
        if self._save():
            self.best, self.best_epoch = value, epoch

    def on_train_end(self, logs=None):
        if self._seen is False:
            self._save()  # so that the training is not lost
            raise ValueError(
                f"`monitor` must be one of {sorted(logs or {})}; the last epoch was saved instead of the best. "
                f"Received: monitor={self.monitor!r}"
            )

    def _is_better(self, value):
        return value > self.best if self.mode == "max" else value < self.best

    def _save(self):
        try:
            with atomic_write(self.path) as temporary:
                (self._whole_model or self.model).save(temporary)
        except OSError as error:
            warnings.warn(f"The model could not be saved as {self.path}: {error}. Training goes on.", stacklevel=2)
            return False
        return True


# In seconds: how long W&B may keep a training waiting as it begins and as it ends.
_BOUNDS = {"init_timeout": 5, "finish_timeout": 5, "finish_timeout_raises": False}
# W&B would send names of the host, the user, the script and its arguments, packages, git's state and the hardware.
_NOTHING_OF_THE_MACHINE = {
    **dict.fromkeys(("x_disable_meta", "x_disable_stats", "x_disable_machine_info"), True),
    **dict.fromkeys(("disable_git", "disable_code", "disable_job_creation"), True),
    **dict.fromkeys(("x_save_requirements", "save_code"), False),
    **dict.fromkeys(("host", "username", "email", "program"), ""),
}


class WandbLogger(keras.callbacks.Callback):
    """Logs a run to Weights & Biases: config, each epoch's figures, the learning rate, a confusion matrix.

    Online where the environment sets WANDB_API_KEY or the netrc file has a key, and WANDB_MODE does not say otherwise;
    else offline, into `folder`, from where `wandb sync` uploads it. It never asks, and goes on offline if the
    server does not answer within 5 s; as the run is closed it waits 5 s at the most. Only the config and what is logged
    are sent: nothing of the machine, the script or the environment.

    wandb's own Keras callbacks import TensorFlow.

    Args:
        project: str.
        config: dict, what to remember of the run.
        name: str, of the run, or `None` for one that wandb makes up.
        folder: str or path-like, where the run's files go, in a folder `wandb`.

    Attributes:
        run: the wandb run, from the first use on.
        run_id: str, its id; a run that has one when it starts goes on with it.
    """

    state_attributes = ("run_id",)

    def __init__(self, project="genrekeras", config=None, name=None, folder="."):
        super().__init__()
        self.project = project
        self.config = dict(config or {})
        self.name = name
        self.folder = os.fspath(folder)
        self.run = None
        self.run_id = None

    def start(self):
        """Open the run, if it is not open."""
        if self.run is None:
            import wandb

            def init(mode):
                settings = wandb.Settings(silent=True, console="off", **_BOUNDS, **_NOTHING_OF_THE_MACHINE)
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
                warnings.warn(f"W&B cannot be reached, the run is logged offline: {error}", stacklevel=2)
                self.run = init("offline")
            self.run_id = self.run.id

    def on_train_begin(self, logs=None):
        self.start()

    def on_epoch_end(self, epoch, logs=None):
        figures = {key: np.asarray(value).tolist() for key, value in (logs or {}).items()}
        figures.setdefault("learning_rate", float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.run.log({"epoch": epoch + 1, **figures})

    def log_report(self, report):
        """Log a `genrekeras.evaluation.Report`: its figures and its confusion matrix.

        Args:
            report: `Report`.
        """
        import wandb

        self.start()
        prefix = report.split
        figures = {"accuracy": report.accuracy, "macro_f1": report.macro_f1, "log_loss": report.log_loss}
        self.run.log(
            {
                **{f"{prefix}/{key}": value for key, value in figures.items()},
                f"{prefix}/confusion_matrix": wandb.plot.confusion_matrix(
                    y_true=np.asarray(report.labels).tolist(),
                    preds=np.asarray(report.predictions).tolist(),
                    class_names=list(report.genres),
                ),
            }
        )

    def finish(self):
        """Close the run; wandb does it when the program ends if nobody calls this."""
        if self.run is not None:
            self.run.finish()
            self.run = None


def _wandb_mode():
    """Offline or disabled as WANDB_MODE says; else online if a key is there: without one, wandb would ask for it."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _netrc_has_key() else "offline"


def _netrc_has_key():
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
