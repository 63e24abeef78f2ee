"""The card of a model: its summary, and the model card in Markdown."""

import json

import keras
import numpy as np
import pytest
import yaml
from conftest import small_model, tones
from genrekeras import reports

SCORE = {
    "split": "test",
    "protocol": "official",
    "input_coverage": "first 1 s",
    "clips": 20,
    "accuracy": 0.85,
    "accuracy_interval_95": [0.64, 0.95],
    "macro_f1": 0.84,
    "log_loss": 0.5,
    "calibration_error": 0.07,
    "genre_recall": {"a": 0.9, "b": 0.8},
    "genre_recall_interval_95": {"a": [0.6, 0.98], "b": [0.49, 0.94]},
    "confusion_matrix": [[9, 1], [2, 8]],
}
CARD = {
    "data": {
        "name": "mine",
        "protocol": "official",
        "counts": {"train": 100, "validation": 20, "test": 20, "missing": 0, "broken": 1},
        "leakage": [
            {"first": "train", "second": "test", "artists": None, "albums": 2, "duplicates": 0, "clips": 3, "of": 20}
        ],
    },
    "training": {"script": "x.py", "epochs": 3, "versions": {"keras": "3.15.1"}},
    "scores": [SCORE],
}


def test_a_card_is_saved_with_the_model(tmp_path):
    model = small_model(genres=["a", "b"], card=CARD)
    model.save(tmp_path / "m.keras")
    assert dict(keras.saving.load_model(tmp_path / "m.keras").card) == CARD
    assert small_model().card == {} and small_model().get_config()["card"] is None
    with pytest.raises(TypeError):
        model.card["data"] = "another"
    for wrong in ({"a": object()}, {"a": float("nan")}, 5, ["data"]):
        with pytest.raises(ValueError, match="`card` must be a JSON-serializable dict"):
            model.card = wrong
    assert dict(model.card) == CARD


def test_training_removes_the_card(rng):
    model = small_model(card=CARD)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="must have the shape"):
        model.fit(tones(rng, 2, 22050), np.zeros(2, int), validation_data=(tones(rng, 2, 99), np.zeros(2, int)))
    assert dict(model.card) == CARD  # the training did not start
    model.fit(tones(rng, 2, 22050), np.zeros(2, int), verbose=0)
    assert model.card == {}


def test_describe():
    model = small_model(genres=["a", "b"], card=CARD)
    lines = dict(reports.describe(model))
    assert lines["data"] == "mine, official protocol: 100 train, 20 validation, 20 test clips"
    assert lines["training"] == "script x.py, epochs 3"
    assert lines["scores"].startswith("test (official protocol, 20 clips, first 1 s): accuracy 85.0 % [64.0, 95.0]")
    assert "were not saved with the model" in dict(reports.describe(small_model()))["card"]


@pytest.mark.parametrize("backbone, stem", [("mel_cnn", ""), ("efficientnet_lite0", "stem new, ")])
def test_the_stem_is_shown_for_image_networks(backbone, stem, tmp_path):
    model = small_model(backbone=backbone, stem="new")
    count = model.feature_extractor.count_params() + model.head.count_params()
    reports.model_card(model, tmp_path / "card.md")
    for text in (dict(reports.describe(model))["backbone"], (tmp_path / "card.md").read_text()):
        assert f"{backbone}, {stem}{count:,} weights" in text


WORDS_AS_COUNTS = {"data": {**CARD["data"], "counts": dict.fromkeys(CARD["data"]["counts"], "songs")}}


@pytest.mark.parametrize("card", [{"data": "songs", "scores": 5, "mood": "good"}, WORDS_AS_COUNTS])
def test_a_malformed_card(card, tmp_path):
    model = small_model(card=card)
    assert "songs" in dict(reports.describe(model))["card"]
    with pytest.raises(ValueError, match="does not have the form"):
        reports.model_card(model, tmp_path / "model_card.md")
    assert not (tmp_path / "model_card.md").exists()


