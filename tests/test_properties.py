"""Properties of the front end, crops, splits, batches, metrics and configs that hold for any input.

Hypothesis draws 40 examples for each test, the same ones in each run.
"""

import json
import warnings

import genrekeras as gk
import hypothesis
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import numpy
from genrekeras import audio, inference
from genrekeras.datasets import splits
from genrekeras.datasets.batches import CROPS
from genrekeras.datasets.labels import class_weights
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics

FRONT_END = gk.layers.default_front_end()
SAMPLES = 16384

finite = st.floats(-1, 1, width=32)
waves = st.one_of(
    arrays.arrays("float32", SAMPLES, elements=finite, fill=finite),  # mostly one value
    st.builds(lambda level: np.full(SAMPLES, level, "float32"), finite),
    st.builds(
        lambda place, level: np.eye(SAMPLES, dtype="float32")[place] * level, st.integers(0, SAMPLES - 1), finite
    ),
    st.builds(
        lambda hz, gain: np.clip(gain * np.sin(np.arange(SAMPLES) * hz / 3509), -1, 1).astype("float32"),
        st.floats(0, 11025),
        st.floats(0, 1e9),
    ),  # clipped
    st.builds(
        lambda seed, gain: (10**gain * np.random.default_rng(seed).standard_normal(SAMPLES)).astype("float32"),
        st.integers(0, 9),
        st.floats(-30, 8),
    ),
)


def image_of(waveform):
    x = waveform[None]
    for layer in FRONT_END:
        x = layer(x)
    return numpy(x)[0]


@pytest.mark.backends
@hypothesis.given(waves)
def test_front_end_is_finite_and_in_range(waveform):
    image = image_of(waveform)
    assert image.shape == (128, 1 + SAMPLES // 512, 1)
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255.001


@pytest.mark.backends
@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(waves, min_size=2, max_size=4), st.integers(0, 3))
def test_front_end_processes_each_clip_independently(waveforms, which):
    x = np.stack(waveforms)
    for layer in FRONT_END:
        x = layer(x)
    which %= len(waveforms)
    np.testing.assert_allclose(numpy(x)[which], image_of(waveforms[which]), atol=0.01)


@pytest.mark.backends
@hypothesis.given(st.integers(0, 9), st.floats(-3, 3))
def test_front_end_is_invariant_to_gain(seed, gain):
    """Decibels are relative to the peak of the clip."""
    waveform = np.random.default_rng(seed).standard_normal(SAMPLES).astype("float32")
    louder = (10**gain * waveform).astype("float32")
    np.testing.assert_allclose(image_of(louder), image_of(waveform), atol=0.02)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return gk.GenreClassifier("mel_cnn", pretrained=None, fine_tune="all", clip_seconds=SAMPLES / 22050)


@pytest.mark.backends
@hypothesis.given(waveform=waves)
def test_probabilities_are_finite(model, waveform):
    probabilities = numpy(model(waveform[None]))[0]
    assert np.isfinite(probabilities).all() and probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-5)


@hypothesis.given(st.floats(0.01, 1e5), st.floats(0.01, 60), st.integers(1, 50))
def test_clips_of_a_track(seconds, clip_seconds, max_clips):
    starts = inference.clip_starts(seconds, clip_seconds, max_clips)
    assert 1 <= len(starts) <= max_clips and starts[0] == 0 and (np.diff(starts) >= 0).all()
    assert starts[-1] <= max(0.0, seconds - clip_seconds) * (1 + 1e-9)  # the last clip ends within the track
    if len(starts) > 1:  # clips overlap little
        assert np.diff(starts).min() >= 0.94 * clip_seconds


