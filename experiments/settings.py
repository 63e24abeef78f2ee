"""The flags of the experiments, and what they name: data and the run's folder."""

import argparse
import datetime
import os
import sys

import genrekeras as gk  # before keras: it chooses the backend
from genrekeras import backbones

EPOCHS = 20


def parser(doc, network, frames):
    """The flags of an experiment, as `common.start` takes them."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    if frames:
        add("--frames", help="npz file of spectrograms, as `genrekeras fma frames` writes it, in place of --data-dir")
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
    add("--seed", type=int, default=0, help="of weights, order, dropout and splits by lot (default: 0)")
    add("--output", help="folder of the run, new or empty (default: runs/EXPERIMENT-TIME)")
    add("--smoke", action="store_true", help="few clips, short ones, 2 epochs: does it run?")
    made.set_defaults(frames=None)
    if frames or not network:
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


def clip_seconds(flags):
    if flags.frames:
        return gk.datasets.FMA_SECONDS
    if flags.smoke:
        return 1.0
    return 3.0 if flags.data_dir is None else 10.0


def load_data(flags):
    options = {"seed": flags.seed, **({"protocol": flags.protocol} if flags.protocol else {})}
    if flags.frames and flags.data_dir:
        raise ValueError("--frames and --data-dir name two sets of data: leave one out")
    if flags.frames:
        return gk.datasets.load_frames(flags.frames, **options)
    if flags.data_dir is not None and gk.datasets.fma.is_fma(flags.data_dir):
        return gk.datasets.load_fma(flags.data_dir, flags.subset, **options)
    if flags.data_dir is not None:
        return gk.datasets.load_folder(flags.data_dir, **options)
    print(
        "No --data-dir: a small SYNTHETIC corpus stands in for music, its genres are made-up sounds.\n"
        "It shows that everything works; its scores say nothing about music. Two of its files are broken on purpose.\n"
    )
    return gk.datasets.load_mini(**options)


def make_folder(flags):
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    folder = flags.output or os.path.join("runs", f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    try:
        os.makedirs(folder, exist_ok=True)
        if os.listdir(folder):
            raise SystemExit(f"--output must be a new or empty folder, and {folder} holds files.")
    except OSError as error:
        raise SystemExit(f"The run's folder cannot be made: {error}") from error
    return folder
