"""Run an experiment: read its flags, load the data, train, score, and write the output folder."""

import argparse
import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import sys
import time

import genrekeras as gk
import keras
import numpy as np
from genrekeras import visualization
from genrekeras.models import backbones
from genrekeras.runs import options, scoring
from genrekeras.utils import process
from genrekeras.utils.io import TEMPORARY, atomic_write

BATCH_SIZE = 16
VARIANTS = 4  # augmented variants of each clip whose features are cached if the backbone is frozen
STATE = ".state.npz"  # ending of the training states, which are removed when the run is finished


def start(main, doc, network=True, spectrograms=False):
    """Run an experiment, and end the process with a message if it is interrupted or fails.

    The message names the command that resumes the run, if it can be resumed.

    Args:
        main: function of a `Run`, the experiment.
        doc: str, the docstring of the experiment, shown by --help.
        network: bool, also accept the flags of a neural network.
        spectrograms: bool, accept a file of spectrograms instead of audio.
    """
    signal.signal(signal.SIGTERM, _raise_interrupted)
    process.configure()
    flags = options.parse_flags(doc, network, spectrograms)
    with options.folder_of_run(flags) as folder:
        command, run = f"python {shlex.quote(sys.argv[0])} --resume {shlex.quote(folder)}", None
        try:
            run = Run(flags, folder, options.clip_seconds(flags))
            run.load_data()
            main(run)
            run.finish()
        except KeyboardInterrupt as error:
            number = getattr(error, "signal", signal.SIGINT)
            if run:
                with contextlib.suppress(OSError):  # the message is printed even if the disk is full
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


def processor():
    """Return the kind of processor: PyTorch's instruction set, or the machine type on other backends.

    Rounding depends on it, so that the same seed gives other results on another kind.
    """
    if keras.backend.backend() != "torch":
        return platform.machine()
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _raise_interrupted(number, frame):
    raise gk.training.Interrupted(number)


