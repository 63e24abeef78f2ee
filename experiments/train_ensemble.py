"""How well can the genre of a track be told? The best recipe that we found.

    python experiments/train_ensemble.py --spectrograms fma_small_frames.npz                       # 128 spectra of each track
    python experiments/train_ensemble.py --spectrograms fma_small_frames.npz --protocol random     # 80/20 by lot, as in 2023
    python experiments/train_ensemble.py --data-dir FMA                                      # the music itself, every spectrum

Small networks made for spectrograms, of two kinds, three of each with other seeds, trained apart from random weights
for a fixed number of epochs (validation chooses the temperature and when to be unsure, and nothing else), then joined
into one model by the mean of their logits. Under the random protocol, whose artists stand on both sides, three of one
kind with lighter augmentation, and a kernel machine (kernel.py) that counts as much as they do together. `genrekeras
fma spectrograms` makes such a file of FMA's clips; of music itself three crops of 10 s are heard of each clip, one in an
epoch. The model that is saved hears waveforms, either way.

Expected: 78 minutes on one thread (PyTorch) on the spectra of fma_small, 61.1 % of its 800 validation tracks; under
the random protocol 65.8 % of 1,442, in 79 minutes of an older core (AMD Zen 3, the sum of its parts).
"""

import functools
import os
import process_settings  # noqa: F401

import genrekeras as gk
import keras
from genrekeras.models.presets import save_float16
from genrekeras.runs import recipe, runner
from genrekeras.utils.io import atomic_write, format_size


def main(run):
    images, weights = recipe.training_images(run), run.class_weight()
    members, scores = [], {}
    epochs = {backbone: 2 if run.flags.smoke else count for backbone, count in recipe.epochs(run).items()}
    for place in range(1 if run.flags.smoke else run.flags.members):
        for backbone, count in epochs.items():
            seed = 100 * run.flags.seed + place
            train = functools.partial(recipe.trained, run, images, weights, backbone, seed, count)
            members.append(member(run, f"{backbone}-{seed}", train, scores))
    counts = [1] * len(members)
    if recipe.leaks(run):
        members.append(member(run, "mel_kernel", lambda: recipe.fitted(run, images, weights, run.flags.seed), scores))
        counts.append(sum(counts))
    model = gk.models.ensemble.average(members, counts)
    with atomic_write(run.model_file) as temporary:
        model.save(temporary)
    run.save_config(
        epochs=epochs,
        batch_size=recipe.BATCH_SIZE,
        model=model.get_config(),
        optimizer={"name": "adamw", "learning_rate": recipe.LEARNING_RATE, "weight_decay": recipe.WEIGHT_DECAY},
        epochs_fixed=True,
        validation_accuracy_of_members=scores,
    )
    run.evaluate(**recipe.notes(run, recipe.SEARCHED))
    save_small(run)


def member(run, name, train, scores):
    """A model of its own; it is there in a run that was broken off behind it."""
    path = run.path(f"{name}.keras")
    if not os.path.exists(path):
        model = train()
        with atomic_write(path) as temporary:
            model.save(temporary)
    model = keras.saving.load_model(path)
    if len(run.data.validation):
        report = gk.evaluation.evaluate(model, run.data.validation)
        print(f"{name}: {report}\n")
        scores[name] = report.accuracy
    return model


def save_small(run):
    """The same model in half the room, and what that costs."""
    path = run.path("model_half.keras")
    save_float16(keras.saving.load_model(run.model_file), path)
    print(f"{path}: {format_size(os.path.getsize(path))}, weights in 16 bits")
    if len(run.data.validation):
        for file in (run.model_file, path):
            report = gk.evaluation.evaluate(keras.saving.load_model(file), run.data.validation)
            print(f"  {os.path.basename(file)}: {report}")


if __name__ == "__main__":
    runner.start(main, __doc__, spectrograms=True)
