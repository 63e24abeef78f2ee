"""Flags of the experiments, and the data and the output folder that these flags select."""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import filelock
import genrekeras as gk
from genrekeras.models import backbones
from genrekeras.utils import process

EPOCHS = 20
TRACK_CROPS: dict[str, Any] = {"crop": "even", "crops": 3}  # three crops of 10 s from a track of 30 s
CONFIG, LOCK = "config.json", ".lock"


def make_parser(doc: str | None, network: bool, spectrograms: bool) -> argparse.ArgumentParser:
    """Return the parser for the flags of an experiment. See `runner.start` for the arguments."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    if spectrograms:
        add("--spectrograms", metavar="FILE", help=".npz file that `genrekeras fma spectrograms` wrote; required")
        add(
            "--groups",
            metavar="CSV",
            help="table with the columns track_id and artist_id, if the file of --spectrograms has no artists",
        )
        add("--vggish", metavar="FILE", help=".npz file with the arrays track_id and vggish: embeddings of the tracks")
        add("--processes", type=positive, default=1, help="number of folds computed at the same time (default: 1)")
        parser.set_defaults(data_dir=None, protocol=None)
    else:
        add(
            "--data-dir",
            metavar="FOLDER",
            help="FMA with metadata and clips, or music in one folder per genre (default: a small synthetic corpus)",
        )
        add("--subset", default="small", choices=gk.datasets.fma.SUBSETS, help="subset of FMA (default: small)")
        add(
            "--protocol",
            choices=(*gk.datasets.PROTOCOLS, "artist_folds"),
            help="how tracks are assigned to training, validation and test (default: official for FMA; artist_album "
            "for music in one folder per genre); artist_folds trains five models, and scores each track by a model "
            "that was not trained on its artist",
        )
    add(
        "--seed",
        type=not_negative,
        default=0,
        help="seed for weights, batches, dropout, augmentation and random splits (default: 0)",
    )
    add("--output", metavar="FOLDER", help="output folder, new or empty (default: runs/EXPERIMENT-TIME)")
    add("--smoke", action="store_true", help="check that the experiment runs, with few short clips and 2 epochs")
    add(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="interval at which the training state is saved within an epoch (default: 60)",
    )
    add("--resume", metavar="FOLDER", help="resume the run in this output folder; no other flag is allowed")
    parser.set_defaults(spectrograms=None, fold=None)
    if spectrograms or not network:
        parser.set_defaults(wandb=False, precision="float32", distribute=None)
        return parser
    add("--epochs", type=positive, help=f"number of epochs (default: {EPOCHS})")
    add(
        "--pretrained",
        metavar="WEIGHTS",
        help="initial weights: imagenet, none, or a .weights.h5 file (default: imagenet; if the ImageNet weights "
        "cannot be loaded, none with --fine-tune all)",
    )
    add(
        "--stem",
        default="fold",
        choices=backbones.STEMS,
        help="first convolution: fold converts the pretrained one to a single input channel; new has random weights "
        "(default: fold)",
    )
    add(
        "--fine-tune",
        choices=backbones.FINE_TUNE,
        help="layers to train (default: head; stem with --stem new; all with --pretrained none)",
    )
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        help="mixed precision (for GPUs) computes the network in 16 bits; the front end and the weights stay in "
        "float32 (default: float32)",
    )
    add("--jit", action="store_true", help="compile the training step (torch.compile or XLA)")
    add(
        "--distribute",
        nargs="?",
        const=1,
        type=positive,
        metavar="PROCESSES",
        help="train on all devices; with a number, in so many processes on this machine. Needs the backend JAX",
    )
    add("--wandb", action="store_true", help="log to Weights & Biases; offline if no API key is set")
    return parser


def positive(text: str) -> int:
    """Convert the value of a flag to an integer > 0."""
    if int(text) <= 0:
        raise argparse.ArgumentTypeError(f"must be > 0, not {text}")
    return int(text)


def not_negative(text: str) -> int:
    """Convert the value of a flag to an integer >= 0."""
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, not {text}")
    return int(text)


def clip_seconds(flags: argparse.Namespace) -> float:
    """Return the length of the model's clips, in seconds."""
    if flags.spectrograms:
        return gk.datasets.FMA_SECONDS
    if flags.smoke:
        return 1.0
    return 3.0 if flags.data_dir is None else 10.0


def load_data(flags: argparse.Namespace) -> gk.datasets.Dataset:
    """Return the dataset that the flags select.

    Raises:
        ValueError, OSError: the data cannot be used.
    """
    data = _load_collection(flags)
    return data if flags.fold is None else data.fold(flags.fold, seed=flags.seed)


