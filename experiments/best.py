"""How well can the genre of a track be told? The best recipe that we found.

    python experiments/best.py --frames fma_small_frames.npz                       # 128 spectra of each track
    python experiments/best.py --frames fma_small_frames.npz --protocol random     # 80/20 by lot, as in 2023
    python experiments/best.py --data-dir FMA                                      # the music itself, every spectrum

Small networks made for spectrograms, of two kinds, three of each with other seeds, trained apart from random weights
for a fixed number of epochs (validation chooses nothing but the temperature), then joined into one model by the mean of
their logits. `genrekeras fma frames` makes such a file of FMA's clips; of music itself three crops of 10 s are heard of
each clip, one in an epoch. The model that is saved hears waveforms, either way.

Expected: 78 minutes on one thread (PyTorch) on the spectra of fma_small, 61.1 % of its 800 validation tracks.
"""

import os

import common  # before keras: it chooses the backend
import genrekeras as gk
import keras
import recipe
from genrekeras.files import size, whole_file
from genrekeras.presets import save_in_half

ABOUT = (
    "The clips that it was trained on are under their artists' licences, of FMA mostly for non-commercial use only: "
    "this model is for research. Genres are those of who uploaded the music; many a track has several, or none of "
    "these. The recipe was searched on the same validation clips, so that the score on them is somewhat too good."
)


def main(run):
    images, weights = recipe.training_images(run), run.class_weight()
    members, scores = [], {}
    for place in range(1 if run.flags.smoke else run.flags.members):
        for backbone, epochs in recipe.EPOCHS.items():
            seed = 100 * run.flags.seed + place
            path = run.path(f"{backbone}-{seed}.keras")
            if not os.path.exists(path):  # it is there in a run that was broken off behind it
                model = recipe.trained(run, images, weights, backbone, seed, 2 if run.flags.smoke else epochs)
                with whole_file(path) as temporary:
                    model.save(temporary)
            model = keras.saving.load_model(path)
            members.append(model)
            if len(run.data.validation):
                report = gk.evaluation.evaluate(model, run.data.validation)
                print(f"{backbone}, seed {seed}: {report}\n")
                scores[f"{backbone}-{seed}"] = report.accuracy
    model = gk.ensemble.join(members)
    with whole_file(run.model_file) as temporary:
        model.save(temporary)
    run.save_config(
        epochs=recipe.EPOCHS,
        batch_size=recipe.BATCH_SIZE,
        model=model.get_config(),
        optimizer={"name": "adamw", "learning_rate": recipe.LEARNING_RATE, "weight_decay": recipe.WEIGHT_DECAY},
        epochs_fixed=True,
        validation_accuracy_of_members=scores,
    )
    run.evaluate(about=ABOUT, license="other")
    save_small(run)


def save_small(run):
    """The same model in half the room, and what that costs."""
    path = run.path("model_half.keras")
    save_in_half(keras.saving.load_model(run.model_file), path)
    print(f"{path}: {size(os.path.getsize(path))}, weights in 16 bits")
    if len(run.data.validation):
        for file in (run.model_file, path):
            report = gk.evaluation.evaluate(keras.saving.load_model(file), run.data.validation)
            print(f"  {os.path.basename(file)}: {report}")


if __name__ == "__main__":
    common.start(main, __doc__, frames=True)
