"""Scores against scikit-learn, evaluation of models, and calibration."""

import copy
import dataclasses
import json
import os

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, small_model
from genrekeras import evaluation
from genrekeras.evaluation import Report, calibration, evaluate, wilson_interval
from genrekeras.visualization import reliability
from sklearn import metrics


@pytest.fixture
def model(synthetic):
    """A model with random weights whose probabilities differ between clips."""
    model = small_model(genres=synthetic.genres)
    return calibrate(model, np.stack([synthetic.train[i]["audio"][:22050] for i in range(0, 128, 4)]))


def scale_logits(model, factor):
    model.output_layer.set_weights([factor * weight for weight in model.output_layer.get_weights()])


@pytest.fixture
def report(rng):
    labels = rng.integers(0, 7, 60)  # the eighth genre has no clips
    probabilities = rng.dirichlet(np.ones(8), 60)
    probabilities[np.arange(60), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Report(gk.GENRES, "test", "official", np.arange(60) * 10, labels, probabilities)


def test_scores_equal_scikit_learn(report):
    predictions = report.probabilities.argmax(axis=1)
    assert 0.2 < report.accuracy < 0.95
    assert report.accuracy == pytest.approx(metrics.accuracy_score(report.labels, predictions))
    assert report.macro_f1 == pytest.approx(metrics.f1_score(report.labels, predictions, average="macro"))
    np.testing.assert_array_equal(
        report.confusion_matrix, metrics.confusion_matrix(report.labels, predictions, labels=range(8))
    )
    expected = -np.log(report.probabilities[np.arange(60), report.labels]).mean()
    assert report.log_loss == pytest.approx(expected)
    recalls = metrics.recall_score(report.labels, predictions, average=None, labels=range(7))
    np.testing.assert_allclose([report.genre_recall[genre] for genre in gk.GENRES[:7]], recalls)
    assert report.genre_recall["Instrumental"] is None
    low, high = report.accuracy_interval
    assert low < report.accuracy < high


def scores_of(report):
    return report.accuracy, report.macro_f1, report.log_loss, report.calibration_error, report.genre_recall["Folk"]


def intervals_of(report):
    names = ("accuracy", "macro_f1", "log_loss", "calibration_error")
    return [*(getattr(report, f"{name}_interval") for name in names), report.genre_recall_interval["Folk"]]


@pytest.mark.parametrize("artists, tolerance", [(100, 0.02), (25, 0.05)])
def test_intervals_take_artists_as_independent(artists, tolerance, rng):
    """Against a loop that draws artists and computes each score of their clips from scratch, 400 times.

    25 artists get the interval of the jackknife, which is somewhat wider than that of the bootstrap.
    """
    artist = np.repeat(np.arange(artists), 600 // artists)
    labels = np.tile(np.arange(8), 75)
    skill = rng.normal(0.5, 0.8, artists)[artist]
    logits = rng.normal(size=(600, 8)) + (skill[:, None] * np.eye(8)[labels] * 2)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = rng.permutation(600)  # clips of an artist need not be adjacent
    fields = [array[order] for array in (np.arange(600), labels, probabilities)]
    report = Report(gk.GENRES, "test", "official", *fields, groups=artist[order])
    method = "bootstrap" if artists == 100 else "jackknife"
    assert report.interval_method == f"{method} over {artists} artists"

    clips = [np.flatnonzero(report.groups == number) for number in range(artists)]
    samples = []
    for _ in range(400):
        rows = np.concatenate([clips[number] for number in rng.integers(0, artists, artists)])
        drawn = Report(gk.GENRES, "test", "official", *(field[rows] for field in fields))
        samples.append(scores_of(drawn))
    lows, highs = np.quantile(samples, [0.025, 0.975], axis=0)
    found = np.array(intervals_of(report))
    assert (found[:, 0] < scores_of(report)).all() or artists == 100
    np.testing.assert_allclose(found[:, 0], lows, atol=tolerance, rtol=0.02)
    np.testing.assert_allclose(found[:, 1], highs, atol=2 * tolerance, rtol=0.02)
    alone = dataclasses.replace(report, groups=None)
    assert np.diff(alone.accuracy_interval) < np.diff(report.accuracy_interval)
    assert alone.macro_f1_interval is None and "Wilson" in alone.interval_method and "Wilson" in str(alone)


def test_mean_over_artists():
    """The mean of the artists of a genre, then of the genres; an artist may have clips of two genres."""
    labels, artists = np.array([0, 0, 0, 0, 1, 1]), np.array([7, 7, 7, 8, 8, 9])
    predictions = np.array([0, 0, 1, 1, 1, 0])
    report = Report(("a", "b", "c"), "test", "official", np.arange(6), labels, np.eye(3)[predictions], groups=artists)
    assert report.mean_over_artists == pytest.approx(np.mean([np.mean([2 / 3, 0]), np.mean([1, 0])]))
    assert report.accuracy_interval is None and report.interval_method == "too few artists for an interval: 3"
    assert report.figures()["effective_size"] == pytest.approx(36 / 14)
    assert "(too few artists for an interval: 3)" in str(report)
    assert "95 %" not in report.plot().axes[0].get_title()
    content = json.loads(json.dumps(report.to_dict()))
    np.testing.assert_array_equal(Report.from_dict(content).groups, artists)


def test_wilson_interval():
    """Against the table of Newcombe, Statistics in Medicine 1998, method 3: 81 of 263 and 0 of 20."""
    np.testing.assert_allclose(wilson_interval(81, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson_interval(0, 20), (0.0, 0.1611), atol=5e-5)
    np.testing.assert_allclose(wilson_interval(20, 20), (1 - 0.1611, 1.0), atol=5e-5)


def test_calibration_error():
    """Ten predictions with confidence 0.9, of which six are correct; and two correct ones with confidence 1."""
    probabilities = np.array([[0.9, 0.1]] * 10)
    labels = np.array([0] * 6 + [1] * 4)
    overconfident = Report(("a", "b"), "test", "official", np.arange(10), labels, probabilities)
    assert overconfident.calibration_error == pytest.approx(0.3)
    certain = Report(("a", "b"), "test", "official", np.arange(2), np.array([0, 1]), np.eye(2))
    assert certain.calibration_error == 0


def test_json(report, tmp_path):
    report.to_json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["accuracy"] == report.accuracy and content["clips"] == 60
    assert content["genre_recall"]["Instrumental"] is None
    np.testing.assert_allclose(content["probabilities"], report.probabilities)
    assert Report.from_dict(content).figures() == report.figures()
    assert "official protocol, 60 clips" in str(report)


def test_evaluate(model, synthetic):
    report = evaluate(model, synthetic.validation)
    assert report.split == "validation" and report.protocol == "official" and report.genres == synthetic.genres
    np.testing.assert_array_equal(report.track_ids, synthetic.validation.track_ids)
    np.testing.assert_array_equal(report.labels, synthetic.validation.labels)
    clip = synthetic.validation[3]["audio"][:22050]
    np.testing.assert_allclose(report.probabilities[3], model.predict(clip[None], verbose=0)[0], atol=1e-5)


def test_evaluate_several_crops(model, synthetic):
    split = synthetic.validation.select(range(5))
    report = evaluate(model, split, batch_size=2, crop="even", crops=3)
    for i in range(5):
        waveform = split[i]["audio"]
        starts = [(len(waveform) - 22050) * crop // 2 for crop in range(3)]
        crops = model.predict(np.stack([waveform[start : start + 22050] for start in starts]), verbose=0)
        np.testing.assert_allclose(report.probabilities[i], crops.mean(axis=0), atol=1e-5)
        assert np.ptp(crops, axis=0).max() > 1e-3  # the crops differ


def test_invalid_arguments(model, report, synthetic):
    with pytest.raises(ValueError, match=r"genres that the model does not have: 'Synthetic Pulse', .* are 'Hip-Hop'"):
        evaluate(small_model(), synthetic.validation)
    with pytest.raises(ValueError, match=r"Split or SpectrogramSplit, such as `data\.test`. Received: Dataset"):
        evaluate(model, synthetic)
    with pytest.raises(ValueError, match=r"must have a length and the attributes .*, such as `data\.train`"):
        gk.datasets.batches(synthetic, 4, 1.0)
    with pytest.raises(ValueError, match="has no clips"):
        evaluate(model, synthetic.validation.select([]))
    with pytest.raises(ValueError, match="must contain each track once"):
        evaluate(model, gk.datasets.compute_spectrograms(synthetic.test.select([0, 1]), model, "even", crops=2))
    arguments = (gk.GENRES, "test", "official", report.track_ids, report.labels)
    with pytest.raises(ValueError, match="must be finite"):
        Report(*arguments, np.full((60, 8), np.nan))
    with pytest.raises(ValueError, match=r"must have the shape \(60, 8\)"):
        Report(*arguments, np.ones((60, 7)))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.7"):
        Report(*arguments[:4], report.labels + 2, report.probabilities)
    with pytest.raises(ValueError, match="at least one clip"):
        Report(*arguments[:3], np.zeros(0), np.zeros(0), np.zeros((0, 8)))


@pytest.mark.parametrize("factor", [4.0, 0.3])
def test_the_temperature_is_the_factor_of_scaled_logits(model, synthetic, tmp_path, factor):
    """With labels that are drawn from its probabilities, a model is nearly calibrated; then its logits are scaled."""
    scale_logits(model, 3.0)
    split = synthetic.train.select(range(0, 128, 2))
    probabilities = evaluate(model, split, crop="even", crops=2).probabilities
    rng = np.random.default_rng(0)
    labels = np.array([rng.choice(8, p=p / p.sum()) for p in probabilities.astype("float64")], "int32")
    split = copy.copy(split)
    split.labels = labels
    assert 0.5 < evaluation.calibrate(model, split, crops=2).temperature < 2
    first_temperature = model.thresholds.temperature
    scale_logits(model, factor)
    model.card = {"scores": [], "data": "synthetic"}
    result = evaluation.calibrate(model, split, crops=2, rejection_rate=0.3)
    assert result.temperature == pytest.approx(factor, rel=0.02)
    assert result.after.log_loss < result.before.log_loss
    assert result.after.calibration_error < result.before.calibration_error
    if factor > 1:
        assert result.before.calibration_error > 0.1
    # The temperature is part of the model and of its file.
    again = evaluate(model, split, crop="even", crops=2)
    np.testing.assert_allclose(again.probabilities, result.after.probabilities, atol=1e-4)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.thresholds == model.thresholds == result.thresholds
    loaded_report = evaluate(loaded, split, crop="even", crops=2)
    np.testing.assert_allclose(loaded_report.probabilities, result.after.probabilities, atol=1e-4)
    check_card(model, result)
    assert result.thresholds.temperature == pytest.approx(first_temperature * result.temperature)
    evaluation.calibrate(model, split, crops=2)  # a calibrated model
    assert model.thresholds.temperature == pytest.approx(result.thresholds.temperature, rel=0.02)
    with pytest.raises(ValueError, match="`rejection_rate` must lie in"):
        evaluation.calibrate(model, split, rejection_rate=1.0)
    figure = reliability({"before": result.before, "after": result.after}, tmp_path / "r.png")
    assert f"{result.before.calibration_error:.3f}" in figure.axes[0].get_title()


def test_genres_are_matched_by_name(synthetic):
    """The genres of the split are some of those of the model, in another order and spelling."""
    names = [f" {genre.upper()}" for genre in synthetic.genres]
    model = small_model(genres=["Polka", *reversed(names), "Waltz"])
    report = evaluate(model, synthetic.validation)
    assert report.genres == model.genres and report.probabilities.shape == (40, 10)
    expected = [f" {genre.upper()}" for genre in synthetic.validation.tracks["genre"]]
    assert [report.genres[label] for label in report.labels] == expected
    clip = synthetic.validation[3]["audio"][:22050]
    np.testing.assert_allclose(report.probabilities[3], model.predict(clip[None], verbose=0)[0], atol=1e-5)
    result = evaluation.calibrate(model, synthetic.validation, crops=1)
    np.testing.assert_array_equal(result.after.labels, report.labels)
    assert report.genre_recall["Polka"] is None
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="The data's `genres` is not the model's"):  # training needs the same order
        model.fit(gk.datasets.batches(synthetic.validation, 4, 1.0))


def test_a_model_at_chance(model, synthetic):
    """An untrained model: no temperature fits, no probability is a limit, and all predictions have low confidence."""
    with pytest.warns(UserWarning) as caught:
        result = evaluation.calibrate(model, synthetic.validation, crops=1)
    texts = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert len(texts) == 2 and "is at the limit of its range, 0.05 to 10000" in texts[0]
    assert "not better than chance (12.5 %): validation" in texts[1]
    assert result.thresholds.min_confidence is None and result.thresholds.better_than_chance is False
    assert model.thresholds == result.thresholds
    card = model.card["calibration"]
    assert card["better_than_chance"] is False and card["min_confidence"] is None
    assert card["low_confidence_share"] == {"correct": 1.0, "wrong": 1.0} == result.low_confidence_share


@pytest.mark.parametrize(
    "labels, predictions, better",
    [
        ([0] * 90 + [1] * 10, [0] * 100, False),  # the most frequent genre is always predicted
        ([0] * 50 + [1] * 50, [0, 1] * 50, False),
        ([0] * 50 + [1] * 50, [0] * 30 + [2] * 50 + [1] * 20, True),
        ([0] * 90 + [1] * 10, [0] * 85 + [1] * 15, True),
        ([0, 1], [0, 1], False),  # too few clips
    ],
)
def test_better_than_chance(labels, predictions, better):
    count = len(labels)
    report = Report(gk.GENRES, "test", "official", np.arange(count), np.array(labels), np.eye(8)[predictions])
    assert (calibration.not_better_than_chance(report) is None) == better


def test_misclassified(synthetic):
    split = synthetic.test.select([0, 5, 10, 15])
    split.tracks = split.tracks.assign(artist=["A", None, "", "B"], title=["x", "y", None, "z"])
    labels = split.labels
    probabilities = np.full((4, 8), 0.05)
    predictions = np.array([labels[0], *(labels[1:] + 1) % 8])  # the first is correct
    probabilities[np.arange(4), predictions] = [0.5, 0.6, 0.7, 0.9]
    report = Report(synthetic.genres, "test", "official", split.track_ids, labels, probabilities)
    table = evaluation.misclassified(report, split)
    assert table["probability"].tolist() == [0.9, 0.7, 0.6]
    assert table["track_id"].tolist() == [split.track_ids[i] for i in (3, 2, 1)]
    assert table["title"].tolist() == ["B: z", os.path.basename(split.tracks["path"].iloc[2]), "y"]
    assert table["genre"].tolist() == [synthetic.genres[labels[i]] for i in (3, 2, 1)]
    assert table["predicted"].tolist() == [synthetic.genres[predictions[i]] for i in (3, 2, 1)]
    assert evaluation.misclassified(dataclasses.replace(report, labels=predictions), split).empty


def test_the_temperature_of_correct_predictions_is_above_0(model, synthetic):
    scale_logits(model, 10.0)
    split = copy.copy(synthetic.validation)
    split.labels = evaluate(model, split).predictions.astype("int32")
    result = evaluation.calibrate(model, split, crop="start", crops=1)
    assert result.after.accuracy == 1 and result.temperature > 0.2  # the lowest temperature is 0.05
    assert result.thresholds.better_than_chance and model.card["calibration"]["better_than_chance"] is True
    assert result.after.probabilities.max(axis=1).mean() < 41 / 42


def test_extreme_logits(model, synthetic):
    """In 32 bits, the probabilities are 0 and 1; the temperature is computed from the logits."""
    scale_logits(model, 3000.0)
    result = evaluation.calibrate(model, synthetic.validation, crop="start", crops=1)
    assert result.before.probabilities.max(axis=1).mean() > 0.99 and result.temperature > 500
    assert result.after.log_loss < 2.2 and result.after.calibration_error < 0.2
    again = evaluate(model, synthetic.validation)
    np.testing.assert_allclose(again.probabilities, result.after.probabilities, atol=1e-4)


def check_card(model, result):
    """Check the card after `calibrate(..., rejection_rate=0.3)`."""
    card = model.card["calibration"]
    assert "scores" not in model.card and model.card["data"] == "synthetic"  # the scores no longer apply
    assert {name: card[name] for name in dataclasses.asdict(result.thresholds)} == dataclasses.asdict(result.thresholds)
    assert card["on"]["clips"] == len(result.after.labels)
    assert card["calibration_error"]["after"] == result.after.calibration_error
    confidence, is_correct = result.after.probabilities.max(axis=1), result.after.predictions == result.after.labels
    is_improbable = confidence < result.thresholds.min_confidence
    assert result.thresholds.max_ood_score > 0
    assert 0.2 < is_improbable[is_correct].mean() <= 0.3
    assert card["low_confidence_share"] == result.low_confidence_share
    assert is_improbable[is_correct].mean() <= result.low_confidence_share["correct"] <= 0.6
    assert is_improbable[~is_correct].mean() <= result.low_confidence_share["wrong"]


def test_calibration_keeps_the_predictions_of_a_crop(model, synthetic):
    before = evaluate(model, synthetic.validation)
    result = evaluation.calibrate(model, synthetic.validation, crop="start", crops=1)
    assert (result.after.predictions == before.predictions).all() and result.temperature > 1  # it is untrained
    assert result.after.accuracy == before.accuracy