@hypothesis.given(arrays.arrays("float32", st.integers(1, 50), elements=finite), st.integers(1, 300))
def test_to_length(waveform, samples):
    result = audio.to_length(waveform, samples)
    assert result.shape == (samples,) and result.dtype == waveform.dtype
    missing = samples - len(waveform)
    if missing <= 0:
        np.testing.assert_array_equal(result, waveform[:samples])
    else:
        np.testing.assert_array_equal(result[missing // 2 :][: len(waveform)], waveform)
        assert set(result) <= set(waveform)


@st.composite
def collections(draw):
    """A table of tracks, with or without known artists, albums, checksums and splits."""
    count = draw(st.integers(1, 60))
    column = lambda low, high: draw(arrays.arrays("int64", count, elements=st.integers(low, high)))  # noqa: E731
    table = {"label": column(0, 3), "folder": column(0, 2), "artist_id": column(-1, 12), "album_id": column(-1, 12)}
    table["artist_id"][0] = 7  # at least one is known
    if draw(st.booleans()):
        table["checksum"] = column(0, 80)
    if draw(st.booleans()):
        table["split"] = np.array(splits.SPLITS)[column(0, 2)]
    return pd.DataFrame(table, index=pd.Index(np.arange(count) * 3, name="track_id"))


@hypothesis.given(collections(), st.sampled_from(gk.datasets.PROTOCOLS), st.integers(0, 3))
def test_splits(tracks, protocol, seed):
    if protocol == "official" and "split" not in tracks:
        with pytest.raises(ValueError, match="needs official splits"):
            splits.assign_splits(protocol, tracks, seed)
        return
    assigned = splits.assign_splits(protocol, tracks, seed)
    parts = [assigned["train"], assigned["validation"], *([assigned["test"]] if protocol != "random" else [])]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(tracks)))  # each track once
    for split, rows in splits.assign_splits(protocol, tracks, seed).items():
        np.testing.assert_array_equal(rows, assigned[split])
    if protocol != "artist_album":
        return
    for column in ("artist_id", "album_id", "checksum"):
        for one, other in ((0, 1), (0, 2), (1, 2)) if column in tracks else ():
            shared = set(tracks[column].iloc[parts[one]]) & set(tracks[column].iloc[parts[other]])
            assert shared <= {-1}, column


class Clips:
    """A split of clips of given lengths. Each sample of a clip is the index of the clip."""

    sample_rate, genres = 100, ("a", "b", "c")

    def __init__(self, lengths):
        self.lengths, self.track_ids = lengths, np.arange(len(lengths)) + 1000
        self.labels = np.arange(len(lengths)) % 3

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        waveform = np.full(self.lengths[index], index, "float32")
        return {"audio": waveform, "genre": index % 3, "track_id": self.track_ids[index]}


@hypothesis.given(
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.integers(1, 9),
    st.sampled_from(CROPS),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 2**31 - 1),
    st.integers(0, 5),
)
def test_batches(lengths, batch_size, crop, crops, shuffle, seed, epoch):
    clips = Clips(lengths)
    options = {"crop": crop, "crops": crops, "shuffle": shuffle, "seed": seed}
    data, again = (gk.datasets.batches(clips, batch_size, 1.0, **options) for _ in range(2))
    data.epoch = again.epoch = epoch
    assert len(data) == -(-len(clips) * crops // batch_size)
    seen = []
    for index in range(len(data)):
        waveforms, labels = data[index]
        assert waveforms.shape[1:] == (100,) and 1 <= len(waveforms) <= batch_size
        numbers = waveforms[:, 0].astype(int)
        assert (waveforms == numbers[:, None]).all() and (labels == numbers % 3).all()
        assert data.track_ids(epoch, index) == (numbers + 1000).tolist()
        np.testing.assert_array_equal(again[index][0], waveforms)
        seen += numbers.tolist()
    assert sorted(seen) == sorted(list(range(len(clips))) * crops)  # each clip `crops` times
    if not shuffle:
        assert seen == sorted(seen)


@hypothesis.given(st.lists(st.integers(0, 2), min_size=1, max_size=50))
def test_class_weights(labels):
    clips = Clips([1] * len(labels))
    clips.labels = np.array(labels)
    weights = class_weights(clips)
    totals = np.bincount(labels, weights[labels], minlength=3)
    present = np.bincount(labels, minlength=3) > 0
    np.testing.assert_allclose(totals[present], len(labels) / present.sum(), rtol=1e-5)
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-5)


