"""What a saved model knows of itself."""

import json

import keras
import numpy as np
import pytest
import yaml
from conftest import small_model, tones
from genrekeras import reports
from genrekeras.reports import model_card

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
        with pytest.raises(ValueError, match="`card` must be a dict of what JSON can hold"):
            model.card = wrong
    assert dict(model.card) == CARD


def test_training_empties_it(rng):
    model = small_model(card=CARD)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="must have the shape"):
        model.fit(tones(rng, 2, 22050), np.zeros(2, int), validation_data=(tones(rng, 2, 99), np.zeros(2, int)))
    assert dict(model.card) == CARD  # nothing was trained
    model.fit(tones(rng, 2, 22050), np.zeros(2, int), verbose=0)
    assert model.card == {}


def test_what_is_told():
    model = small_model(genres=["a", "b"], card=CARD)
    lines = dict(reports.describe(model))
    assert lines["data"] == "mine, official protocol: 100 train, 20 validation, 20 test clips"
    assert lines["training"] == "script x.py, epochs 3"
    assert lines["scores"].startswith("test (official protocol, 20 clips, first 1 s): 85.0 % [64.0, 95.0]")
    assert "was not saved with it" in dict(reports.describe(small_model()))["card"]


@pytest.mark.parametrize("backbone, told", [("mel_cnn", ""), ("efficientnet_lite0", "stem new, ")])
def test_the_stem_is_told_of_networks_that_could_have_another(backbone, told, tmp_path):
    model = small_model(backbone=backbone, stem="new")
    reports.model_card(model, tmp_path / "card.md")
    for text in (dict(reports.describe(model))["backbone"], (tmp_path / "card.md").read_text()):
        assert f"{backbone}, {told}{model_card.weights(model):,} weights" in text


COUNTS_AS_WORDS = {"data": {**CARD["data"], "counts": dict.fromkeys(CARD["data"]["counts"], "songs")}}


@pytest.mark.parametrize("card", [{"data": "songs", "scores": 5, "mood": "good"}, COUNTS_AS_WORDS])
def test_a_card_of_another_form(card, tmp_path):
    model = small_model(card=card)
    assert "songs" in dict(reports.describe(model))["card"]
    with pytest.raises(ValueError, match="not of the form"):
        reports.model_card(model, tmp_path / "model_card.md")
    assert not (tmp_path / "model_card.md").exists()


@pytest.mark.parametrize("calibration", ["by hand", None, {"min_confidence": "0.3"}])
def test_limits_of_another_form_are_none(calibration):
    model = small_model(card={"calibration": calibration})
    row = model.predict_waveform(np.zeros(22050), 22050)
    assert row["low_confidence"] is None and row["ood_score"] is None and row["probability"] > 0


def test_the_model_card(tmp_path):
    calibration = {
        "temperature": 1.5,
        "min_confidence": 0.4,
        "max_ood_score": 1.75,
        "low_confidence_share": {"correct": 0.05, "wrong": 0.5},
        "on": {"split": "validation", "protocol": "official", "input_coverage": "first 1 s", "clips": 20},
        "log_loss": {"before": 0.7, "after": 0.6},
        "calibration_error": {"before": 0.2, "after": 0.1},
    }
    model = small_model(genres=["a", "b"], card={**CARD, "calibration": calibration, "license": "cc-by-nc-4.0"})
    lines = dict(reports.describe(model))
    assert lines["calibrated"] == "temperature 1.500, on 20 clips of validation (official protocol, first 1 s)"
    assert lines["unsure"] == "below a probability of 0.400, or with an OOD score above 1.75"
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
        "b taken for a (2 of 10), a taken for b (1 of 10).",
        "| train, test | unknown | 2 | 0 | 3 of 20 |",
        "less probable than 0.400, or whose strangeness (how unlike these clips its features are; 1 on average) is "
        "above 1.75, is marked unsure. On the same clips this marks 5.0 %",
        "A temperature of 1.500",
    ):
        assert part in body, part
    reports.model_card(small_model(), tmp_path / "empty.md")
    text = (tmp_path / "empty.md").read_text()
    assert text.index("\nimport genrekeras") < text.index("\nimport keras")  # Keras alone finds no class of ours
    assert text.count("was not saved with the model") == 2 and "It was not calibrated" in text
    json.dumps(yaml.safe_load(text.split("---\n")[1]))


def test_names_are_no_markup(tmp_path):
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
    assert "efficientnet" not in body and "mel_cnn" in body and "sample_rate=22050" in body  # as they are


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
        {"calibration": {"temperature": 10**400}},
        {"calibration": {"temperature": 1.0, "on": [], "min_confidence": None}},
        {"scores": "x" * 100_000},
    ],
)
def test_a_card_with_absurd_values(change, tmp_path):
    model = small_model(genres=["a", "b"], card={**CARD, **change})
    lines = reports.describe(model)
    assert lines[-1][0] == "card" and len(lines[-1][1]) < 2000
    with pytest.raises(ValueError, match="not of the form that experiments give it"):
        reports.model_card(model, tmp_path / "card.md")


def test_a_model_at_chance(tmp_path):
    calibration = {
        "temperature": 9999.9,
        "better_than_chance": False,
        "min_confidence": None,
        "max_ood_score": 2.0,
        "low_confidence_share": {"correct": 1.0, "wrong": 1.0},
        "on": {"split": "validation", "protocol": "official", "input_coverage": "first 1 s", "clips": 20},
        "calibration_error": {"before": 0.2, "after": 0.1},
    }
    model = small_model(genres=["a", "b"], card={**CARD, "calibration": calibration})
    assert dict(reports.describe(model))["unsure"].startswith("always: the model is not better than chance")
    reports.model_card(model, tmp_path / "card.md")
    assert "the model is not better than chance: all of its" in (tmp_path / "card.md").read_text()
