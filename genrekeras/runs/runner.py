"""Run an experiment: read the flags, load the data, train and score a model, and write the output folder."""

import argparse
import contextlib
import csv
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import genrekeras as gk
import keras
import numpy as np
from genrekeras import visualization
from genrekeras.models import backbones
from genrekeras.runs import distribution, folds, options, scoring
from genrekeras.utils import process
from genrekeras.utils.io import TEMPORARY, atomic_write

BATCH_SIZE = 16
VARIANTS = 4  # augmented variants of each clip, if the backbone is frozen and features are cached
# Endings of the files of training states and of their best models, which a finished run removes
STATE, BEST = ".state.npz", ".best.keras"


def start(main: Callable[["Run"], None], doc: str | None, network: bool = True, spectrograms: bool = False) -> None:
    """Run an experiment. If the run is interrupted or fails, end the process with a message.

    If the run can be resumed, the message contains the command to resume it.

    Args:
        main: the experiment.
        doc: the docstring of the experiment. The flag --help prints it.
        network: whether the experiment has the flags of a neural network.
        spectrograms: whether the experiment accepts a file of spectrograms instead of audio.
    """
    signal.signal(signal.SIGTERM, _raise_interrupted)
    process.configure()
    flags = options.parse_flags(doc, network, spectrograms)
    with contextlib.ExitStack() as stack:
        if flags.distribute:
            _distribute(flags, stack)
        folder = stack.enter_context(options.folder_of_run(flags))
        command, run = _resume_command(folder), None
        try:
            run = Run(flags, folder, options.clip_seconds(flags))
            if flags.protocol == "artist_folds":
                folds.run_folds(main, run)
            else:
                run.load_data()
                main(run)
            run.finish()
            print(f"\nAll results are in {folder}. To view them, start with report.html.")
        except KeyboardInterrupt as error:
            number = getattr(error, "signal", signal.SIGINT)
            if run:
                with contextlib.suppress(OSError):  # Print the message below even if the disk is full.
                    run.save_config()
            print(f"\nStopped by {signal.Signals(number).name}. To resume: {command}", file=sys.stderr)
            raise SystemExit(128 + number) from None
        except gk.training.NonFiniteLossError as error:
            raise SystemExit(f"\nStopped: {error}") from error
        except OSError as error:
            raise SystemExit(f"\nStopped: {error}. To resume, after the error is fixed: {command}") from error
        except SystemExit:
            if run:
                run.discard()
            raise


def _resume_command(folder):
    return f"python {shlex.quote(sys.argv[0])} --resume {shlex.quote(folder)}"


def _distribute(flags, stack):
    """Prepare this process for a training on several devices, or run its several processes."""
    try:
        distribution.check_backend()
        if flags.distribute > 1 and flags.protocol == "artist_folds":
            raise ValueError("--protocol artist_folds needs --distribute without a number of processes.")
        if flags.distribute > 1 and not distribution.is_worker():
            folder = options.output_folder(flags)
            arguments = [] if flags.resume else ["--output", folder]
            distribution.launch(flags.distribute, arguments, _resume_command(folder))
        if flags.distribute > 1:
            stack.enter_context(distribution.worker())
        distribution.use_all_devices(BATCH_SIZE)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def processor() -> str:
    """Return the kind of processor: the instruction set that PyTorch uses, or the machine type for other backends.

    Rounding depends on the kind of processor, so the same seed gives different results on different kinds.
    """
    if keras.backend.backend() != "torch":
        return platform.machine()
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _raise_interrupted(number, frame):
    """Signal handler that raises `Interrupted`."""
    raise gk.training.Interrupted(number)


