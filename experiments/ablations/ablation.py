"""Which parts of a recipe matter? Ablations of the 2023 system and of train_ensemble.py.

    python experiments/ablations/ablation.py --spectrograms fma_small.npz
    python experiments/ablations/ablation.py --spectrograms fma_small.npz --only frozen trained --seeds 3

All ablations use 128 frames of each track. EfficientNet-Lite0 represents the pretrained networks, because a package
contains its ImageNet weights. Each ablation is trained for a fixed number of epochs. Then it is scored on the
validation split. For frozen networks, "best epoch" is the accuracy if the epoch is chosen on the validation split.
"trained_as_recipe" and "..._from_random" have the augmentation and mixing of the recipe, but no moving average of the
weights.

Each run adds a line of JSON to the file --output. Runs that this file already contains are not repeated.
ablation_table.py compares the runs.

Expected: on one core, a frozen network or the kernel ridge regression takes one to two minutes, and a trained network
takes 14 minutes or more. docs/results/fma-small.md has the scores.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import process_settings  # noqa: F401

import ablation_table
import genrekeras as gk
import keras
from genrekeras.runs import recipe, runner
from genrekeras.utils import process
from genrekeras.utils.io import atomic_write

BATCH_SIZE, VARIANTS = 64, 4


class Ablation(NamedTuple):
    """The settings of a model and of its training."""

    backbone: str = "efficientnet_lite0"
    pretrained: str | None = "imagenet"
    stem: str = "fold"
    fine_tune: str = "head"
    dropout: float = 0.5
    augmentation: tuple = ()  # keys of AUGMENTATIONS
    mix_probability: float = 0.0
    epochs: int = 30
    learning_rate: float = 1e-3
    use_ema: bool = False
    label_smoothing: float = 0.1


# The gain of 2023 is omitted. It has no effect, because the decibels of an image are relative to the peak of the clip.
AUGMENTATIONS = {
    "noise of 2023": lambda seed: gk.layers.ImageNoise(sigma=0.1, share=0.2, seed=seed),
    "channel effects": lambda seed: recipe.augmentation(seed)[0],
    "masks": lambda seed: recipe.augmentation(seed)[1],
    "light channel effects": lambda seed: recipe.augmentation(seed, light=True)[0],
    "light masks": lambda seed: recipe.augmentation(seed, light=True)[1],
}
BOTH = ("channel effects", "masks")
TRAINED = Ablation(fine_tune="all", epochs=8)
AUGMENTED = TRAINED._replace(augmentation=BOTH, mix_probability=0.5)
RECIPE = AUGMENTED._replace(
    backbone="mel_resnet", pretrained=None, dropout=0.3, epochs=40, learning_rate=recipe.LEARNING_RATE, use_ema=True
)
ABLATIONS = {
    "frozen": Ablation(),
    "frozen_no_dropout": Ablation(dropout=0.0),
    "frozen_augmented_as_2023": Ablation(augmentation=("noise of 2023",)),
    "frozen_augmented": Ablation(augmentation=BOTH),
    "new_stem": Ablation(stem="new", fine_tune="stem", epochs=8),
    "trained": TRAINED,
    "trained_augmented_as_2023": TRAINED._replace(augmentation=("noise of 2023",)),
    "trained_as_recipe": AUGMENTED,
    "trained_from_random": AUGMENTED._replace(pretrained=None),
    "efficientnet_b0_from_random": AUGMENTED._replace(backbone="efficientnet_b0", pretrained=None),
    "resnet50_from_random": AUGMENTED._replace(backbone="resnet50", pretrained=None),
    "kernel_ridge": Ablation(backbone="mel_kernel", pretrained=None, fine_tune="all", epochs=0),
    "recipe": RECIPE,
    "recipe_light": RECIPE._replace(augmentation=("light channel effects", "light masks")),
    "recipe_no_channel_effects": RECIPE._replace(augmentation=("masks",)),
    "recipe_no_masks": RECIPE._replace(augmentation=("channel effects",)),
    "recipe_no_augmentation": RECIPE._replace(augmentation=()),
    "recipe_no_mixing": RECIPE._replace(mix_probability=0.0),
    "recipe_no_ema": RECIPE._replace(use_ema=False),
    "recipe_no_smoothing": RECIPE._replace(label_smoothing=0.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--spectrograms",
        required=True,
        metavar="FILE",
        help=".npz file of spectrograms that `genrekeras fma spectrograms` wrote",
    )
    add(
        "--protocol",
        default="official",
        choices=("official", "random"),
        help="how tracks are assigned to training and validation (default: official)",
    )
    add(
        "--only",
        nargs="+",
        default=list(ABLATIONS),
        choices=ABLATIONS,
        metavar="ABLATION",
        help=f"ablations to run (default: all): {', '.join(ABLATIONS)}",
    )
    add("--seeds", type=int, default=1, help="number of runs of each ablation, with the seeds 0, 1, ... (default: 1)")
    add(
        "--output",
        default=ablation_table.RESULTS,
        metavar="FILE",
        help="file to add the results to (default: experiments/results/ablations.jsonl)",
    )
    flags = parser.parse_args()
    process.configure()
    data = gk.datasets.load_spectrograms(flags.spectrograms, flags.protocol)
    print(data)
    rows = read_rows(flags.output)
    if any(row["protocol"] == flags.protocol and row["data"] != data.train.fingerprint for row in rows):
        parser.error(f"--output {flags.output} contains runs on other tracks. Choose another file")
    for seed in range(flags.seeds):
        for name in flags.only:
            run = {"ablation": name, "protocol": flags.protocol, "seed": seed, "data": data.train.fingerprint}
            run |= {"settings": str(ABLATIONS[name]), "processor": runner.processor()}
            if not any(run.items() <= row.items() for row in rows):
                rows.append({**run, **train_and_score(name, data, seed)})
                with open(flags.output, "a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    ablation_table.print_tables(rows)


def read_rows(path):
    """Return the rows of a file of results. If its last line is incomplete, remove that line from the file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        *lines, incomplete = file.read().split("\n")
    if incomplete:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    return [json.loads(line) for line in lines]


