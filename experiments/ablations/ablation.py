"""Which choices pay? Those of 2023 (frozen or trained, which stem, dropout, augmentation), and those of best.py.

    python experiments/ablations/ablation.py --spectrograms fma_small_frames.npz
    python experiments/ablations/ablation.py --spectrograms fma_small_frames.npz --protocol random --only frozen trained --seeds 3

On 128 spectra of each track. EfficientNet-Lite0 stands for the pretrained networks, since ImageNet's weights of it
come from a package. Each choice is trained for a fixed number of epochs and scored on validation once, at its end;
"best epoch" is what one would claim by choosing the epoch on the very scores that are reported (frozen networks only).
"as_best" and "from_random" have the augmentation and mixing of best.py at once, but no moving average of the weights.
A line of JSON for each run is added to --output; runs that stand there already are not made again. choices.jsonl beside
this script holds those made so far (`--output experiments/results/ablations.jsonl` adds to them); choices_table.py compares them.

Expected: a frozen network, or the kernel machine of kernel.py, one to two minutes on a core, a trained network 14
minutes on one and more; README has the scores.
"""

import argparse
import json
import os
import time
from typing import NamedTuple

import choices_table
import genrekeras as gk
import keras
from genrekeras.runs import recipe, runner
from genrekeras.utils.io import atomic_write

BATCH_SIZE, VARIANTS = 64, 4


class Choice(NamedTuple):
    """A configuration."""

    backbone: str = "efficientnet_lite0"
    pretrained: str | None = "imagenet"
    stem: str = "fold"
    fine_tune: str = "head"
    dropout: float = 0.5
    augmentation: tuple = ()  # of the names of AUGMENTATIONS
    mix: float = 0.0
    epochs: int = 30
    learning_rate: float = 1e-3
    average: bool = False
    label_smoothing: float = 0.1