@st.composite
def reports(draw):
    count, genres = draw(st.integers(1, 60)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    probabilities = rng.dirichlet(np.full(genres, draw(st.sampled_from([0.05, 0.5, 5.0]))), count)
    labels = rng.integers(draw(st.integers(1, genres)), size=count)  # some genres may have no clip
    names = tuple("abcdef"[:genres])
    return gk.evaluation.Report(names, "test", "official", np.arange(count), labels, probabilities, "all")


@hypothesis.given(reports())
def test_metrics_equal_scikit_learn(report):
    labels, predictions, genres = report.labels, report.predictions, range(len(report.genres))
    assert report.accuracy == pytest.approx(metrics.accuracy_score(labels, predictions))
    expected = metrics.confusion_matrix(labels, predictions, labels=list(genres))
    np.testing.assert_array_equal(report.confusion_matrix, expected)
    occurring = sorted({*labels, *predictions})
    scores = metrics.precision_recall_fscore_support(labels, predictions, labels=occurring, zero_division=0)[2]
    assert report.macro_f1 == pytest.approx(scores.mean())
    probabilities = report.probabilities[np.arange(len(labels)), labels]
    assert report.log_loss == pytest.approx(-np.log(np.clip(probabilities, np.finfo(float).eps, 1)).mean())
    low, high = report.accuracy_interval
    assert 0 <= low <= report.accuracy <= high <= 1 and 0 <= report.calibration_error <= 1
    back = gk.evaluation.Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert back.figures() == report.figures()


LAYERS = {
    gk.layers.MelSpectrogram: {
        "sample_rate": st.sampled_from([8000, 16000, 22050, 44100]),
        "n_fft": st.sampled_from([256, 512, 2048]),
        "hop_length": st.integers(1, 2048),
        "n_mels": st.integers(1, 128),
        "f_min": st.floats(0, 1000),
        "f_max": st.one_of(st.none(), st.floats(2000, 4000)),
        "mel_scale": st.sampled_from(["slaney", "htk"]),
        "norm": st.sampled_from(["slaney", None]),
        "dft": st.sampled_from(["fft", "matmul"]),
    },
    gk.layers.PowerToDecibels: {"top_db": st.floats(1, 200), "amin": st.floats(1e-30, 1e-3)},
    gk.layers.SpectrogramToImage: {"scale": st.sampled_from(["clip", "decibels"]), "flip": st.booleans()},
    gk.layers.UniformTemporalSubsample: {"num_samples": st.integers(1, 300)},
    gk.layers.RandomGain: {"max_db": st.floats(0.1, 40), "share": st.floats(0, 1), "seed": st.integers(0, 2**31 - 1)},
    gk.layers.RandomTimeShift: {"max_shift": st.floats(0.01, 1), "seed": st.one_of(st.none(), st.integers(0, 9))},
    gk.layers.ImageNoise: {"sigma": st.floats(0.01, 50), "seed": st.integers(0, 9)},
    gk.layers.SpecAugment: {"frequency_masks": st.integers(0, 3), "time_width": st.integers(1, 30)},
}


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
@hypothesis.given(st.data())
def test_get_config(kind, data):
    """`get_config` returns the arguments, and a layer from this config, also through JSON, has the same config."""
    given = {name: data.draw(values, label=name) for name, values in LAYERS[kind].items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unusual arguments
        layer = kind(**given)
        config = layer.get_config()
        again = kind.from_config(json.loads(json.dumps(config)))
    assert {name: config[name] for name in given} == given
    assert again.get_config() == config
