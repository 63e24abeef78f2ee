"""Multi-label reports: scores against scikit-learn, comparison, evaluation and calibration of models."""

import dataclasses
import json
import time

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, small_model
from genrekeras import evaluation
from genrekeras.datasets import Split
from genrekeras.evaluation import MultiLabelReport, Report, compare, report_from_dict
from genrekeras.evaluation.cross_validation import calibrate_folds
from genrekeras.models.thresholds import NEVER
from sklearn import metrics

GENRES = ("rock", "pop", "jazz", "metal", "all", "none")


def make_report(rng, clips=300, artists=60, strength=1.5, labels=None, **fields):
    """A report in which all clips have the fifth genre, and no clip has the sixth."""
    labels = rng.random((clips, 6)) < [0.5, 0.3, 0.15, 0.1, 1, 0] if labels is None else labels
    logits = -1.5 + strength * labels + rng.normal(size=labels.shape)
    fields = {"input_coverage": "first 3 s", "groups": np.arange(clips) % artists if artists else None, **fields}
    ids = 10 * np.arange(clips)
    probabilities = 1 / (1 + np.exp(-logits))
    return MultiLabelReport(GENRES, "test", "official", ids, labels.astype("float32"), probabilities, **fields)


def test_scores_equal_scikit_learn(rng):
    """To 1e-12, computed directly from the arrays, for the four genres that some clips have."""
    thresholds = np.array([0.4, 0.3, 0.2, 0.5, 0.1, NEVER])
    report = make_report(rng, thresholds=thresholds)
    true, probabilities = report.labels[:, :4], report.probabilities[:, :4]
    everything = report.labels.ravel(), report.probabilities.ravel()
    predictions = report.probabilities > thresholds
    expected = {
        "mean_average_precision": np.mean(
            [metrics.average_precision_score(true[:, i], probabilities[:, i]) for i in range(4)]
        ),
        "micro_average_precision": metrics.average_precision_score(*everything),
        "roc_auc": metrics.roc_auc_score(true, probabilities, average="macro"),
        "macro_f1": metrics.f1_score(report.labels[:, :5], predictions[:, :5], average="macro"),
        "micro_f1": metrics.f1_score(report.labels.ravel(), predictions.ravel()),
        "coverage_error": metrics.coverage_error(report.labels, report.probabilities),
        "log_loss": metrics.log_loss(*everything),
        "predicted_share": predictions.any(axis=1).mean(),
    }
    for name, value in expected.items():
        assert getattr(report, name) == pytest.approx(value, abs=1e-12), name
    assert report.genre_roc_auc["all"] is report.genre_roc_auc["none"] is report.genre_roc_auc_interval["none"] is None
    for i, genre in enumerate(GENRES[:4]):
        roc_auc = metrics.roc_auc_score(true[:, i], probabilities[:, i])
        low, high = report.genre_roc_auc_interval[genre]
        assert report.genre_roc_auc[genre] == pytest.approx(roc_auc, abs=1e-12) and low < roc_auc < high
    for value, interval in (
        (report.score, report.mean_average_precision_interval),
        (report.roc_auc, report.roc_auc_interval),
    ):
        assert interval[0] < value < interval[1] and interval[1] - interval[0] < 0.2
    assert report.score == report.mean_average_precision and report.genre_scores == report.genre_roc_auc
    for row, column in np.ndindex(6, 6):
        assert report.label_pairs[row, column] == predictions[report.labels[:, row] == 1, column].sum()
    assert report.genre_counts[4:].tolist() == [300, 0]
    best = report.probabilities.argmax(axis=1)
    np.testing.assert_array_equal(report.is_correct, report.labels[np.arange(300), best] == 1)


