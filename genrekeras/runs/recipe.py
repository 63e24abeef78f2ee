"""What best.py and choices.py share: networks on images, and how they are trained."""

import genrekeras as gk
import keras
from genrekeras.runs import options, runner

EPOCHS = {"mel_cnn": 22, "mel_resnet": 40}
EPOCHS_WHERE_IT_LEAKS = {"mel_resnet": 40}
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05
LICENSES = (
    "The clips that it was trained on are under their artists' licences, of FMA mostly for non-commercial use only: "
    "this model is for research. Genres are those of who uploaded the music; many a track has several, or none of "
    "these."
)
SEARCHED = "The recipe was searched on the validation clips of fma_small, so that scores on them are somewhat too good."


def notes(run, *more):
    """What the card is to say of FMA's clips, where it was them that the model was trained on."""
    of_fma = run.flags.spectrograms or (run.flags.data_dir and gk.datasets.fma.is_fma(run.flags.data_dir))
    return {"about": " ".join([LICENSES, *more]), "license": "other"} if of_fma else {}


def leaks(run):
    """Whether artists and albums stand on both sides: then they are worth knowing, as is all that tells recordings."""
    return run.data.protocol == "random"


def epochs(run):
    """What is trained, and for how long."""
    return EPOCHS_WHERE_IT_LEAKS if leaks(run) else EPOCHS


def layers_like(images):
    """The front end that makes of a waveform what a `SpectrogramSplit` holds."""
    _, mels, frames, _ = images.images.shape
    return gk.datasets.sampled_logmel_front_end(frames, images.sample_rate, mels)


def front_end(run):
    if run.flags.spectrograms:
        return layers_like(run.data.train)
    return gk.datasets.sampled_logmel_front_end(frames=None, sample_rate=run.data.sample_rate)


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
    if run.flags.spectrograms:
        return run.data.train
    return gk.datasets.compute_spectrograms(run.data.train, classifier(run, "mel_cnn"), **options.WHOLE_TRACKS)


def augmentation(seed, light=False):
    """Other recordings, and masks."""
    recording = {"dynamic_range": 0.06, "equalizer_db": 1.0, "noise_db": 0.6, "shift": 2, "low_pass": 0.1}
    return [
        gk.layers.RandomChannelEffects(**recording if light else {}, seed=seed),
        gk.layers.SpecAugment(frequency_masks=2, frequency_width=8 if light else 20, time_masks=0, seed=seed),
    ]


def fitted(run, images, class_weight, seed):
    """The kernel machine."""
    model = classifier(run, "mel_kernel", dropout=0.0)
    gk.training.fit_kernel_ridge(model, images, seed=seed, class_weight=class_weight)
    return model


def trained(run, images, class_weight, backbone, seed, epochs):
    """One network, from random weights."""
    keras.utils.set_random_seed(seed)
    layers = augmentation(seed, light=leaks(run))
    model = classifier(run, backbone, dropout=0.3, image_augmentation=layers)
    arguments = {"shuffle": True, "seed": seed, "mix_probability": 0.5, "class_weight": class_weight}
    arguments["variants"] = len(images) // len(run.data.train)
    keep = {"state": run.path(f"{backbone}-{seed}{runner.STATE}"), "every_seconds": run.flags.save_every}
    fit(model, gk.datasets.image_batches(images, BATCH_SIZE, **arguments), epochs, **keep)
    return model


def momentum(steps):
    """Of the moving average: 500 steps, and of few a quarter at the most, or the random weights would still count."""
    return min(0.998, max(0.0, 1 - 4 / steps))


def fit(model, data, epochs, learning_rate=LEARNING_RATE, average=True, label_smoothing=0.1, **keep):
    """Train the network of a model on images with labels as one-hot rows; warm-up and a cosine, no epoch is chosen.

    Args:
        average: bool, keep a moving average of the weights, which `fit` puts in their place at its end.
        keep: `state` and `every_seconds` of `genrekeras.training.fit`.
    """
    steps = len(data) * epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=learning_rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=WEIGHT_DECAY, global_clipnorm=2.0, use_ema=average, ema_momentum=momentum(steps)
    )
    trainable = model.image_model.trainable_variables
    optimizer.exclude_from_weight_decay([weight for weight in trainable if len(weight.shape) < 2])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    model.image_model.compile(optimizer, loss, metrics=["accuracy"])
    gk.training.fit(model.image_model, data, epochs, verbose=2, **keep)
