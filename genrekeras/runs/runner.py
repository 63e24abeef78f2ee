"""What the experiments share: the run, from its data and folder to the trained model."""

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
from genrekeras import reports, visualization
from genrekeras.models import backbones
from genrekeras.utils.io import TEMPORARY, atomic_write
from genrekeras.runs import options, scoring
from genrekeras.utils import process

BATCH_SIZE = 16
VARIANTS = 4  # of each clip, where a frozen backbone meets augmentation
STATE = ".state.npz"  # how the names of files end that are there until the run is finished


def start(main, doc, network=True, spectrograms=False):
    """Read the flags, load the data, make the run's folder, say what will be done, and do it.

    Broken off by a signal or by a loss that is not finite, it says in one line how to go on.

    Args:
        main: function of a `Run`, the experiment.
        doc: str, the experiment's docstring, shown by --help.
        network: bool, take the flags of a neural network too.
        spectrograms: bool, take a file of spectrograms in place of music.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    process.configure()
    flags = options.read(doc, network, spectrograms)
    with options.folder_of_run(flags) as folder:
        again, run = f"python {shlex.quote(sys.argv[0])} --resume {shlex.quote(folder)}", None
        try:
            run = Run(flags, folder, options.clip_seconds(flags))
            run.load_data()
            main(run)
            run.finish()
        except KeyboardInterrupt as error:
            number = getattr(error, "signal", signal.SIGINT)
            if run:
                with contextlib.suppress(OSError):  # a full disk must not keep it from saying how to go on
                    run.save_config()
            print(f"\nStopped by {signal.Signals(number).name}. To go on: {again}", file=sys.stderr)
            raise SystemExit(128 + number) from None
        except gk.training.NonFiniteLossError as error:
            raise SystemExit(f"\nStopped: {error}") from error
        except OSError as error:
            raise SystemExit(f"\nStopped: {error}. When that is mended: {again}") from error
        except SystemExit:
            if run:
                run.leave()
            raise


def processor():
    """The kind of processor: another one rounds otherwise, so that the same seed ends elsewhere."""
    if keras.backend.backend() != "torch":
        return platform.machine()
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _interrupt(number, frame):
    raise gk.training.Interrupted(number)


@dataclasses.dataclass
class Run:
    """A run: its flags, data and folder.

    Attributes:
        flags: `argparse.Namespace`.
        folder: str.
        clip_seconds: float, of the clips that the model hears.
        data: `genrekeras.datasets.Dataset`.
        model_file: str, where the best model is saved.
        config: dict, what is known of the run so far; `config.json`.
    """

    flags: argparse.Namespace
    folder: str
    clip_seconds: float
    data: gk.datasets.Dataset | None = None

    def __post_init__(self):
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self.config = self._config()
        if self.flags.resume:
            with open(self.path(options.CONFIG), encoding="utf-8") as file:
                before = json.load(file)
            self._seconds_before = before.get("seconds", 0.0)
            self.config |= {name: before[name] for name in ("command", "working_directory")}
            self.config["resumed"] = before.get("resumed", 0) + 1
            for name in os.listdir(self.folder):
                if name.startswith(TEMPORARY):  # a write that a kill cut short
                    os.remove(self.path(name))
            self._compare(before)
        self.save_config()

    def load_data(self):
        """Load what the flags name; a smoke test takes a few clips of it."""
        try:
            self.data = options.load_data(self.flags)
            if len(self.data.genres) < 2 or len(self.data.train) < 2:
                raise ValueError(f"two genres and two tracks to train on are the least: {self.data}")
        except (OSError, ValueError) as error:
            raise SystemExit(f"The data cannot be used: {error}") from error
        keras.config.set_dtype_policy(self.flags.precision)
        keras.utils.set_random_seed(self.flags.seed)  # now: making the data may have drawn from the global state
        if self.flags.smoke:
            self.data = _small(self.data)
        print(f"Data:    {self.data}")
        print(f"Folder:  {self.folder}")
        if len(self.data.validation) == 0:
            print("NOTE:    the validation split is empty: nothing tells how good the result is, or the best epoch.")
        if self.data.protocol == "random":
            print("NOTE:    random protocol: artists on both sides, and validation is the test: scores are too good.")
        self.config["data"] = self._about_data()

    def _compare(self, before):
        """Say what is not as it was when the run began."""
        for name in ("backend", "processor", "versions"):
            if before.get(name, self.config[name]) != self.config[name]:  # runs of old do not have all
                print(f"NOTE:    the run began with {before[name]}, and goes on with {self.config[name]}.")

    def leave(self):
        """Take back what a run that could not begin has left."""
        if set(os.listdir(self.folder)) <= {options.CONFIG, options.LOCK} and not self.flags.resume:
            os.remove(self.path(options.CONFIG))

    def finish(self):
        """The last thing: nothing is left to resume."""
        for name in os.listdir(self.folder):
            if name.endswith(STATE):
                os.remove(self.path(name))
        self.save_config(finished=True)
        print(f"\nAll of it is in {self.folder}; begin with reports.html")

    def path(self, name):
        """That of a file in the run's folder."""
        return os.path.join(self.folder, name)

    @property
    def model_file(self):
        return self.path("model.keras")

    def classifier(self, backbone, dropout, waveform_augmentation=(), image_augmentation=()):
        """A `GenreClassifier` as the flags say.

        If no weights were asked for by name and those of ImageNet cannot be had, one with random weights, all of it to
        be trained.
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
            print(f"GOING ON WITHOUT THEM: all of a randomly initialized {backbone} is trained.\n{rule}")
            model = gk.GenreClassifier(**{**arguments, "pretrained": None, "fine_tune": "all"})
        print(
            f"Model:   {backbone} on {keras.backend.backend()}, pretrained {model.pretrained}, stem {model.stem}, "
            f"trained: {model.fine_tune}, dropout {dropout}, clips of {self.clip_seconds:g} s"
        )
        return model

    def _default_fine_tune(self):
        if self.flags.pretrained == "none":
            return "all"  # a random network that stands still learns nothing
        return "stem" if self.flags.stem == "new" else "head"

    def class_weight(self):
        """Weights for genres of unequal size; a broken clip or two do not count."""
        counts = np.bincount(self.data.train.labels, minlength=len(self.data.genres))
        if counts.max() <= 1.5 * counts.min():
            return None
        rarest, commonest = self.data.genres[counts.argmin()], self.data.genres[counts.argmax()]
        print(
            f"Weights: genres are of unequal size ({commonest} {counts.max()} clips, {rarest} {counts.min()}); in "
            "training each weighs as much as any other."
        )
        return "balanced"

    def save_config(self, **more):
        """Leave in the folder what the run was made with."""
        seconds = self._seconds_before + time.monotonic() - self._began
        self.config |= {**more, "seconds": round(seconds, 1)}
        self.save_json(options.CONFIG, self.config)

    def train(self, model, callbacks=()):
        """Fit the compiled model, keep the best epoch, and leave config, history and curves in the folder."""
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
        """The same as `_fit` where the backbone stands still, in a fraction of the time."""
        config = model.get_config()
        augment = bool(config["waveform_augmentation"] or config["image_augmentation"])
        variants = VARIANTS if augment else 1
        print(
            "Frozen:  the backbone's features are made once and kept, then only the head trains on them"
            f"{f'; {VARIANTS} augmented variants of each clip stand for fresh ones' if augment else ''}.\n"
        )
        arguments |= {"seed": self.flags.seed, "batch_size": BATCH_SIZE, "class_weight": weights}
        train = gk.training.extract_features(model, self.data.train, crops=variants, augment=augment)
        validation = gk.training.extract_features(model, self.data.validation) if len(self.data.validation) else None
        return gk.training.fit_head(model, train, validation, **arguments)

    def evaluate(self, **more):
        """Calibrate the saved model on validation and score it; leave figures, pictures, card and report.

        Args:
            more: what else the card is to say, such as `about`, a text, and `license`.
        """
        scoring.evaluate(self, **more)

    def save_reports(self, reports):
        """Print each report and leave it as JSON, and as a picture; all their figures, and a page that tells all.

        Args:
            reports: dict, name -> `Report`: "validation", "test", and "..._tracks", "..._tracks_uncalibrated".
        """
        scoring.save_reports(self, reports)

    def splits_to_score(self):
        """Validation and test, without those that are empty."""
        same = self.data.protocol == "random"  # its test split is its validation split
        return [split for split in [self.data.validation, *([] if same else [self.data.test])] if len(split)]

    def _epochs(self):
        return self.flags.epochs or (2 if self.flags.smoke else options.EPOCHS)

    def _batches(self, split, model, **options):
        return gk.datasets.batches(split, BATCH_SIZE, model.clip_seconds, seed=self.flags.seed, **options)

    def _title(self, model):
        return f"{os.path.basename(sys.argv[0])}: {model.backbone} on {self.data.name}, {self.data.protocol} protocol"

    def _config(self):
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

    def _about_data(self):
        return {
            "name": self.data.name,
            "protocol": self.data.protocol,
            "counts": self.data.counts,
            "broken": self.data.broken,
            "leakage": json.loads(gk.datasets.leakage(self.data).reset_index().to_json(orient="records")),
            "fingerprint": self.data.train.fingerprint,
        }

    def save_json(self, name, content):
        with atomic_write(self.path(name)) as path, open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, default=str)

    def _save_history(self, history):
        path = self.path("history.csv")
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *history])
            writer.writerows(zip(range(1, len(history["loss"]) + 1), *history.values(), strict=True))


def augmentation_of_2023(seed):
    """The 2023 augmentation, as arguments of `Run.classifier`: 40 % of the clips, half by gain, half by noise."""
    return {
        "waveform_augmentation": [gk.layers.PowerGain(factors=(1.5, 0.5), share=(0.0, 0.2), seed=seed)],
        "image_augmentation": [gk.layers.ImageNoise(sigma=0.1, share=(0.2, 0.4), seed=seed)],
    }


def _small(data, clips=32):
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    rng = np.random.default_rng(0)  # by lot, so that all genres are there
    small = {name: split.select(np.sort(rng.permutation(len(split))[:clips])) for name, split in splits.items()}
    counts = {**data.counts, **{name: len(split) for name, split in small.items()}}
    return dataclasses.replace(data, **small, counts=counts)


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