def test_calibration_error(rng):
    """Of 100 pairs with the probability 0.7, 40 are true; the others have a probability of 0 or 1 and are certain."""
    labels = np.zeros((100, 2))
    labels[:40, 0] = labels[::2, 1] = 1
    probabilities = np.stack([np.full(100, 0.7), labels[:, 1]], axis=1)
    report = MultiLabelReport(("a", "b"), "test", "official", np.arange(100), labels, probabilities)
    assert report.calibration_error == pytest.approx(0.3 / 2)
    assert [count for _, _, count in report.reliability] == [50, 100, 50]
    axes = report.plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  (40)", "b  (50)"]
    assert [text.get_text() for text in axes.texts] == ["100", "40", "50", "20", "100", "50", "100", "50"]


@pytest.mark.parametrize(
    "artists, method",
    [
        (60, "jackknife over 60 artists"),
        (5, "too few artists for an interval: 5"),
        (None, "jackknife over 300 clips taken as independent"),
    ],
)
def test_json(artists, method, rng, tmp_path):
    report = make_report(rng, artists=artists, thresholds=rng.uniform(0.1, 0.9, 6))
    report.to_json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["interval_method"] == method == report.interval_method and method in str(report)
    assert content["multi_label"] and content["mean_average_precision"] == report.score and content["clips"] == 300
    assert (content["roc_auc_interval_95"] is None) == (artists == 5) == ("[" not in str(report))
    again = report_from_dict(content)
    assert isinstance(again, MultiLabelReport) and again.figures() == report.figures()
    for name in ("labels", "probabilities", "thresholds", "track_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(report, name))
    with pytest.raises(ValueError, match=r"`labels` must have the shape \(300,\)"):
        Report.from_dict(content)
    with pytest.raises(ValueError, match=r"must be the dict of a report.*KeyError 'thresholds'"):
        report_from_dict({key: value for key, value in content.items() if key != "thresholds"})


def test_a_report_of_the_other_kind_is_read_too():
    report = Report(("a", "b"), "test", "official", np.arange(4), np.array([0, 1, 0, 1]), np.full((4, 2), 0.5))
    assert isinstance(report_from_dict(json.loads(json.dumps(report.to_dict()))), Report)
    with pytest.raises(ValueError, match=r"must be the dict of a report\. Received: list"):
        report_from_dict([])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": np.full((4, 2), 0.5)}, "`labels` must be 0 or 1"),
        ({"labels": np.ones((4, 2))}, "must contain a genre that some clips have and other clips do not have"),
        ({"labels": np.array([0, 1, 0, 1])}, r"`labels` must have the shape \(4, 2\)"),
        ({"probabilities": np.full((4, 2), 1.5)}, r"`probabilities` must lie in \[0, 1\]"),
        ({"probabilities": np.full((4, 2), np.nan)}, "`probabilities` must be finite"),
        ({"thresholds": np.ones(3)}, r"`thresholds` must be a number, or have the shape \(2,\) or \(4, 2\)"),
        ({"groups": np.arange(3)}, r"`groups` must have the shape \(4,\)"),
    ],
)
def test_invalid_arguments(change, message):
    fields = {"genres": ("a", "b"), "split": "test", "protocol": "official", "track_ids": np.arange(4)}
    fields |= {"labels": np.array([[0, 1], [1, 0], [1, 1], [0, 0]]), "probabilities": np.full((4, 2), 0.5)}
    MultiLabelReport(**fields)
    with pytest.raises(ValueError, match=message):
        MultiLabelReport(**fields | change)


