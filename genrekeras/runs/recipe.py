"""Recipe of the preset fma_small and of the cross-validated table: train networks on spectrograms."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import genrekeras as gk
import keras
import numpy as np
from genrekeras.datasets.labels import label_rows
from genrekeras.evaluation.cross_validation import CrossValidation, calibrate_folds
from scipy import special
from sklearn import linear_model, model_selection, pipeline, preprocessing

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.05
_SOFT_LABEL_WEIGHT, _EMBEDDING_WEIGHT, _RECALIBRATION_IMAGES = 0.5, 4.0, 2048


class Network(NamedTuple):
    """The settings of a network and of its training.

    Attributes:
        backbone, pretrained, stem, fine_tune, dropout: see `genrekeras.GenreClassifier`.
        augmentation: whether channel effects and masks of frequency bands are applied in training.
        mix_probability: see `genrekeras.datasets.image_batches`.
        epochs: number of epochs.
        learning_rate: learning rate after warm-up.
        use_ema: whether the moving average of the weights replaces the weights at the end.
        teacher: whether the network also learns from embeddings, see `train`.
        recalibrate: whether the statistics of batch normalization are computed again after the training, see
            `genrekeras.training.recalibrate_batch_norm`.
    """

    backbone: str = "mel_resnet"
    pretrained: str | None = None
    stem: Literal["fold", "new"] = "fold"
    fine_tune: Literal["head", "stem", "all"] = "all"
    dropout: float = 0.3
    augmentation: bool = True
    mix_probability: float = 0.5
    epochs: int = 22
    learning_rate: float = LEARNING_RATE
    use_ema: bool = True
    teacher: bool = False
    recalibrate: bool = False


_BEST = Network(augmentation=False, mix_probability=0.0, teacher=True, recalibrate=True)
PRESET = (_BEST._replace(backbone="mel_cnn"), _BEST)  # averaged in the preset fma_small


def make_model(network: Network, data: gk.datasets.SpectrogramSplit, seed: int) -> gk.GenreClassifier:
    """Return an untrained model. Its front end computes images as those of `data` from waveforms.

    The seed of Keras is set, so the same seed gives the same initial weights.
    """
    keras.utils.set_random_seed(seed)
    _, mels, frames, _ = data.images.shape
    return gk.GenreClassifier(
        network.backbone,
        data.genres,
        clip_seconds=gk.datasets.FMA_SECONDS,
        front_end=gk.datasets.sampled_logmel_front_end(frames, data.sample_rate, mels),
        stem=network.stem,
        fine_tune=network.fine_tune,
        pretrained=network.pretrained,
        dropout=network.dropout,
        image_augmentation=augmentation(seed) if network.augmentation else (),
    )


def augmentation(seed: int) -> list[keras.layers.Layer]:
    """Return the augmentation layers: random channel effects, and masks of frequency bands."""
    return [
        gk.layers.RandomChannelEffects(seed=seed),
        gk.layers.SpecAugment(frequency_masks=2, frequency_width=20, time_masks=0, seed=seed),
    ]


def train(
    network: Network,
    model: gk.GenreClassifier,
    split: gk.datasets.SpectrogramSplit,
    seed: int,
    embeddings: np.ndarray | None = None,
    **saving: Any,
) -> None:
    """Train a model of `make_model` for a fixed number of epochs, with AdamW, warm-up and cosine decay.

    With `embeddings`, the network learns from a teacher: a logistic regression on the embeddings. Each label is the
    mean of the true label and the probabilities of the teacher. Out-of-fold probabilities are used, so that the teacher
    was not trained on tracks of the same artist. Moreover, a second output of the network is trained to predict the
    standardized embedding, and removed afterwards. The saved model does not need embeddings.

    Sources: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; Vapnik and Vashist, "A New Learning
    Paradigm: Learning Using Privileged Information", Neural Networks 2009.

    Args:
        network: the settings.
        model: the model. It is changed in place.
        split: the training images.
        seed: seed of the order of the images, of mixing, and of the images for the statistics of batch normalization.
        embeddings: `(images, k)` floats, embedding of each track.
        saving: the arguments `state` and `every_seconds` of `genrekeras.training.fit`.
    """
    options: dict[str, Any] = {"mix_probability": network.mix_probability, "one_hot": True}
    net: keras.Model = model.image_model
    weights = [1.0]
    losses: list[keras.losses.Loss] = [keras.losses.CategoricalCrossentropy(label_smoothing=0.1)]
    if embeddings is not None:
        one_hot = label_rows(split.labels, len(split.genres))
        soft_labels = _SOFT_LABEL_WEIGHT * teacher_probabilities(embeddings, split) + (1 - _SOFT_LABEL_WEIGHT) * one_hot
        options |= {"soft_labels": soft_labels, "embeddings": preprocessing.scale(embeddings.astype("float64"))}
        net = _with_embeddings(model, embeddings.shape[1])
        losses.append(keras.losses.MeanSquaredError())
        weights.append(_EMBEDDING_WEIGHT)
    data = gk.datasets.image_batches(split, BATCH_SIZE, shuffle=True, seed=seed, **options)
    steps = len(data) * network.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=network.learning_rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        rate,
        weight_decay=WEIGHT_DECAY,
        global_clipnorm=2.0,
        use_ema=network.use_ema,
        ema_momentum=ema_momentum(steps),
    )
    optimizer.exclude_from_weight_decay([value for value in net.trainable_variables if len(value.shape) < 2])
    net.compile(optimizer, losses, loss_weights=weights)
    gk.training.fit(net, data, network.epochs, verbose=2, **saving)
    if network.recalibrate:
        rows = np.random.default_rng(seed).permutation(len(split))[:_RECALIBRATION_IMAGES]
        gk.training.recalibrate_batch_norm(model, split.images[np.sort(rows)])


def ema_momentum(steps: int) -> float:
    """Return the momentum of the moving average of the weights.

    The average covers 500 steps. If the training has fewer than 2,000 steps, it covers a quarter of the training, so
    that the initial random weights have no effect.
    """
    return min(0.998, max(0.0, 1 - 4 / steps))


def read_embeddings(path: str, split: gk.datasets.SpectrogramSplit) -> np.ndarray:
    """Return the VGGish embedding of each track of a split: `(tracks, 128)`.

    Args:
        path: path of an npz file with the arrays `track_id` and `vggish`.
        split: the tracks.

    Raises:
        ValueError: the file does not contain the embedding of a track.
    """
    with np.load(path) as file:
        rows = {track_id: row for row, track_id in enumerate(file["track_id"].tolist())}
        missing = [track_id for track_id in split.track_ids.tolist() if track_id not in rows]
        if missing:
            raise ValueError(f"{path} has no embeddings of {len(missing)} tracks, such as {missing[0]}")
        return file["vggish"][[rows[track_id] for track_id in split.track_ids.tolist()]]


def teacher() -> pipeline.Pipeline:
    """Return an untrained logistic regression for embeddings of VGGish."""
    return pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.02, max_iter=1000)
    )


def teacher_probabilities(embeddings: np.ndarray, split: gk.datasets.SpectrogramSplit) -> np.ndarray:
    """Return out-of-fold probabilities of the teacher: `(tracks, genres)`. An artist is in one fold only."""
    folds = model_selection.StratifiedGroupKFold(5, shuffle=True, random_state=0)
    probabilities = np.zeros((len(split), len(split.genres)))
    probabilities[:, np.unique(split.labels)] = model_selection.cross_val_predict(
        teacher(), embeddings, split.labels, groups=split.groups, cv=folds, method="predict_proba"
    )
    return probabilities


def average_results(results: Sequence[CrossValidation]) -> CrossValidation:
    """Return the result of the average of several networks that were cross-validated on the same folds.

    As in `genrekeras.models.average`, the logits are averaged. The result is calibrated again.

    Args:
        results: the result of each network.
    """
    first = results[0]
    tiny = np.finfo("float32").tiny
    logits = [np.log(np.maximum(result.uncalibrated.probabilities, tiny)) for result in results]
    report = dataclasses.replace(first.uncalibrated, probabilities=special.softmax(np.mean(logits, axis=0), axis=1))
    return calibrate_folds(report, first.folds, np.sum([result.seconds for result in results], axis=0))


def select_fold(result: CrossValidation, fold: int) -> CrossValidation:
    """Return the result of the tracks of one fold. Their probabilities stay calibrated on the other folds."""
    is_selected = result.folds == fold
    names = ("track_ids", "labels", "probabilities", "groups")
    reports = [
        dataclasses.replace(report, **{name: getattr(report, name)[is_selected] for name in names})
        for report in (result.report, result.uncalibrated)
    ]
    tracks = {"folds": result.folds[is_selected], "low_confidence": result.low_confidence[is_selected]}
    return result._replace(report=reports[0], uncalibrated=reports[1], **tracks)


def _with_embeddings(model, size):
    """Return `model.image_model` with a second output, a linear function of the features."""
    image = features = model.image_model.input
    for layer in model.image_model.layers[1:-1]:
        features = layer(features)
    embedding = keras.layers.Dense(size, dtype="float32", name="embedding")(features)
    return keras.Model(image, [model.head(features), embedding])