def train_and_score(name, data, seed):
    """Train an ablation, and return a dict of its results on the validation split."""
    start = time.process_time()
    keras.utils.set_random_seed(seed)
    ablation = ABLATIONS[name]
    model = gk.GenreClassifier(
        ablation.backbone,
        data.genres,
        clip_seconds=gk.datasets.FMA_SECONDS,
        front_end=recipe.front_end_of(data.train),
        stem=ablation.stem,
        fine_tune=ablation.fine_tune,
        pretrained=ablation.pretrained,
        dropout=ablation.dropout,
        image_augmentation=[AUGMENTATIONS[kind](seed) for kind in ablation.augmentation],
    )
    best_epoch = None
    if ablation.fine_tune == "head":
        best_epoch = fit_head(model, ablation, data, seed)
    elif ablation.backbone == "mel_kernel":
        gk.training.fit_kernel_ridge(model, data.train, seed=seed)
    else:
        options = {"shuffle": True, "seed": seed, "mix_probability": ablation.mix_probability, "one_hot": True}
        batches = gk.datasets.image_batches(data.train, BATCH_SIZE, **options)
        training = ablation.learning_rate, ablation.use_ema, ablation.label_smoothing
        recipe.fit(model, batches, ablation.epochs, *training)
    report = gk.evaluation.evaluate(model, data.validation)
    seconds = round(time.process_time() - start)
    print(f"{name}, seed {seed}: {report}; {seconds} s of processor time\n", flush=True)
    hits = "".join("1" if hit else "0" for hit in report.predictions == report.labels)  # one digit per track
    return {"accuracy": report.accuracy, "best_epoch": best_epoch, "seconds": seconds, "hits": hits}


def fit_head(model, ablation, data, seed):
    """Train the last layer, and return the validation accuracy of the best epoch."""
    variants = VARIANTS if ablation.augmentation else 1
    train = gk.training.extract_features(
        model, data.train, crops=variants, augment=bool(ablation.augmentation), seed=seed
    )
    validation = gk.training.extract_features(model, data.validation)
    steps = -(-len(data.train) // BATCH_SIZE) * ablation.epochs
    rate = keras.optimizers.schedules.CosineDecay(ablation.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"batch_size": BATCH_SIZE, "epochs": ablation.epochs, "seed": seed, "verbose": 0}
    return max(gk.training.fit_head(model, train, validation, **options).history["val_accuracy"])


if __name__ == "__main__":
    main()