def _load_collection(flags):
    """Return the dataset that the flags select, before it is assigned to folds."""
    protocol = None if flags.protocol == "artist_folds" else flags.protocol
    arguments = {"seed": flags.seed, **({"protocol": protocol} if protocol else {})}
    if flags.spectrograms:
        return gk.datasets.load_spectrograms(flags.spectrograms, groups=flags.groups, **arguments)
    if flags.data_dir is not None and gk.datasets.fma.is_fma(flags.data_dir):
        return gk.datasets.load_fma(flags.data_dir, flags.subset, **arguments)
    if flags.data_dir is not None:
        return gk.datasets.load_folder(flags.data_dir, **arguments)
    print(
        "Without --data-dir, a small SYNTHETIC corpus is used. Its genres are artificial sounds.\n"
        "It shows that the experiment runs, but the scores say nothing about music. Two of its files are broken on "
        "purpose.\n"
    )
    return gk.datasets.load_synthetic(**arguments)


def parse_flags(doc: str | None, network: bool, spectrograms: bool) -> argparse.Namespace:
    """Return the flags of the command line. With --resume, return the saved flags of the run to resume.

    Raises:
        SystemExit: a flag is invalid, or the run cannot be resumed.
    """
    parser = make_parser(doc, network, spectrograms)
    flags = parser.parse_args()
    if flags.resume is None:
        if spectrograms and not flags.spectrograms:
            parser.error("--spectrograms is required")
        return flags
    if len(sys.argv) != 2 + (sys.argv[1] == "--resume"):
        parser.error("--resume takes no other flag, because the flags of the run are read from its folder")
    path = os.path.join(flags.resume, CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        script, saved = os.path.basename(config["command"][1]), config["flags"]
        if script != os.path.basename(sys.argv[0]):
            raise SystemExit(f"{flags.resume} is a run of {script}. Resume it with that script.")
        if set(saved) != set(vars(flags)) - {"resume"}:
            raise ValueError("the names of the saved flags differ from the flags of this script")
        for name in ("data_dir", "spectrograms", "groups", "vggish", "pretrained"):
            saved_path = os.path.join(config["working_directory"], saved.get(name) or "")
            if saved.get(name) and os.path.exists(saved_path):
                saved[name] = saved_path  # The path is now valid in any working directory.
        if config.get("finished"):
            raise SystemExit(f"{flags.resume} is a finished run. There is nothing to resume.")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SystemExit(f"There is no run that can be resumed in {flags.resume}. {path}: {error!r}") from error
    return argparse.Namespace(**{**vars(flags), **saved, "resume": flags.resume, "output": flags.resume})


@contextlib.contextmanager
def folder_of_run(flags: argparse.Namespace) -> Iterator[str]:
    """Context manager that creates and locks the output folder. No other process can use it at the same time.

    Yields:
        Path of the folder.

    Raises:
        SystemExit: the folder contains files, is locked, or cannot be created.
    """
    folder = output_folder(flags)
    if not process.is_first_process():
        yield folder  # The first process locks the folder.
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder, may_contain_files=flags.resume is not None))
        except (ValueError, BlockingIOError) as error:
            raise SystemExit(str(error)) from error
        except OSError as error:
            raise SystemExit(f"The output folder cannot be used: {error}") from error
        yield folder


def output_folder(flags: argparse.Namespace) -> str:
    """Return the path of the output folder. By default, it is a new folder."""
    if flags.output:
        return flags.output
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    default = os.path.join("runs", f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    return next(path for path in _numbered(default) if not os.path.exists(path))


@contextlib.contextmanager
def locked_folder(folder: str, may_contain_files: bool) -> Iterator[None]:
    """Context manager that creates and locks a folder. No other process can use it at the same time.

    Args:
        folder: path of the folder.
        may_contain_files: whether the folder may contain files.

    Raises:
        ValueError: the folder contains files.
        BlockingIOError: another process is using the folder.
        OSError: the folder cannot be created or written.
    """
    os.makedirs(folder, exist_ok=True)
    if not may_contain_files and set(os.listdir(folder)) - {LOCK}:
        raise ValueError(f"The output must be a new or empty folder, but {folder} contains files.")
    lock = filelock.FileLock(os.path.join(folder, LOCK))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise BlockingIOError(f"Another process is using the run in {folder}.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(lock.lock_file)
        lock.release()


def _numbered(path):
    """Yield a path, then the path with the endings -2, -3 and so on. Two runs may start in the same second."""
    yield path
    for number in itertools.count(2):
        yield f"{path}-{number}"
