"""How well can the genre of a track be told from 128 spectra of it? The best recipe that we found.

    python experiments/best.py --frames fma_small_frames.npz                       # official split
    python experiments/best.py --frames fma_small_frames.npz --protocol random     # 80/20 by lot, as in 2023

Small networks made for spectrograms, of two kinds, three of each with other seeds, trained apart from random weights
for a fixed number of epochs (validation chooses nothing but the temperature), then joined into one model by the mean of
their logits. The data are 128 spectra of each 30 s track (`gk.datasets.load_frames`); the model that is saved hears
waveforms.

Expected: not run as a whole yet. On fma_small's official validation (800 tracks), each on one of 2 cores (PyTorch): a
`mel_cnn` 13 minutes on seeds 0 and 1, 59.0 and 58.8 %; a `mel_resnet` 14 minutes, 60.9 and 58.9 %; both
joined 61.3 and 60.5 %.
"""

import os

import common  # before keras: it chooses the backend
import genrekeras as gk
import keras
from genrekeras.classifier import FollowEpoch
from genrekeras.files import whole_file

EPOCHS = {"mel_cnn": 22, "mel_resnet": 40}
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05


def main():
    run = common.start(__doc__, frames=True)
    members, scores = [], {}
    for place in range(1 if run.flags.smoke else run.flags.members):
        for backbone, epochs in EPOCHS.items():
            seed = 100 * run.flags.seed + place
            model = trained(run, backbone, seed, 2 if run.flags.smoke else epochs)
            model.save(os.path.join(run.folder, f"{backbone}-{seed}.keras"))
            report = gk.evaluation.evaluate(model, run.data.validation)
            print(f"{backbone}, seed {seed}: {report}\n")
            members.append(model)
            scores[f"{backbone}-{seed}"] = report.accuracy
    model = gk.ensemble.join(members)
    with whole_file(run.model_file) as temporary:
        model.save(temporary)
    run.save_config(
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        model=model.get_config(),
        optimizer={"name": "adamw", "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        validation_accuracy_of_members=scores,
    )
    run.evaluate()


def trained(run, backbone, seed, epochs):
    """One network, from random weights."""
    keras.utils.set_random_seed(seed)
    model = gk.GenreClassifier(
        backbone,
        clip_seconds=run.clip_seconds,
        front_end=gk.datasets.layers_of_frames(),
        fine_tune="all",
        pretrained=None,
        dropout=0.3,
        image_augmentation=[
            gk.layers.RandomRecording(seed=seed),
            gk.layers.SpecAugment(frequency_masks=2, frequency_width=20, time_masks=0, seed=seed),
        ],
    )
    data = gk.datasets.image_batches(run.data.train, BATCH_SIZE, shuffle=True, seed=seed, mix=0.5)
    steps = len(data) * epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=LEARNING_RATE, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=WEIGHT_DECAY, global_clipnorm=2.0, use_ema=True, ema_momentum=0.998
    )
    trainable = model.image_model.trainable_variables
    optimizer.exclude_from_weight_decay([weight for weight in trainable if len(weight.shape) < 2])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.image_model.compile(optimizer, loss, metrics=["accuracy"])
    # At its end `fit` puts the moving average of the weights in their place.
    model.image_model.fit(data, epochs=epochs, shuffle=False, callbacks=[FollowEpoch(data)], verbose=2)
    return model


if __name__ == "__main__":
    main()