@dataclasses.dataclass
class Run:
    """A run of an experiment: its flags, its data and its output folder.

    Attributes:
        flags: `argparse.Namespace`.
        folder: str, the output folder.
        clip_seconds: float, length of the model's clips.
        data: `genrekeras.datasets.Dataset`.
        model_file: str, path of the best model.
        config: dict, the content of `config.json`: command, flags, versions, data, training.
    """

    flags: argparse.Namespace
    folder: str
    clip_seconds: float
    data: gk.datasets.Dataset | None = None

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
            for name in os.listdir(self.folder):
                if name.startswith(TEMPORARY):  # from a write that a kill interrupted
                    os.remove(self.path(name))
            self._print_changes(saved)
        self.save_config()

    def load_data(self):
        """Load the data that the flags select; with --smoke only a few clips."""
        try:
            self.data = options.load_data(self.flags)
            if len(self.data.genres) < 2 or len(self.data.train) < 2:
                raise ValueError(f"at least two genres and two training tracks are required: {self.data}")
        except (OSError, ValueError) as error:
            raise SystemExit(f"The data cannot be used: {error}") from error
        keras.config.set_dtype_policy(self.flags.precision)
        # After the data is built, which may draw from the global random state.
        keras.utils.set_random_seed(self.flags.seed)
        if self.flags.smoke:
            self.data = _subset(self.data)
        print(f"Data:    {self.data}")
        print(f"Folder:  {self.folder}")
        if len(self.data.validation) == 0:
            print("NOTE:    the validation split is empty: the last epoch is kept, and the model is not calibrated.")
        if self.data.protocol == "random":
            print(
                "NOTE:    under the random protocol, artists are in both training and validation, and the test split "
                "is the validation split: scores are too high."
            )
        self.config["data"] = self._data_config()

    def _print_changes(self, saved):
        """Print what has changed since the run was started, which may change its results."""
        for name in ("backend", "processor", "versions"):
            if saved.get(name, self.config[name]) != self.config[name]:  # configs of older versions lack some
                print(f"NOTE:    {name} when the run was started: {saved[name]}; now: {self.config[name]}.")

    def discard(self):
        """Remove the config of a run that ended before it wrote anything else."""
        if set(os.listdir(self.folder)) <= {options.CONFIG, options.LOCK} and not self.flags.resume:
            os.remove(self.path(options.CONFIG))

    def finish(self):
        """Remove the training states, and record in the config that the run is finished."""
        for name in os.listdir(self.folder):
            if name.endswith(STATE):
                os.remove(self.path(name))
        self.save_config(finished=True)
        print(f"\nAll results are in {self.folder}; start with report.html.")

    def path(self, name):
        """Return the path of a file in the output folder."""
        return os.path.join(self.folder, name)

    @property
    def model_file(self):
        return self.path("model.keras")

    def classifier(self, backbone, dropout, waveform_augmentation=(), image_augmentation=()):
        """Return a `GenreClassifier` as the flags say.

        If the ImageNet weights cannot be loaded and --pretrained is not given, the weights are random and all of them
        are trained.
        """
        arguments = {
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
            return "all"  # a frozen random network would not learn
        return "stem" if self.flags.stem == "new" else "head"

    def class_weight(self):
        """Return "balanced" if the largest genre has more than 1.5 times the clips of the smallest, else `None`."""
        counts = np.bincount(self.data.train.labels, minlength=len(self.data.genres))
        if counts.max() <= 1.5 * counts.min():
            return None
        smallest, largest = self.data.genres[counts.argmin()], self.data.genres[counts.argmax()]
        print(
            f"Weights: the genres have unequal numbers of clips (largest: {largest}, {counts.max()}; smallest: "
            f"{smallest}, {counts.min()}); all genres get the same weight in training."
        )
        return "balanced"

    def save_config(self, **more):
        """Add entries to the config, and write it to `config.json`."""
        seconds = self._seconds_before + time.monotonic() - self._start_time
        self.config |= {**more, "seconds": round(seconds, 1)}
        self.save_json(options.CONFIG, self.config)

    def train(self, model, callbacks=()):
        """Fit a compiled model, save that of the best epoch, and write config, history and learning curves.

        Without a validation split, the model of the last epoch is saved.
        """
        training = {
            "epochs": self._epochs(),
            "batch_size": BATCH_SIZE,
            "model": model.get_config(),
            "optimizer": model.optimizer.get_config(),
        }
        self.save_config(**training)
        if self.flags.jit:
            model.jit_compile = True  # pragma: no cover - compiles for minutes, and torch needs a compiler
        weights = self.class_weight()
        callbacks = list(callbacks)
        if len(self.data.validation):
            callbacks.append(gk.callbacks.BestCheckpoint(self.model_file, monitor="val_accuracy", model=model))
        if self.flags.wandb:
            self.wandb = gk.callbacks.WandbLogger(
                config=self.config, name=os.path.basename(self.folder), folder=self.folder
            )
            callbacks.append(self.wandb)
        steps = -(-len(self.data.train) // BATCH_SIZE)
        print(f"To do:   {self._epochs()} epochs of {steps} steps of up to {BATCH_SIZE} clips\n")
        fit = self._fit_head if model.fine_tune == "head" else self._fit
        arguments = {"epochs": self._epochs(), "callbacks": callbacks, "state": self.path(f"training{STATE}")}
        arguments |= {"every_seconds": self.flags.save_every, "verbose": 1 if sys.stdout.isatty() else 2}
        history = fit(model, weights, arguments).history
        if not len(self.data.validation):
            with atomic_write(self.model_file) as temporary:
                model.save(temporary)
        self._save_history(history)
        self.save_config()
        visualization.learning_curves(history, self.path("learning_curves.png"), title=self._title(model))

    def _fit(self, model, weights, arguments):
        train = self._batches(self.data.train, model, shuffle=True, class_weight=weights)
        validation = self._batches(self.data.validation, model) if len(self.data.validation) else None
        return gk.training.fit(model, train, validation_data=validation, **arguments)

    def _fit_head(self, model, weights, arguments):
        """Train the head of a model with a frozen backbone on cached features, which is faster than `_fit`."""
        config = model.get_config()
        augment = bool(config["waveform_augmentation"] or config["image_augmentation"])
        variants = VARIANTS if augment else 1
        augmented = f" of {VARIANTS} augmented variants of each clip" if augment else ""
        print(f"Frozen:  the features{augmented} are computed once and cached; only the head is trained.\n")
        arguments |= {"seed": self.flags.seed, "batch_size": BATCH_SIZE, "class_weight": weights}
        train = gk.training.extract_features(model, self.data.train, crops=variants, augment=augment)
        validation = gk.training.extract_features(model, self.data.validation) if len(self.data.validation) else None
        return gk.training.fit_head(model, train, validation, **arguments)

    def evaluate(self, **card):
        """Calibrate the saved model on the validation split, score it, and write reports, figures and model card.

        Args:
            card: further entries of the model card, such as `about`, a text, and `license`.
        """
        scoring.evaluate(self, **card)

    def save_reports(self, reports):
        """Print reports, and write them as JSON files, figures, and one HTML page.

        Args:
            reports: dict, name -> `Report`: "validation", "test", "..._tracks", "..._tracks_uncalibrated".
        """
        scoring.save_reports(self, reports)

    def splits_to_score(self):
        """Return the validation and test splits that are not empty; under the random protocol they are the same."""
        same = self.data.protocol == "random"
        return [split for split in [self.data.validation, *([] if same else [self.data.test])] if len(split)]

    def _epochs(self):
        return self.flags.epochs or (2 if self.flags.smoke else options.EPOCHS)

    def _batches(self, split, model, **arguments):
        return gk.datasets.batches(split, BATCH_SIZE, model.clip_seconds, seed=self.flags.seed, **arguments)

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

    def _data_config(self):
        return {
            "name": self.data.name,
            "protocol": self.data.protocol,
            "counts": self.data.counts,
            "broken": self.data.broken,
            "leakage": json.loads(gk.datasets.leakage(self.data).reset_index().to_json(orient="records")),
            "fingerprint": self.data.train.fingerprint,
        }

    def save_json(self, name, content):
        """Write a JSON file in the output folder."""
        with atomic_write(self.path(name)) as path, open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, default=str)

    def _save_history(self, history):
        path = self.path("history.csv")
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *history])
            writer.writerows(zip(range(1, len(history["loss"]) + 1), *history.values(), strict=True))


def augmentation_of_2023(seed):
    """Return the 2023 augmentation, as arguments of `Run.classifier`: 20 % of the clips by gain, 20 % by noise."""
    return {
        "waveform_augmentation": [gk.layers.PowerGain(factors=(1.5, 0.5), share=(0.0, 0.2), seed=seed)],
        "image_augmentation": [gk.layers.ImageNoise(sigma=0.1, share=(0.2, 0.4), seed=seed)],
    }


def _subset(data, clips=32):
    """Return a dataset with at most `clips` random clips of each split; random, so that all genres occur."""
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    rng = np.random.default_rng(0)
    small = {name: split.select(np.sort(rng.permutation(len(split))[:clips])) for name, split in splits.items()}
    counts = {**data.counts, **{name: len(split) for name, split in small.items()}}
    return dataclasses.replace(data, **small, counts=counts)


def _version(package):
    """Return the version of an installed package, or `None`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