def test_the_model_card(tmp_path):
    thresholds = {"temperature": 1.5, "min_confidence": 0.4, "max_ood_score": 1.75, "better_than_chance": True}
    calibration = {
        **thresholds,
        "low_confidence_share": {"correct": 0.05, "wrong": 0.5},
        "on": {"split": "validation", "protocol": "official", "input_coverage": "first 1 s", "clips": 20},
        "log_loss": {"before": 0.7, "after": 0.6},
        "calibration_error": {"before": 0.2, "after": 0.1},
    }
    card = {**CARD, "calibration": calibration, "license": "cc-by-nc-4.0"}
    model = small_model(genres=["a", "b"], thresholds=thresholds, card=card)
    lines = dict(reports.describe(model))
    assert lines["calibrated"] == "temperature 1.500, fitted on 20 validation clips (official protocol, first 1 s)"
    assert lines["thresholds"] == "low confidence below a probability of 0.400, or with an OOD score above 1.75"
    reports.model_card(model, tmp_path / "model_card.md")
    text = (tmp_path / "model_card.md").read_text()
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["library_name"] == "keras" and head["license"] == "cc-by-nc-4.0"
    [result] = head["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test" and result["metrics"][0] == {"type": "accuracy", "value": 0.85}
    for part in (
        "| test | official | first 1 s | 20 | 85.0 % | 64.0 to 95.0 | 0.840 | 0.500 | 0.070 |",
        "| a | 90 % | 60 to 98 |",
        "b predicted as a (2 of 10), a predicted as b (1 of 10).",
        "| train, test | unknown | 2 | 0 | 3 of 20 |",
        "low confidence below a probability of 0.400, or with an OOD score above 1.75.",
        "5.0 % of the correct predictions and 50.0 % of the wrong predictions have low confidence.",
        "a temperature of 1.500, which was fitted on 20 validation clips",
    ):
        assert part in body, part
    reports.model_card(small_model(), tmp_path / "empty.md")
    text = (tmp_path / "empty.md").read_text()
    assert text.index("\nimport genrekeras") < text.index("\nimport keras")  # which registers the classes
    for part in ("training data is unknown", "No scores were saved", "was not calibrated", "No prediction is marked"):
        assert part in text, part
    json.dumps(yaml.safe_load(text.split("---\n")[1]))


def test_the_model_card_of_a_multi_label_model(tmp_path):
    score = {
        **{key: value for key, value in SCORE.items() if key not in ("accuracy", "accuracy_interval_95")},
        "multi_label": True,
        "artists": 15,
        "interval_method": "jackknife over 15 artists",
        "mean_average_precision": 0.45,
        "mean_average_precision_interval_95": [0.4, 0.51],
        "genre_roc_auc": {"a": 0.9, "b": None, "c": 0.8},
        "genre_roc_auc_interval_95": {"a": [0.85, 0.94], "b": None, "c": None},
    }
    thresholds = {"temperature": 1.5, "class_thresholds": [0.25, 0.5, 1.0]}
    calibration = {
        **thresholds,
        "precision": 0.8,
        "positives": [8, 0, 3],
        "low_confidence_share": {},
        "on": {"split": "validation", "protocol": "official", "input_coverage": "first 1 s", "clips": 20},
        "calibration_error": {"before": 0.2, "after": 0.1},
    }
    card = {**CARD, "scores": [score], "calibration": calibration}
    model = small_model(genres=["a", "b", "c"], multi_label=True, thresholds=thresholds, card=card)
    lines = dict(reports.describe(model))
    assert lines["scores"].startswith(
        "test (official protocol, 20 clips, first 1 s): mAP 45.0 % [40.0, 51.0], macro-F1"
    )
    assert lines["predicted"] == "above these probabilities: a 0.250 (8 clips), b 0.500; never predicted: c (3 clips)"
    reports.model_card(model, tmp_path / "card.md")
    _, head, body = (tmp_path / "card.md").read_text().split("---\n", 2)
    [result] = yaml.safe_load(head)["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "mean_average_precision", "value": 0.45}
    for part in (
        "| clips | mAP | 95 % interval |",
        "| 20 | 45.0 % | 40.0 to 51.0 | 0.840 |",
        "| genre | ROC-AUC | 95 % interval |",
        "| a | 90 % | 85 to 94 |\n| c | 80 % |  |\n",
        "for a precision of 0.8. The thresholds are: a 0.250 (8 clips), b 0.500; never predicted: c (3 clips).",
        "independent of each other, not clips: jackknife over 15 artists.",
    ):
        assert part in body, part
    assert "Most frequent errors" not in body and "recall" not in body


def test_names_are_not_markup(tmp_path):
    genres = ["<script>a</script>", "b\n# | _c_ [x](y) `d` \x1b\udce9"]
    score = {
        **SCORE,
        "input_coverage": "<i>x",
        "genre_recall": dict.fromkeys(genres, 0.5),
        "genre_recall_interval_95": {genre: [0.4, 0.6] for genre in genres},
    }
    training = {"<u>": "<u>", "flags": {"<u>": ["<u>"]}}
    card = {**CARD, "data": {**CARD["data"], "name": "<img src=x>"}, "training": training, "scores": [score]}
    card |= {"about": "*Some* <script>words</script>\nof mine.", "name": "<u>", "license": "<u>\n"}
    model = small_model(genres=genres, card=card)
    reports.model_card(model, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_bytes().decode("utf-8")
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["license"] == "<u>\n"
    body = body.replace("\n```python\n", "").replace("\n```\n", "")
    assert "<" not in body and "`" not in body.replace("\\`", "") and "\x1b" not in body
    assert "*Some* &lt;script&gt;words&lt;/script&gt;\nof mine." in body
    assert r"| b\\n\# \| \_c\_ \[x\](y) \`d\` \\x1b\\xe9 | 50 % |" in body
    assert "efficientnet" not in body and "mel_cnn" in body and "sample_rate=22050" in body  # without escapes


def nested(depth):
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [{**SCORE, "accuracy": 10**400}]},
        {"scores": [{**SCORE, "accuracy": "NaN"}]},
        {"scores": [[[[1]]]]},
        {"data": [1, 2]},
        {"training": nested(60)},
        {"calibration": {"temperature": 1.0}},
        {"calibration": {"temperature": 1.0, "on": [], "min_confidence": None}},
        {"scores": "x" * 100_000},
    ],
)
def test_a_card_with_absurd_values(change, tmp_path):
    model = small_model(genres=["a", "b"], card={**CARD, **change})
    lines = reports.describe(model)
    assert lines[-1][0] == "card" and len(lines[-1][1]) < 2000
    with pytest.raises(ValueError, match="does not have the form that experiments write"):
        reports.model_card(model, tmp_path / "card.md")


def test_a_model_at_chance(tmp_path):
    thresholds = {"temperature": 9999.9, "better_than_chance": False, "min_confidence": None, "max_ood_score": 2.0}
    calibration = {
        **thresholds,
        "low_confidence_share": {"correct": 1.0, "wrong": 1.0},
        "on": {"split": "validation", "protocol": "official", "input_coverage": "first 1 s", "clips": 20},
        "calibration_error": {"before": 0.2, "after": 0.1},
    }
    model = small_model(genres=["a", "b"], thresholds=thresholds, card={**CARD, "calibration": calibration})
    limits = "low confidence in all cases, because the model is not better than chance"
    assert dict(reports.describe(model))["thresholds"].startswith(limits)
    reports.model_card(model, tmp_path / "card.md")
    assert limits in (tmp_path / "card.md").read_text()
