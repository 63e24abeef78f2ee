"""Multi-label models on music whose tags are not their labels: evaluation, calibration and predictions."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import calibrate, small_model, tones
from genrekeras import evaluation
from genrekeras.datasets import Split
from genrekeras.datasets.labels import add_labels
from genrekeras.evaluation.calibration import fit_temperature
from genrekeras.inference.labels import most_probable_genre, predicted_genres
from genrekeras.models.thresholds import NEVER
from sklearn import metrics

LABELS = ("rock", "sad", "Hip-Hop", "jazz", "folk", "metal")  # of the model
TAGS = ("Folk", "Polka", "Rock", "Ska", "hip hop")  # of the music
COUNT = 48


@pytest.fixture(scope="module")
def clips():
    return tones(np.random.default_rng(5), COUNT, 22050)


@pytest.fixture
def model(clips):
    model = calibrate(small_model(genres=LABELS, multi_label=True, card={"labels": {"sad": "mood"}}), clips)
    model.output_layer.set_weights([6 * weight for weight in model.output_layer.get_weights()])
    return model


@pytest.fixture
def split(model, clips):
    """Clips with high probabilities of rock and Hip-Hop have these tags. Three have Folk. Some clips have no tags.

    Six clips have Polka, and two of them nothing else.
    """
    ranks = (-model.predict(clips, verbose=0)).argsort(axis=0).argsort(axis=0)
    has_tag = {"Rock": ranks[:, 0] < 24, "hip hop": ranks[:, 2] < 12}
    for column in has_tag.values():
        column[[3, 4]] = False
    has_tag |= {"Folk": np.arange(COUNT) < 3, "Polka": np.arange(COUNT) < 6}
    names = [tuple(name for name, column in has_tag.items() if column[i]) for i in range(COUNT)]
    tracks = pd.DataFrame({"genres": names}, index=pd.Index(100 + np.arange(COUNT), name="track_id"))
    tracks = tracks.assign(artist_id=np.arange(COUNT) // 2, album_id=-1, checksum=np.arange(COUNT))
    tracks["title"] = [f"title {i}" for i in range(COUNT)]
    source = [{"audio": np.round(32767 * clip).astype("int16"), "scale": np.float32(1)} for clip in clips / 2]
    return Split("test", source, range(COUNT), add_labels(tracks, TAGS), 22050, TAGS, "artist_album", "f")


def test_evaluate(model, split):
    with pytest.warns(UserWarning) as caught:
        report = evaluation.evaluate(model, split)
    [text] = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert text == (
        "The test split has 1 genres that the model does not have. They are left out: Polka (6). "
        "Of 48 clips, 2 have no other genre. They are left out too."
    )
    assert report.genres == ("rock", "Hip-Hop") and report.omitted_genres == ("sad", "jazz", "folk", "metal")
    kept = [i for i in range(COUNT) if i not in (3, 4)]
    np.testing.assert_array_equal(report.track_ids, split.track_ids[kept])
    np.testing.assert_array_equal(report.labels, split.labels[kept][:, [2, 4]])
    assert not report.labels.any(axis=1).all()  # clips without tags are kept
    waveforms = np.stack([split[i]["audio"] for i in kept])
    np.testing.assert_allclose(report.probabilities, model.predict(waveforms, verbose=0)[:, [0, 2]], atol=1e-5)
    assert report.micro_average_precision == pytest.approx(
        metrics.average_precision_score(report.labels.ravel(), report.probabilities.ravel())
    )
    assert "46 clips, first 1 s, 2 of 6 labels of the model): mAP" in str(report)
    again = evaluation.report_from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.omitted_genres == report.omitted_genres and str(again) == str(report)
    table = evaluation.misclassified(report, split)  # with the titles of the right clips
    numbers = table["track_id"].astype(int) - 100
    assert len(table) and table["title"].tolist() == [f"title {number}" for number in numbers]


def test_evaluate_without_a_genre_of_the_model(model, split):
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"Received: 3 clips, with .*folk \(3\)"):
        evaluation.evaluate(model, split.select([0, 1, 2, 3]))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="0 clips, with no genre of the model"):
        evaluation.evaluate(model, split.select([3, 4]))
    single = small_model(genres=LABELS)
    with pytest.raises(ValueError, match="`split` must be single-label, because `model` is"):
        evaluation.evaluate(single, split)


def test_all_labels_are_evaluated_if_the_genres_are_the_same(clips, split):
    """The 5 clips of the rule are for other genres only: folk has 3, and ska none."""
    model = small_model(genres=("ska", "rock", "hiphop", "FOLK", "polka"), multi_label=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = evaluation.evaluate(model, split)
    assert report.genres == model.genres and report.omitted_genres == () and len(report.labels) == COUNT
    np.testing.assert_array_equal(report.labels, split.labels[:, [3, 2, 4, 0, 1]])


def test_calibrate(model, split, clips):
    kernel, bias = model.output_layer.get_weights()
    with pytest.warns(UserWarning, match="Polka"):
        result = evaluation.calibrate(model, split, crops=1)
    thresholds = model.thresholds.class_thresholds
    assert [value == NEVER for value in thresholds] == [False, True, False, True, True, True]
    np.testing.assert_array_equal(result.after.thresholds, np.array(thresholds)[[0, 2]])
    card = model.card["calibration"]
    assert card["positives"] == [int(split.labels[:, 2].sum()), 0, int(split.labels[:, 4].sum()), 0, 3, 0]
    # Labels that nobody used have no effect on the temperature.
    features = model.feature_extractor.predict(model.front_end.predict(clips / 2, verbose=0), verbose=0)
    kept = [i for i in range(COUNT) if i not in (3, 4)]
    logits = (features @ kernel + bias)[kept][:, None, [0, 2]]
    assert fit_temperature(logits, result.after.labels) == pytest.approx(result.temperature, rel=1e-2)
    # The limit is for the most probable label that can be predicted.
    best = result.after.probabilities.argmax(axis=1)
    is_correct = result.after.labels[np.arange(len(best)), best] == 1
    limit = np.quantile(result.after.probabilities.max(axis=1)[is_correct], 0.05, method="lower")
    assert result.thresholds.min_confidence == pytest.approx(limit)
    probabilities = np.array([0.3, 0.9, 0.2, 0.8, 0.9, 0.7])
    assert most_probable_genre(model, probabilities) == "rock"
    assert set(predicted_genres(model, np.ones(6))) == {"rock", "Hip-Hop"}
    model.thresholds = {"class_thresholds": [1.0] * 6}  # no label reaches a precision
    assert most_probable_genre(model, probabilities) == "folk" and predicted_genres(model, probabilities) == ()


def test_confidence_is_that_of_genres(model, split):
    """The label "Hip-Hop" is a mood here, so the predicted genre is always "rock"."""
    model.card = {"labels": {"Hip-Hop": "mood"}}
    with pytest.warns(UserWarning, match="Polka"):
        result = evaluation.calibrate(model, split, crops=1)
    rock = result.after.probabilities[:, 0][result.after.labels[:, 0] == 1]
    assert result.thresholds.min_confidence == pytest.approx(np.quantile(rock, 0.05, method="lower"))
    model.card = {"labels": dict.fromkeys(LABELS[:3], "mood")}  # no genre is evaluated
    with pytest.warns(UserWarning, match="Polka"):
        result = evaluation.calibrate(model, split, crops=1)
    assert result.thresholds.min_confidence is None and result.low_confidence_share == {}


def test_confidence_needs_a_calibration(model):
    for name in ("min_confidence", "max_ood_score"):
        with pytest.raises(ValueError, match=rf"`{name}` must be None .* genrekeras calibrate MUSIC --model") as error:
            model.thresholds = {name: 0.5}
        assert f"Received: {name}=0.5" in str(error.value)
    model.thresholds = {"min_confidence": 0.5, "class_thresholds": [0.5] * 6}
    small_model(genres=LABELS, thresholds={"min_confidence": 0.5})