def test_speed_of_the_intervals(rng):
    """50 genres and 2,000 clips of 1,000 artists."""
    labels = rng.random((2000, 50)) < 0.05
    fields = np.arange(2000), labels, rng.random((2000, 50))
    report = MultiLabelReport(tuple(map(str, range(50))), "test", "x", *fields, groups=np.arange(2000) // 2)
    start = time.process_time()
    assert None not in report.genre_roc_auc_interval.values()
    assert time.process_time() - start < 10


def test_comparison(rng):
    """The first two models differ by noise only, and the third is better on the same clips."""
    first = make_report(rng)
    second = make_report(rng, labels=first.labels == 1)
    third = make_report(rng, labels=first.labels == 1, strength=2.5)
    order = rng.permutation(300)
    columns = ("track_ids", "labels", "probabilities", "groups")
    shuffled = dataclasses.replace(third, **{name: getattr(third, name)[order] for name in columns})
    table = compare({"a": first, "b": second, "c": shuffled, "d": first})
    scores = [report.mean_average_precision for report in (first, second, third, first)]
    assert table["mean_average_precision"].tolist() == pytest.approx(scores) and "accuracy" not in table
    np.testing.assert_allclose(table["difference"], [np.nan, *np.subtract(scores[1:], scores[0])], atol=1e-12)
    assert table.loc["b", "difference_low"] < 0 < table.loc["b", "difference_high"]
    assert 0 < table.loc["c", "difference_low"] < scores[2] - scores[0] < table.loc["c", "difference_high"]
    assert table.loc["d", ["difference_low", "difference_high"]].tolist() == [0, 0]
    shown = gk.visualization.comparison(table).axes[0]
    assert "mAP in % of 300 clips" in shown.get_title()
    few = compare({name: dataclasses.replace(first, groups=np.arange(300) % 5) for name in "ab"})
    assert np.isnan(few.loc["b", "difference_low"]) and np.isnan(few.loc["a", "low"])
    single = Report(GENRES, "test", "official", first.track_ids, np.arange(300) % 6, np.full((300, 6), 1 / 6))
    with pytest.raises(ValueError, match="b and a must both be single-label or both be multi-label reports"):
        compare({"a": first, "b": single})


def test_intervals_of_differences_by_a_loop(rng):
    """Artists share their clips' noise. Standard error of the difference by a bootstrap of 150 samples."""
    first = make_report(rng, artists=40)
    second = make_report(rng, artists=40, labels=first.labels == 1, strength=2)
    row = compare({"a": first, "b": second}).loc["b"]
    clips = [np.flatnonzero(first.groups == artist) for artist in range(40)]
    samples = []
    for _ in range(150):
        rows = np.concatenate([clips[artist] for artist in rng.integers(0, 40, 40)])
        maps = [
            metrics.average_precision_score(first.labels[rows, :4], report.probabilities[rows, :4])
            for report in (first, second)
        ]
        samples.append(maps[1] - maps[0])
    half = (row["difference_high"] - row["difference_low"]) / 2
    assert half == pytest.approx(2.02 * np.std(samples), rel=0.2)  # t with 39 degrees of freedom


def with_labels(split, labels):
    """The same clips with the labels `(n, genres)`."""
    rows = [tuple(np.flatnonzero(row).tolist()) for row in labels]
    tracks = split.tracks.drop(columns=["label", "genre"], errors="ignore")
    tracks = tracks.assign(labels=rows, genres=[tuple(split.genres[label] for label in row) for row in rows])
    source = split._source, split._rows
    return Split(split.name, *source, tracks, split.sample_rate, split.genres, split.protocol, split.fingerprint)


@pytest.fixture
def model(synthetic):
    """A model with random weights and a sigmoid, whose probabilities differ between clips."""
    model = small_model(genres=synthetic.genres, multi_label=True)
    calibrate(model, np.stack([synthetic.train[i]["audio"][:22050] for i in range(0, 128, 4)]))
    scale_logits(model, 6.0)
    return model


def scale_logits(model, factor):
    model.output_layer.set_weights([factor * weight for weight in model.output_layer.get_weights()])


@pytest.fixture
def split(model, synthetic):
    """A split whose labels are drawn from the probabilities of the model, so that the model is nearly calibrated."""
    split = synthetic.train.select(range(0, 128, 2))
    probabilities = evaluation.evaluate(model, with_labels(split, np.eye(64, 8)), crop="even", crops=2).probabilities
    labels = np.random.default_rng(0).random(probabilities.shape) < probabilities
    return with_labels(split, labels)


def test_evaluate_and_calibrate(model, split, tmp_path):
    before = evaluation.evaluate(model, split, crop="even", crops=2)
    clip = split[3]["audio"]
    crops = model.predict(np.stack([clip[:22050], clip[len(clip) - 22050 :]]), verbose=0)
    np.testing.assert_allclose(before.probabilities[3], crops.mean(axis=0), atol=1e-5)
    assert isinstance(before, MultiLabelReport) and before.thresholds == 0.5
    first = evaluation.calibrate(model, split, crops=2)
    assert 0.5 < first.temperature < 2 and first.after.macro_f1 > before.macro_f1
    scale_logits(model, 4.0)
    result = evaluation.calibrate(model, split, crops=2, rejection_rate=0.3)
    assert result.temperature == pytest.approx(4, rel=0.02)
    assert result.thresholds.temperature == pytest.approx(first.temperature * result.temperature)
    assert result.after.log_loss < result.before.log_loss
    assert result.after.calibration_error < result.before.calibration_error
    thresholds = result.thresholds
    np.testing.assert_array_equal(result.after.thresholds, thresholds.class_thresholds)
    confidence = result.after.probabilities.max(axis=1)
    marked = (confidence < thresholds.min_confidence)[result.after.is_correct].mean()
    assert 0.2 < marked <= 0.3 and thresholds.max_ood_score > 0 and thresholds.better_than_chance
    again = evaluation.evaluate(model, split, crop="even", crops=2)
    np.testing.assert_allclose(again.probabilities, result.after.probabilities, atol=1e-4)
    np.testing.assert_array_equal(again.thresholds, thresholds.class_thresholds)
    model.save(tmp_path / "m.keras")
    assert keras.saving.load_model(tmp_path / "m.keras").thresholds == thresholds == model.thresholds
    card = model.card["calibration"]
    assert tuple(card["class_thresholds"]) == thresholds.class_thresholds and card["precision"] is None


def test_a_precision(model, split):
    with pytest.warns(UserWarning) as caught:
        labels = split.labels.copy()
        labels[:, 2] = 0
        labels[::20, 2] = 1  # four clips, at random
        labels[:, 5] = np.random.default_rng(1).random(64) < 0.3  # unrelated to the audio
        report = evaluation.calibrate(model, with_labels(split, labels), crops=1, precision=0.8).after
    texts = [str(warning.message) for warning in caught if warning.filename == __file__]
    genres = report.genres
    assert f"have fewer than 5 clips, so their threshold is chosen for all genres together: {genres[2]}" in texts[0]
    assert texts[1] == f"These genres are never predicted, because no threshold has a precision of 0.8: {genres[5]}"
    assert not report.predictions[:, 5].any()
    for genre in (0, 1, 3, 4, 6, 7):
        assert report.labels[report.predictions[:, genre], genre].mean() >= 0.8


def test_a_model_at_chance(model, split):
    rng = np.random.default_rng(2)
    labels = (rng.random(split.labels.shape) < 0.3).astype("float32")
    with pytest.warns(UserWarning, match=r"not better than chance \(50.0 %\)"):
        result = evaluation.calibrate(model, with_labels(split, labels), crops=1)
    assert result.thresholds.better_than_chance is False
    assert result.low_confidence_share == {"correct": 1.0, "wrong": 1.0}


def test_labels_of_the_wrong_kind(model, split, synthetic):
    single = small_model(genres=synthetic.genres)
    for function in (evaluation.evaluate, evaluation.calibrate):
        with pytest.raises(ValueError, match="`split` must be multi-label, because `model` is"):
            function(model, synthetic.validation)
        with pytest.raises(ValueError, match="`split` must be single-label, because `model` is"):
            function(single, split)
    with pytest.raises(ValueError, match="`precision` must be None for a single-label model"):
        evaluation.calibrate(single, synthetic.validation, precision=0.8)
    for precision in (0, 1, -0.1):
        with pytest.raises(ValueError, match=r"`precision` must be None or lie in \(0, 1\)"):
            evaluation.calibrate(model, split, crops=1, precision=precision)


def test_misclassified(synthetic):
    split = synthetic.test.select([0, 5, 10])
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    probabilities = np.array([[0.9, 0.7], [0.2, 0.1], [0.6, 0.55]])
    report = MultiLabelReport(("a", "b\n"), "test", "official", split.track_ids, labels, probabilities)
    table = evaluation.misclassified(report, split)
    assert table["track_id"].tolist() == [split.track_ids[1], split.track_ids[0]]
    assert table[["genre", "predicted", "probability"]].to_numpy().tolist() == [
        [r"b\n", "no", 0.1],
        [r"b\n", "yes", 0.7],
    ]


def test_calibration_of_folds(rng):
    """Temperature and thresholds of a fold depend on the other folds only."""
    report = make_report(rng, clips=600)
    overconfident = 1 / (1 + ((1 - report.probabilities) / report.probabilities) ** 3)
    report = dataclasses.replace(report, probabilities=overconfident)
    folds = np.arange(600) % 3
    result = calibrate_folds(report, folds, np.ones(3))
    assert (result.temperatures > 1.5).all() and result.report.log_loss < report.log_loss
    assert result.report.thresholds.shape == (600, 6)
    changed = dataclasses.replace(report, labels=np.where(folds[:, None] == 1, 1 - report.labels, report.labels))
    other = calibrate_folds(changed, folds, np.ones(3))
    assert other.temperatures[1] == result.temperatures[1] and other.min_confidence[1] == result.min_confidence[1]
    np.testing.assert_array_equal(other.report.thresholds[folds == 1], result.report.thresholds[folds == 1])
    assert other.temperatures[0] != result.temperatures[0]
    for fold in range(3):
        assert len(np.unique(result.report.thresholds[folds == fold], axis=0)) == 1
        marked = result.low_confidence[(folds != fold) & result.report.is_correct].mean()
        assert 0.01 < marked < 0.1
    again = report_from_dict(json.loads(json.dumps(result.report.to_dict())))
    assert again.figures() == result.report.figures()


def test_cross_validation(split, monkeypatch, tmp_path):
    """Training is replaced by knowledge of the labels, so that only the folds and the reports are tested."""
    monkeypatch.setattr("genrekeras.datasets.groups.assign_folds", lambda split, *arguments: np.arange(64) % 4)
    trained = []

    def evaluate(model, part):
        noise = np.random.default_rng(len(part)).normal(size=part.labels.shape)
        probabilities = 1 / (1 + np.exp(1 - 2 * part.labels - noise))
        thresholds = np.full(8, 0.1 * (1 + part.track_ids[0] % 7))
        names = part.genres, part.name, part.protocol, part.track_ids
        return MultiLabelReport(*names, part.labels, probabilities, thresholds=thresholds)

    arguments = (lambda: "model", lambda model, part: trained.append(part.track_ids), split)
    for _ in range(2):  # the second call reads the results of the first
        result = evaluation.cross_validate(*arguments, folds=4, evaluate=evaluate, folder=tmp_path / "folds")
        np.testing.assert_array_equal(result.report.labels, split.labels)
        np.testing.assert_array_equal(result.uncalibrated.track_ids, split.track_ids)
        assert result.uncalibrated.thresholds.shape == (64, 8) and result.report.split == "cross-validation"
        assert result.report.roc_auc > 0.8
        for fold in range(4):
            rows = np.arange(64) % 4 == fold
            expected = 0.1 * (1 + split.track_ids[rows][0] % 7)
            np.testing.assert_allclose(result.uncalibrated.thresholds[rows], expected)
            np.testing.assert_array_equal(trained[fold], split.track_ids[~rows])
    assert len(trained) == 4