@dataclasses.dataclass
class Run:
    """A run of an experiment.

    Attributes:
        flags: the flags of the experiment.
        folder: path of the output folder.
        clip_seconds: `> 0`, length of the model's clips in s.
        data: the data of the experiment. The attribute exists after `load_data` is called.
        model_file: path of the best model.
        config: the content of `config.json`: command, flags, versions, data and training.
    """

    flags: argparse.Namespace
    folder: str
    clip_seconds: float

    def __post_init__(self):
        self._start_time = time.monotonic()
        self._seconds_before = 0.0
        self.config = self._environment()
        if self.flags.resume:
            with open(self.path(options.CONFIG), encoding="utf-8") as file:
                saved = json.load(file)
            self._seconds_before = saved.get("seconds", 0.0)
            self.config |= {name: saved[name] for name in ("command", "working_directory")}
            self.config["resumed"] = saved.get("resumed", 0) + 1
            for name in os.listdir(self.folder) if process.is_first_process() else ():
                if name.startswith(TEMPORARY):  # This file is incomplete, because the process was killed.
                    os.remove(self.path(name))
            self._print_changes(saved)
        self.save_config()

    def load_data(self) -> None:
        """Load the data that the flags select. With --smoke, keep only a few clips."""
        try:
            self.data = options.load_data(self.flags)
            if len(self.data.genres) < 2 or len(self.data.train) < 2:
                raise ValueError(f"at least two genres and two training tracks are required: {self.data}")
        except (OSError, ValueError) as error:
            raise SystemExit(f"The data cannot be used: {error}") from error
        keras.config.set_dtype_policy(self.flags.precision)
        if self.flags.distribute:
            distribution.use_all_devices(BATCH_SIZE)  # until the end of `fit`
        # Set the seed after loading the data, because loading may draw from the global random state.
        keras.utils.set_random_seed(self.flags.seed)
        if self.flags.smoke:
            self.data = _subset(self.data)
        print(f"Data:    {self.data}")
        print(f"Folder:  {self.folder}")
        if len(self.data.validation) == 0:
            print("NOTE:    the validation split is empty. The last epoch is kept, and the model is not calibrated.")
        if self.data.protocol == "random":
            print(
                "NOTE:    in the random protocol, training and validation share artists, and the test split is the "
                "validation split. Scores are too high."
            )
        self.config["data"] = self.data_config()

    def _print_changes(self, saved):
        """Print the changes since the run was started that may change the results."""
        for name in ("backend", "processor", "versions"):
            if saved.get(name, self.config[name]) != self.config[name]:  # Configs of older versions lack some names.
                print(f"NOTE:    {name} when the run was started: {saved[name]}; now: {self.config[name]}.")

    def discard(self) -> None:
        """Remove the config if the run has written no other file."""
        names = set(os.listdir(self.folder))
        if names <= {options.CONFIG, options.LOCK} and not self.flags.resume and process.is_first_process():
            os.remove(self.path(options.CONFIG))

    def finish(self) -> None:
        """Remove the training states, and record in the config that the run is finished."""
        for name in os.listdir(self.folder):
            if name.endswith((STATE, BEST)):
                os.remove(self.path(name))
        self.save_config(finished=True)

    def path(self, name: str) -> str:
        """Return the path of a file in the output folder."""
        return os.path.join(self.folder, name)

    @property
    def model_file(self) -> str:
        return self.path("model.keras")

    def classifier(
        self,
        backbone: str,
        dropout: float,
        waveform_augmentation: Sequence[keras.layers.Layer] = (),
        image_augmentation: Sequence[keras.layers.Layer] = (),
    ) -> gk.GenreClassifier:
        """Return the model that the flags select.

        If --pretrained is not given and the ImageNet weights cannot be loaded, the model has random weights, and all
        layers are trained.
        """
        arguments: dict[str, Any] = {
            "backbone": backbone,
            "genres": self.data.genres,
            "clip_seconds": self.clip_seconds,
            "stem": self.flags.stem,
            "fine_tune": self.flags.fine_tune or self._default_fine_tune(),
            "pretrained": None if self.flags.pretrained == "none" else self.flags.pretrained or "imagenet",
            "dropout": dropout,
            "waveform_augmentation": waveform_augmentation,
            "image_augmentation": image_augmentation,
        }
        try:
            model = gk.GenreClassifier(**arguments)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        except backbones.PretrainedWeightsError as error:
            if self.flags.pretrained:
                raise SystemExit(str(error)) from error
            rule = "!" * 100
            print(f"{rule}\n{error}\n")
            print(f"WITHOUT PRETRAINED WEIGHTS: all layers of {backbone} are trained from random weights.\n{rule}")
            model = gk.GenreClassifier(**{**arguments, "pretrained": None, "fine_tune": "all"})
        print(
            f"Model:   {backbone} on {keras.backend.backend()}, pretrained {model.pretrained}, stem {model.stem}, "
            f"fine_tune {model.fine_tune}, dropout {dropout}, clips of {self.clip_seconds:g} s"
        )
        return model

    def _default_fine_tune(self):
        if self.flags.pretrained == "none":
            return "all"  # A frozen random network would not learn.
        return "stem" if self.flags.stem == "new" else "head"

    def class_weight(self) -> Literal["balanced"] | None:
        """Return "balanced" if the largest genre has over 1.5 times the clips of the smallest genre, else `None`."""
        counts = np.bincount(self.data.train.labels, minlength=len(self.data.genres))
        if counts.max() <= 1.5 * counts.min():
            return None
        smallest, largest = self.data.genres[counts.argmin()], self.data.genres[counts.argmax()]
        print(
            f"Weights: the genres have unequal numbers of clips (largest: {largest}, {counts.max()}; smallest: "
            f"{smallest}, {counts.min()}). All genres get the same weight in training."
        )
        return "balanced"

    def save_config(self, **more: Any) -> None:
        """Add entries to the config, and write it to `config.json`."""
        seconds = self._seconds_before + time.monotonic() - self._start_time
        self.config |= {**more, "seconds": round(seconds, 1)}
        self.save_json(options.CONFIG, self.config)

    def train(self, model: gk.GenreClassifier, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Fit a compiled model, save it, and write config, history and learning curves.

        The model of the epoch with the best validation accuracy is saved. Without a validation split, the model of the
        last epoch is saved. If genres have unequal numbers of clips, all genres get the same weight.
        """
        if model.fine_tune == "head" and self.flags.distribute:
            raise SystemExit(
                "--distribute needs --fine-tune stem or all. The last layer trains on one device in seconds, because "
                "the features of the frozen backbone are computed once."
            )
        weights = self.class_weight()
        if model.fine_tune == "head":
            self.fit(model, functools.partial(self._fit_head, model, weights), self.model_file, callbacks)
        else:
            train = self.batches(self.data.train, model, shuffle=True, class_weight=weights)
            validation = self.batches(self.data.validation, model) if len(self.data.validation) else None
            function = functools.partial(gk.training.fit, model, train, validation_data=validation)
            self.fit(model, function, self.model_file, callbacks)

    def fit(
        self,
        model: gk.GenreClassifier,
        function: Callable[..., keras.callbacks.History],
        model_file: str,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        monitor: str = "val_accuracy",
    ) -> None:
        """Fit a compiled model with a function, save it, and write config, history and learning curves.

        Args:
            model: the model.
            function: `genrekeras.training.fit` or another function that has its arguments `epochs`, `callbacks`,
                `state`, `every_seconds` and `verbose`.
            model_file: path for the model of the best epoch.
            callbacks: callbacks of the training.
            monitor: metric by which the best epoch is chosen, see `genrekeras.callbacks.BestCheckpoint`.
        """
        training = {
            "epochs": self._epochs(),
            "batch_size": BATCH_SIZE,
            "model": model.get_config(),
            "optimizer": model.optimizer.get_config(),
        }
        self.save_config(**training)
        if self.flags.distribute:
            distribution.ignore_padding(model)
        if self.flags.jit:
            model.jit_compile = True  # pragma: no cover - takes minutes, and torch needs a C++ compiler
        callbacks = list(callbacks)
        if len(self.data.validation):
            callbacks.append(gk.callbacks.BestCheckpoint(model_file, monitor, model=model))
        if self.flags.wandb:
            private = ("command", "working_directory", "processor")  # data about the machine is not uploaded
            config = {key: value for key, value in self.config.items() if key not in private}
            self.wandb = gk.callbacks.WandbLogger(config=config, name=os.path.basename(self.folder), folder=self.folder)
            callbacks.append(self.wandb)
        steps = -(-len(self.data.train) // BATCH_SIZE)
        print(f"To do:   {self._epochs()} epochs of {steps} steps of up to {BATCH_SIZE} clips\n")
        history = function(
            epochs=self._epochs(),
            callbacks=callbacks,
            state=self.path(f"training{STATE}"),
            every_seconds=self.flags.save_every,
            verbose=1 if sys.stdout.isatty() else 2,
        ).history
        if self.flags.distribute:
            distribution.use_one_device()
        if not len(self.data.validation):
            with atomic_write(model_file) as temporary:
                model.save(temporary)
        self._save_history(history)
        self.save_config()
        visualization.learning_curves(history, self.path("learning_curves.png"), title=self._title(model))

    def _fit_head(self, model, weights, **arguments):
        """Train the head of a model on cached features of the frozen backbone. This is faster than `training.fit`."""
        config = model.get_config()
        augment = bool(config["waveform_augmentation"] or config["image_augmentation"])
        variants = VARIANTS if augment else 1
        augmented = f" of {VARIANTS} augmented variants of each clip" if augment else ""
        print(f"Frozen:  the features{augmented} are computed once and cached. Only the head is trained.\n")
        arguments |= {"seed": self.flags.seed, "batch_size": BATCH_SIZE, "class_weight": weights}
        train = gk.training.extract_features(model, self.data.train, crops=variants, augment=augment)
        validation = gk.training.extract_features(model, self.data.validation) if len(self.data.validation) else None
        return gk.training.fit_head(model, train, validation, **arguments)

    def evaluate(self, **card: Any) -> None:
        """Calibrate the saved model on the validation split, score it, and write reports, figures and model card.

        Args:
            card: further entries of the model card, such as `about` (a text) and `license`.
        """
        scoring.evaluate(self, **card)

    def save_reports(self, reports: Mapping[str, gk.evaluation.Report]) -> None:
        """Print reports, and write them as JSON files, figures, and one HTML page.

        Args:
            reports: name -> report. The names are "validation" and "test", each also with the ending "_tracks" or
                "_tracks_uncalibrated".
        """
        scoring.save_reports(self, reports)

    def splits_to_score(self) -> list[gk.datasets.Split | gk.datasets.SpectrogramSplit]:
        """Return the validation and test splits, without empty splits.

        In the random protocol, the test split is the validation split, so the list contains only the latter.
        """
        is_same = self.data.protocol == "random"
        return [split for split in [self.data.validation, *([] if is_same else [self.data.test])] if len(split)]

    def _epochs(self):
        return self.flags.epochs or (2 if self.flags.smoke else options.EPOCHS)

    def batches(self, split: gk.datasets.Split, model: gk.GenreClassifier, **arguments: Any) -> gk.datasets.Batches:
        """Return batches of a split for a model, with the seed of the run. See `genrekeras.datasets.batches`."""
        arguments |= {"seed": self.flags.seed, "distribution": keras.distribution.distribution()}
        return gk.datasets.batches(split, BATCH_SIZE, model.clip_seconds, **arguments)

    def _title(self, model):
        return f"{os.path.basename(sys.argv[0])}: {model.backbone} on {self.data.name}, {self.data.protocol} protocol"

    def _environment(self):
        """Return the entries of the config that are known before the data is loaded."""
        packages = ("keras", keras.backend.backend(), "librosa", "numpy", "tensorflow-datasets")
        return {
            "command": [os.path.basename(sys.executable), *sys.argv],
            "working_directory": os.getcwd(),
            "flags": {name: value for name, value in vars(self.flags).items() if name != "resume"},
            "backend": keras.backend.backend(),
            "processor": processor(),
            "versions": {
                "python": platform.python_version(),
                "genrekeras": gk.__version__,
                **{package: _version(package) for package in packages},
            },
        }

    def data_config(self) -> dict[str, Any]:
        """Return the entry `data` of the config: the splits, broken clips, and artists that splits share."""
        return {
            "name": self.data.name,
            "protocol": self.data.protocol,
            "counts": self.data.counts,
            "broken": self.data.broken,
            "leakage": json.loads(gk.datasets.leakage(self.data).reset_index().to_json(orient="records")),
            "concentration": json.loads(gk.datasets.concentration(self.data).reset_index().to_json(orient="records")),
            "fingerprint": self.data.train.fingerprint,
        }

    def save_json(self, name: str, content: Any) -> None:
        """Write a JSON file in the output folder. Of several processes, only the first one writes it."""
        if not process.is_first_process():
            return
        with atomic_write(self.path(name)) as path, open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, default=str)

    def _save_history(self, history):
        path = self.path("history.csv")
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *history])
            writer.writerows(zip(range(1, len(history["loss"]) + 1), *history.values(), strict=True))


def augmentation_of_2023(seed: int) -> dict[str, list[keras.layers.Layer]]:
    """Return the augmentation of the system of 2023, as arguments of `Run.classifier`.

    The gain changes 20 % of the clips, and noise changes another 20 %.
    """
    return {
        "waveform_augmentation": [gk.layers.PowerGain(factors=(1.5, 0.5), share=(0.0, 0.2), seed=seed)],
        "image_augmentation": [gk.layers.ImageNoise(sigma=0.1, share=(0.2, 0.4), seed=seed)],
    }


def _subset(data, clips=32):
    """Return a dataset with at most `clips` clips of each split. The clips are random, so that all genres occur."""
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    rng = np.random.default_rng(0)
    small = {name: split.select(np.sort(rng.permutation(len(split))[:clips])) for name, split in splits.items()}
    counts = {**data.counts, **{name: len(split) for name, split in small.items()}}
    return dataclasses.replace(data, **small, counts=counts)


def _version(package):
    """Return the version of a package, or `None` if the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
