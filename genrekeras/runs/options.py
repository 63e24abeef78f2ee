"""The flags of the experiments, and what they name: data and the run's folder."""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import sys

import filelock
import genrekeras as gk
from genrekeras.models import backbones

EPOCHS = 20
WHOLE_TRACKS = {"crop": "even", "crops": 3}  # of 30 s, three of 10 s
CONFIG, LOCK = "config.json", ".lock"


def parser(doc, network, spectrograms):
    """The flags of an experiment, as `common.start` takes them."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    if spectrograms:
        add("--spectrograms", help="npz file of spectrograms, as `genrekeras fma spectrograms` writes it, in place of --data-dir")
        if network:
            add("--members", type=positive, default=3, help="networks of each kind (default: 3)")
    add(
        "--data-dir",
        help="folder with FMA's metadata and clips, or with one folder of music a genre (default: a small synthetic "
        "corpus)",
    )
    add("--subset", default="small", choices=gk.datasets.fma.SUBSETS, help="of FMA (default: small)")
    add(
        "--protocol",
        choices=gk.datasets.PROTOCOLS,
        help="splits (default: official; artist_album for music of your own)",
    )
    add("--seed", type=not_negative, default=0, help="of weights, order, dropout and splits by lot (default: 0)")
    add("--output", help="folder of the run, new or empty (default: runs/EXPERIMENT-TIME)")
    add("--smoke", action="store_true", help="few clips, short ones, 2 epochs: does it run?")
    add(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often the state is saved within an epoch, to be gone on from (default: 60)",
    )
    add("--resume", metavar="FOLDER", help="go on with the run in this folder; takes no other flag")
    made.set_defaults(spectrograms=None)
    if spectrograms or not network:
        made.set_defaults(wandb=False, precision="float32")
        return made
    add("--epochs", type=positive, help=f"default: {EPOCHS}")
    add(
        "--pretrained",
        help="imagenet, none, or a .weights.h5 file (default: imagenet, and if it cannot be had, none: train all)",
    )
    add("--stem", default="fold", choices=backbones.STEMS, help="first convolution (default: fold)")
    add(
        "--fine-tune",
        choices=backbones.FINE_TUNE,
        help="what is trained (default: head; stem with --stem new; all with --pretrained none)",
    )
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        help="mixed: the network in 16 bits, for GPUs; front end and weights stay in float32 (default: float32)",
    )
    add("--jit", action="store_true", help="compile the training step (torch.compile or XLA)")
    add("--wandb", action="store_true", help="log to Weights & Biases; offline where no key is set")
    return made


def positive(text):
    if int(text) <= 0:
        raise argparse.ArgumentTypeError(f"must be > 0, not {text}")
    return int(text)


def not_negative(text):
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, not {text}")
    return int(text)


def clip_seconds(flags):
    if flags.spectrograms:
        return gk.datasets.FMA_SECONDS
    if flags.smoke:
        return 1.0
    return 3.0 if flags.data_dir is None else 10.0


def load_data(flags):
    options = {"seed": flags.seed, **({"protocol": flags.protocol} if flags.protocol else {})}
    if flags.spectrograms and flags.data_dir:
        raise ValueError("--spectrograms and --data-dir name two sets of data: leave one out")
    if flags.spectrograms:
        return gk.datasets.load_spectrograms(flags.spectrograms, **options)
    if flags.data_dir is not None and gk.datasets.fma.is_fma(flags.data_dir):
        return gk.datasets.load_fma(flags.data_dir, flags.subset, **options)
    if flags.data_dir is not None:
        return gk.datasets.load_folder(flags.data_dir, **options)
    print(
        "No --data-dir: a small SYNTHETIC corpus stands in for music, its genres are made-up sounds.\n"
        "It shows that everything works; its scores say nothing about music. Two of its files are broken on purpose.\n"
    )
    return gk.datasets.load_synthetic(**options)


def read(doc, network, spectrograms):
    """Return the flags of the command line, or with --resume those of the run that is to be resumed."""
    made = parser(doc, network, spectrograms)
    flags = made.parse_args()
    if flags.resume is None:
        return flags
    if len(sys.argv) != 2 + (sys.argv[1] == "--resume"):
        made.error("--resume takes no other flag: those of the run are in its folder")
    path = os.path.join(flags.resume, CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        script, saved = os.path.basename(config["command"][1]), config["flags"]
        if script != os.path.basename(sys.argv[0]):
            raise SystemExit(f"{flags.resume} is a run of {script}: resume it with that script.")
        if set(saved) != set(vars(flags)) - {"resume"}:
            raise ValueError("its flags are not those of this script")
        for name in ("data_dir", "spectrograms", "pretrained"):
            there = os.path.join(config["working_directory"], saved.get(name) or "")
            if saved.get(name) and os.path.exists(there):
                saved[name] = there  # whatever folder this is called from
        if config.get("finished"):
            raise SystemExit(f"{flags.resume} is finished: there is nothing to resume.")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise SystemExit(f"There is no run that can be resumed in {flags.resume}: {path}: {error!r}") from error
    return argparse.Namespace(**{**vars(flags), **saved, "resume": flags.resume, "output": flags.resume})


@contextlib.contextmanager
def folder_of_run(flags):
    """The run's folder, which is its own: another run, or a second call of this one, is refused."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    made = os.path.join("runs", f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    folder = flags.output or next(path for path in _names(made) if not os.path.exists(path))
    try:
        os.makedirs(folder, exist_ok=True)
        if flags.resume is None and set(os.listdir(folder)) - {LOCK}:
            raise SystemExit(f"--output must be a new or empty folder, and {folder} holds files.")
        lock = filelock.FileLock(os.path.join(folder, LOCK))
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise SystemExit(f"Another process is at work on the run in {folder}.") from error
    except OSError as error:
        raise SystemExit(f"The run's folder cannot be used: {error}") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            os.remove(lock.lock_file)
        lock.release()


def _names(path):
    """A path, and others like it: clocks go back, and two runs may begin in one second."""
    yield path
    for number in itertools.count(2):
        yield f"{path}-{number}"