# Gain, the other half of the augmentation of 2023, is not seen: the image begins at the clip's own peak.
AUGMENTATIONS = {
    "noise of 2023": lambda seed: gk.layers.ImageNoise(sigma=0.1, share=0.2, seed=seed),
    "recording": lambda seed: recipe.augmentation(seed)[0],
    "masks": lambda seed: recipe.augmentation(seed)[1],
    "light recording": lambda seed: recipe.augmentation(seed, light=True)[0],
    "light masks": lambda seed: recipe.augmentation(seed, light=True)[1],
}
OURS = ("recording", "masks")
TRAINED = Choice(fine_tune="all", epochs=8)
AUGMENTED = TRAINED._replace(augmentation=OURS, mix_probability=0.5)
RECIPE = AUGMENTED._replace(
    backbone="mel_resnet", pretrained=None, dropout=0.3, epochs=40, learning_rate=recipe.LEARNING_RATE, average=True
)
CHOICES = {
    "frozen": Choice(),
    "frozen_no_dropout": Choice(dropout=0.0),
    "frozen_augmented_as_2023": Choice(augmentation=("noise of 2023",)),
    "frozen_augmented": Choice(augmentation=OURS),
    "new_stem": Choice(stem="new", fine_tune="stem", epochs=8),
    "trained": TRAINED,
    "trained_augmented_as_2023": TRAINED._replace(augmentation=("noise of 2023",)),
    "trained_as_best": AUGMENTED,
    "trained_from_random": AUGMENTED._replace(pretrained=None),
    "efficientnet_b0_from_random": AUGMENTED._replace(backbone="efficientnet_b0", pretrained=None),
    "resnet50_from_random": AUGMENTED._replace(backbone="resnet50", pretrained=None),
    "kernel": Choice(backbone="mel_kernel", pretrained=None, fine_tune="all", epochs=0),
    "recipe": RECIPE,
    "recipe_light": RECIPE._replace(augmentation=("light recording", "light masks")),
    "recipe_no_recording": RECIPE._replace(augmentation=("masks",)),
    "recipe_no_masks": RECIPE._replace(augmentation=("recording",)),
    "recipe_no_augmentation": RECIPE._replace(augmentation=()),
    "recipe_no_mixing": RECIPE._replace(mix_probability=0.0),
    "recipe_no_average": RECIPE._replace(average=False),
    "recipe_no_smoothing": RECIPE._replace(label_smoothing=0.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--spectrograms", required=True, help="npz file of spectrograms, as `genrekeras fma spectrograms` writes it")
    add("--protocol", default="official", choices=("official", "random"), help="splits (default: official)")
    add("--only", nargs="+", default=list(CHOICES), choices=CHOICES, metavar="CHOICE", help=", ".join(CHOICES))
    add("--seeds", type=int, default=1, help="runs of each, with seeds 0, 1, ... (default: 1)")
    add("--output", default="choices.jsonl", help="file of the results (default: choices.jsonl)")
    flags = parser.parse_args()
    data = gk.datasets.load_spectrograms(flags.spectrograms, flags.protocol)
    print(data)
    known = read(flags.output)
    if any(row["protocol"] == flags.protocol and row["data"] != data.train.fingerprint for row in known):
        parser.error(f"--output {flags.output} holds runs on other tracks: name another file")
    for seed in range(flags.seeds):
        for name in flags.only:
            about = {"choice": name, "protocol": flags.protocol, "seed": seed, "data": data.train.fingerprint}
            about |= {"settings": str(CHOICES[name]), "processor": runner.processor()}
            if not any(about.items() <= row.items() for row in known):
                known.append({**about, **score(name, data, seed)})
                with open(flags.output, "a", encoding="utf-8") as file:
                    file.write(json.dumps(known[-1]) + "\n")
    choices_table.print_tables(known)


def read(path):
    """The rows that are there; a last line that is torn goes."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        *lines, torn = file.read().split("\n")
    if torn:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    return [json.loads(line) for line in lines]


def score(name, data, seed):
    """Train one, and what it scores."""
    began = time.process_time()
    keras.utils.set_random_seed(seed)
    choice = CHOICES[name]
    model = gk.GenreClassifier(
        choice.backbone,
        data.genres,
        clip_seconds=gk.datasets.FMA_SECONDS,
        front_end=recipe.layers_like(data.train),
        stem=choice.stem,
        fine_tune=choice.fine_tune,
        pretrained=choice.pretrained,
        dropout=choice.dropout,
        image_augmentation=[AUGMENTATIONS[kind](seed) for kind in choice.augmentation],
    )
    best_epoch = None
    if choice.fine_tune == "head":
        best_epoch = fit_head(model, choice, data, seed)
    elif choice.backbone == "mel_kernel":
        gk.training.fit_kernel_ridge(model, data.train, seed=seed)
    else:
        options = {"shuffle": True, "seed": seed, "mix_probability": choice.mix, "one_hot": True}
        batches = gk.datasets.image_batches(data.train, BATCH_SIZE, **options)
        recipe.fit(model, batches, choice.epochs, choice.learning_rate, choice.average, choice.label_smoothing)
    report = gk.evaluation.evaluate(model, data.validation)
    seconds = round(time.process_time() - began)
    print(f"{name}, seed {seed}: {report}; {seconds} s of processor time\n", flush=True)
    hits = "".join("1" if hit else "0" for hit in report.predictions == report.labels)  # of each track
    return {"accuracy": report.accuracy, "best_epoch": best_epoch, "seconds": seconds, "hits": hits}


def fit_head(model, choice, data, seed):
    """Train the last layer; the best accuracy on validation of all epochs."""
    variants = VARIANTS if choice.augmentation else 1
    train = gk.training.extract_features(
        model, data.train, crops=variants, augment=bool(choice.augmentation), seed=seed
    )
    validation = gk.training.extract_features(model, data.validation)
    steps = -(-len(data.train) // BATCH_SIZE) * choice.epochs
    rate = keras.optimizers.schedules.CosineDecay(choice.learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"batch_size": BATCH_SIZE, "epochs": choice.epochs, "seed": seed, "verbose": 0}
    return max(gk.training.fit_head(model, train, validation, **options).history["val_accuracy"])


if __name__ == "__main__":
    main()
