"""How well can the genre of a track be told? The best recipe that we found.

    python experiments/best.py --frames fma_small_frames.npz                       # 128 spectra of each track
    python experiments/best.py --frames fma_small_frames.npz --protocol random     # 80/20 by lot, as in 2023
    python experiments/best.py --data-dir FMA                                      # the music itself, every spectrum

Small networks made for spectrograms, of two kinds, three of each with other seeds, trained apart from random weights
for a fixed number of epochs (validation chooses nothing but the temperature), then joined into one model by the mean of
their logits. make_frames.py makes such a file of FMA's clips; of music itself three crops of 10 s are heard of each
clip. The model that is saved hears waveforms, either way.
"""

import os

import common  # before keras: it chooses the backend
import genrekeras as gk
import keras
from genrekeras.classifier import FollowEpoch
from genrekeras.files import size, whole_file
from genrekeras.presets import save_in_half

EPOCHS = {"mel_cnn": 22, "mel_resnet": 40}
ABOUT = (
    "The clips that it was trained on are under their artists' licences, of FMA mostly for non-commercial use only: "
    "this model is for research. Genres are those of who uploaded the music; many a track has several, or none of "
    "these. The recipe was searched on the same validation clips, so that the score on them is somewhat too good."
)
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05


def main():
    run = common.start(__doc__, frames=True)
    images = training_images(run)
    members, scores = [], {}
    for place in range(1 if run.flags.smoke else run.flags.members):
        for backbone, epochs in EPOCHS.items():
            seed = 100 * run.flags.seed + place
            model = trained(run, images, backbone, seed, 2 if run.flags.smoke else epochs)
            model.save(os.path.join(run.folder, f"{backbone}-{seed}.keras"))
            members.append(model)
            if len(run.data.validation):
                report = gk.evaluation.evaluate(model, run.data.validation)
                print(f"{backbone}, seed {seed}: {report}\n")
                scores[f"{backbone}-{seed}"] = report.accuracy
    model = gk.ensemble.join(members)
    with whole_file(run.model_file) as temporary:
        model.save(temporary)
    run.save_config(
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        model=model.get_config(),
        optimizer={"name": "adamw", "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        epochs_fixed=True,
        validation_accuracy_of_members=scores,
    )
    run.evaluate(about=ABOUT)
    save_small(run)


def save_small(run):
    """The same model in half the room, and what that costs."""
    path = os.path.join(run.folder, "model_half.keras")
    save_in_half(keras.saving.load_model(run.model_file), path)
    print(f"{path}: {size(os.path.getsize(path))}, weights in 16 bits")
    if len(run.data.validation):
        for file in (run.model_file, path):
            report = gk.evaluation.evaluate(keras.saving.load_model(file), run.data.validation)
            print(f"  {os.path.basename(file)}: {report}")


def front_end(run):
    if run.flags.frames:
        return gk.datasets.layers_of_frames()
    return gk.datasets.layers_of_frames(frames=None, sample_rate=run.data.sample_rate)


def classifier(run, backbone, **options):
    return gk.GenreClassifier(
        backbone,
        genres=run.data.genres,
        clip_seconds=run.clip_seconds,
        front_end=front_end(run),
        fine_tune="all",
        pretrained=None,
        **options,
    )


def training_images(run):
    if run.flags.frames:
        return run.data.train
    return gk.datasets.images_of(run.data.train, classifier(run, "mel_cnn"), **common.WHOLE_TRACKS)


def trained(run, images, backbone, seed, epochs):
    """One network, from random weights."""
    keras.utils.set_random_seed(seed)
    augmentation = [
        gk.layers.RandomRecording(seed=seed),
        gk.layers.SpecAugment(frequency_masks=2, frequency_width=20, time_masks=0, seed=seed),
    ]
    model = classifier(run, backbone, dropout=0.3, image_augmentation=augmentation)
    data = gk.datasets.image_batches(images, BATCH_SIZE, shuffle=True, seed=seed, mix=0.5)
    fit(model, data, epochs)
    return model


def fit(model, data, epochs, learning_rate=LEARNING_RATE, average=True):
    """Train the network of a model on images with labels as one-hot rows; warm-up and a cosine, no epoch is chosen.

    Args:
        average: bool, keep a moving average of the weights, which `fit` puts in their place at its end.
    """
    steps = len(data) * epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=learning_rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=WEIGHT_DECAY, global_clipnorm=2.0, use_ema=average, ema_momentum=0.998
    )
    trainable = model.image_model.trainable_variables
    optimizer.exclude_from_weight_decay([weight for weight in trainable if len(weight.shape) < 2])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.image_model.compile(optimizer, loss, metrics=["accuracy"])
    model.image_model.fit(data, epochs=epochs, shuffle=False, callbacks=[FollowEpoch(data)], verbose=2)


if __name__ == "__main__":
    main()
