"""Which choices of the 2023 system pay? Frozen or trained, which stem, dropout, augmentation, and how data was split.

    python experiments/choices_of_2023.py --frames fma_small_frames.npz
    python experiments/choices_of_2023.py --frames fma_small_frames.npz --protocol random --only frozen new_stem trained

On 128 spectra of each track. EfficientNet-Lite0 stands for the pretrained networks, since ImageNet's weights of it
come from a package. Each configuration is trained for a fixed number of epochs and scored on validation once, at its
end; "best epoch" is what one would read off by choosing the epoch on the scores that are reported (frozen ones only).
A line of JSON for each run goes to --output, which is added to; runs that stand there already are not made again.

Expected: see README, "What pays".
"""

import argparse
import json
import os
import time
from typing import NamedTuple

import genrekeras as gk
import keras
import numpy as np
import recipe

BATCH_SIZE, VARIANTS = 64, 4


class Choice(NamedTuple):
    """A configuration."""

    backbone: str = "efficientnet_lite0"
    pretrained: str | None = "imagenet"
    stem: str = "fold"
    fine_tune: str = "head"
    dropout: float = 0.5
    augmentation: str | None = None  # "2023" or "ours"
    epochs: int = 30
    learning_rate: float = 1e-3


CHOICES = {
    "frozen": Choice(),
    "frozen_no_dropout": Choice(dropout=0.0),
    "frozen_augmented_as_2023": Choice(augmentation="2023"),
    "frozen_augmented": Choice(augmentation="ours"),
    "new_stem": Choice(stem="new", fine_tune="stem", epochs=8),
    "trained_plain": Choice(fine_tune="all", epochs=8),
    "trained_augmented_as_2023": Choice(fine_tune="all", epochs=8, augmentation="2023"),
    "trained": Choice(fine_tune="all", epochs=8, augmentation="ours"),
    "trained_from_random": Choice(pretrained=None, fine_tune="all", epochs=8, augmentation="ours"),
    "efficientnet_b0_from_random": Choice("efficientnet_b0", None, fine_tune="all", epochs=8, augmentation="ours"),
    "resnet50_from_random": Choice("resnet50", None, fine_tune="all", epochs=8, augmentation="ours"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--frames", required=True, help="npz file of spectrograms, as `genrekeras fma frames` writes it")
    add("--protocol", default="official", choices=("official", "random"), help="splits (default: official)")
    add("--only", nargs="+", default=list(CHOICES), choices=CHOICES, metavar="CHOICE", help=", ".join(CHOICES))
    add("--seeds", type=int, default=1, help="runs of each, with seeds 0, 1, ... (default: 1)")
    add("--output", default="choices.jsonl", help="file of the results (default: choices.jsonl)")
    flags = parser.parse_args()
    known = []
    if os.path.exists(flags.output):
        with open(flags.output, encoding="utf-8") as file:
            known = [json.loads(line) for line in file]
    data = gk.datasets.load_frames(flags.frames, flags.protocol)
    print(data)
    for seed in range(flags.seeds):
        for name in flags.only:
            if not any((row["choice"], row["protocol"], row["seed"]) == (name, flags.protocol, seed) for row in known):
                known.append({"choice": name, "protocol": flags.protocol, "seed": seed, **score(name, data, seed)})
                with open(flags.output, "a", encoding="utf-8") as file:
                    file.write(json.dumps(known[-1]) + "\n")
    print_table(known)


def score(name, data, seed):
    """Train one, and what it scores."""
    began = time.monotonic()
    keras.utils.set_random_seed(seed)
    choice = CHOICES[name]
    model = gk.GenreClassifier(
        choice.backbone,
        clip_seconds=gk.datasets.FMA_SECONDS,
        front_end=gk.datasets.layers_of_frames(),
        stem=choice.stem,
        fine_tune=choice.fine_tune,
        pretrained=choice.pretrained,
        dropout=choice.dropout,
        image_augmentation=augmentation(choice.augmentation, seed),
    )
    best_epoch = None
    if choice.fine_tune == "head":
        best_epoch = fit_head(model, choice, data, seed)
    else:
        mix = 0.5 if choice.augmentation == "ours" else 0.0
        batches = gk.datasets.image_batches(data.train, BATCH_SIZE, shuffle=True, seed=seed, mix=mix, one_hot=True)
        recipe.fit(model, batches, choice.epochs, choice.learning_rate, average=choice.augmentation == "ours")
    report = gk.evaluation.evaluate(model, data.validation)
    seconds = round(time.monotonic() - began)
    print(f"{name}, seed {seed}: {report}; {seconds} s\n", flush=True)
    hits = (report.predictions == report.labels).astype(int).tolist()
    return {"accuracy": report.accuracy, "best_epoch": best_epoch, "seconds": seconds, "hits": hits}


def fit_head(model, choice, data, seed):
    """Train the last layer; the best accuracy on validation of all epochs."""
    variants = VARIANTS if choice.augmentation else 1
    train = gk.features.extract(model, data.train, crops=variants, augment=bool(choice.augmentation), seed=seed)
    validation = gk.features.extract(model, data.validation)
    steps = -(-len(data.train) // BATCH_SIZE) * choice.epochs
    rate = keras.optimizers.schedules.CosineDecay(choice.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"batch_size": BATCH_SIZE, "epochs": choice.epochs, "seed": seed, "verbose": 0}
    return max(gk.features.fit_head(model, train, validation, **options).history["val_accuracy"])


def augmentation(name, seed):
    """That of 2023 is noise; its gain is not seen, whatever the front end: the image begins at the clip's own peak."""
    if name is None:
        return []
    if name == "2023":
        return [gk.layers.ImageNoise(sigma=0.1, share=0.2, seed=seed)]
    masks = gk.layers.SpecAugment(frequency_masks=2, frequency_width=20, time_masks=0, seed=seed)
    return [gk.layers.RandomRecording(seed=seed), masks]


def print_table(rows):
    """Of each choice and protocol: mean and spread over seeds, what the best epoch would claim, and minutes."""
    print("| choice | protocol | seeds | validation, mean (each) | best epoch | minutes |\n|---|---|---|---|---|---|")
    keys = dict.fromkeys((row["choice"], row["protocol"]) for row in rows)
    for name, protocol in keys:
        own = [row for row in rows if (row["choice"], row["protocol"]) == (name, protocol)]
        each = [100 * row["accuracy"] for row in own]
        best_epochs = [100 * row["best_epoch"] for row in own if row["best_epoch"] is not None]
        print(
            f"| {name} | {protocol} | {len(own)} | {np.mean(each):.1f} ({', '.join(f'{one:.1f}' for one in each)}) | "
            f"{f'{np.mean(best_epochs):.1f}' if best_epochs else ''} | "
            f"{np.mean([row['seconds'] for row in own]) / 60:.1f} |"
        )


if __name__ == "__main__":
    main()
