"""What is unlike known music: the distance against NumPy, few clips, files of earlier versions, a calibrated model."""

import copy

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, numpy, small_model
from genrekeras import evaluation
from genrekeras.layers.ood_score import OODScore

SIZE, WIDE = 30, 20  # features, of which so many vary more than the others


@pytest.fixture
def known(rng):
    """`(200, 2, 30)`: tracks of two clips."""
    deviations = np.concatenate([np.linspace(5, 2, WIDE), np.full(SIZE - WIDE, 0.5)])
    turned = np.linalg.qr(rng.normal(0, 1, (SIZE, SIZE)))[0]
    return (rng.normal(0, 1, (200, 2, SIZE)) * deviations @ turned + 3).astype("float32")


def built(size=SIZE):
    layer = OODScore()
    layer.build((None, size))
    return layer


def test_it_is_the_mahalanobis_distance(known, rng):
    layer = built()
    of_tracks = layer.fit(known)
    clips = known.reshape(-1, SIZE)
    found = numpy(layer(clips))
    standard = (clips - clips.mean(axis=0)) / clips.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(standard.T, bias=True))
    values = values[::-1].copy()
    values[WIDE:] = values[WIDE:].mean()  # as the layer takes them to be
    expected = ((standard @ vectors[:, ::-1]) ** 2 / values).sum(axis=1) / SIZE
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert found.mean() == pytest.approx(1, abs=1e-3)
    own = found.reshape(200, 2).mean(axis=1)
    assert np.corrcoef(own, of_tracks)[0, 1] > 0.9 and (of_tracks > own).mean() > 0.9  # told by others' clips
    far = clips[:20] + 5 * rng.normal(0, 1, (20, SIZE)).astype("float32")
    assert numpy(layer(far)).min() > found.max()


def test_few_clips_and_features_that_do_not_move(known):
    layer = built()
    assert layer.fit(known[:19]) is None and not any(weight.any() for weight in layer.get_weights())
    known[..., 3] = 7.0
    for features in (known, known[:20, :1], np.zeros((25, 1, SIZE), "float32")):
        assert np.isfinite(layer.fit(features)).all() and np.isfinite(numpy(layer(features[:, 0]))).all()
    layer = built(3)  # fewer than directions
    assert np.isfinite(layer.fit(known[..., :3])).all()


def test_a_calibrated_model_knows_clicks_from_its_music(synthetic, tmp_path):
    model = small_model(genres=synthetic.genres)
    calibrate(model, np.stack([synthetic.train[i]["audio"][:22050] for i in range(0, 128, 4)]))
    split = copy.copy(synthetic.validation)
    predictions = evaluation.evaluate(model, split, crop="even", crops=2).predictions.astype("int32")
    split.labels = np.where(np.arange(len(split)) % 2, predictions, split.labels)  # some half of them are right
    found = evaluation.calibrate(model, split, crops=2, rejection_rate=0.2)
    marked = model.card["calibration"]["low_confidence_share"]
    assert found.max_ood_score == model.card["calibration"]["max_ood_score"] > 0.5
    assert marked["correct"] <= 0.4 and 0 < marked["wrong"] < 1
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    clicks = loaded.predict_waveform(np.arange(3 * 22050) % 5000 == 0, 22050)
    assert clicks["low_confidence"] is True and clicks["ood_score"] > 10 * found.max_ood_score
    assert clicks["probability"] > found.min_confidence  # these do not tell
    waveforms = [split[i]["audio"] for i in range(0, len(split), 5)]
    rows = [loaded.predict_waveform(waveform, split.sample_rate) for waveform in waveforms]
    assert np.median([row["ood_score"] for row in rows]) < found.max_ood_score
    few = evaluation.calibrate(model, split.select(range(0, len(split), 4)), crops=1)
    assert model.predict_waveform(waveforms[0], 22050)["ood_score"] is None
    assert few.max_ood_score is None


def test_those_of_a_group_do_not_tell_of_each_other(known):
    """Tracks of an artist that are alike: each is strange to all others."""
    groups = np.arange(200) // 8
    known[groups == 7] = known[groups == 7][:1] + 40  # far from all, close together
    alone, together = built().fit(known), built().fit(known, groups)
    assert together[groups == 7].min() > 3 * alone[groups == 7].max()
    assert built().fit(known, np.arange(200) // 11) is None  # 19 groups
    known[3, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        built().fit(known)


def test_what_a_model_for_inference_gives(one_second_model, rng):
    waveforms = rng.normal(0, 0.1, (3, 22050)).astype("float32")
    names = ("features", "probabilities", "ood_score")
    found = one_second_model.for_inference(*names).predict(waveforms, verbose=0)
    assert [output.shape for output in found] == [(3, 256), (3, len(gk.GENRES)), (3,)]
    images = numpy(one_second_model.front_end(waveforms))
    probabilities = one_second_model.for_inference("probabilities", images=True).predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, found[1], atol=1e-5)
