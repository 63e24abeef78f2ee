"""What there is to know of a saved model: as lines, and as a card that model hubs read."""

import json
import os

import jinja2
import keras
from genrekeras import backbones
from genrekeras.files import whole_file

_OTHER_FORM = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # what a card made by hand may raise
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(__file__), "templates")),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def describe(model):
    """What a model is, was trained on and scored.

    Args:
        model: `GenreClassifier`.

    Returns:
        list of (str, str), a name, empty where it goes on, and a text.
    """
    trained = {"all": "all", "stem": "stem and last layer", "head": "last layer"}[model.fine_tune]
    lines = [
        (
            "backbone",
            f"{backbone(model)}, {stem(model)}{weights(model):,} weights, dropout {model.dropout:g}",
        ),
        ("trained", f"{trained}, from {model.pretrained or 'random'} weights"),
        ("hears", f"{model.clip_seconds:g} s at {model.sample_rate} Hz"),
        *_named("front end", front_end(model)),
        ("genres", ", ".join(model.genres)),
    ]
    if not model.card:
        return [*lines, ("card", "none: what it was trained on and how good it is was not saved with it")]
    try:
        return lines + _lines_of_card(model.card)
    except _OTHER_FORM:
        return [*lines, ("card", json.dumps(dict(model.card)))]


def _lines_of_card(card):
    lines = []
    if data := card.get("data"):
        counts = data["counts"]
        clips = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "validation", "test"))
        lines.append(("data", f"{data['name']}, {data['protocol']} protocol: {clips} clips"))
    if training := card.get("training"):
        lines.append(("training", ", ".join(f"{key} {value}" for key, value in training.items() if _is_short(value))))
    lines += _named("scores", [_score(figures) for figures in card.get("scores", [])])
    if calibration := card.get("calibration"):
        lines.append(("calibrated", f"temperature {calibration['temperature']:.3f}, on {_on(calibration['on'])}"))
        if calibration["unsure_below"] is not None:
            strange = calibration.get("strange_above")
            above = "" if strange is None else f", or with a strangeness above {strange:.2f}"
            lines.append(("unsure", f"below a probability of {calibration['unsure_below']:.3f}{above}"))
    return lines


def backbone(model):
    """Its name; of several, how many of each."""
    if isinstance(model.backbone, str):
        return model.backbone
    return " and ".join(f"{model.backbone.count(name)} {name}" for name in dict.fromkeys(model.backbone))


def stem(model):
    """Its kind, with a comma; nothing of networks that were made for gray images."""
    of_its_own = isinstance(backbones.get(model.backbone), backbones.MelBackbone)
    return "" if of_its_own else f"stem {model.stem}, "


def weights(model):
    """How many numbers were learnt: those of backbone and last layer."""
    return model.feature_extractor.count_params() + model.head.count_params()


def front_end(model):
    """A line for each layer between the waveform and the image."""
    hidden = ("name", "dtype", "trainable")
    return [
        f"{type(layer).__name__}({', '.join(f'{k}={v!r}' for k, v in layer.get_config().items() if k not in hidden)})"
        for layer in model.front_end.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def _score(figures):
    """A line of `Report.figures()`."""
    low, high = figures["accuracy_interval_95"]
    return (
        f"{figures['split']} ({figures['protocol']} protocol, {figures['clips']:,} clips, {figures['heard']}): "
        f"{100 * figures['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], macro-F1 {figures['macro_f1']:.3f}, "
        f"calibration error {figures['calibration_error']:.3f}"
    )


def model_card(model, path):
    """Write a model card in Markdown, with the front matter that model hubs read.

    Args:
        model: `GenreClassifier`; what its `card` does not say is left out.
        path: str or path-like, such as "model_card.md".

    Raises:
        ValueError: the card was made by hand and says other things than those of experiments.
        OSError: it cannot be written.
    """
    try:
        text = _markdown(model, model.card)
    except (*_OTHER_FORM, jinja2.TemplateError) as error:
        raise ValueError(f"The card in the model is not of the form that experiments give it: {error!r}") from error
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _markdown(model, card):
    scores = card.get("scores", [])
    main = next((figures for figures in scores if figures["split"] == "test"), scores[0] if scores else None)
    return TEMPLATES.get_template("model_card.md.jinja").render(
        model=model,
        front_end=front_end(model),
        backbone=backbone(model),
        stem=stem(model),
        weights=weights(model),
        front_matter=_front_matter(card),
        card=card,
        main=main,
        confusions=_confusions(main, model.genres) if main else [],
    )


def _front_matter(card):
    results = [
        {
            "task": {"type": "audio-classification"},
            "dataset": {
                "name": f"{card['data']['name']}, {figures['protocol']} protocol, {figures['heard']}",
                "type": card["data"]["name"].split()[0],
                "split": figures["split"],
            },
            "metrics": [
                {"type": name, "value": round(figures[key], 4)}
                for name, key in (("accuracy", "accuracy"), ("f1", "macro_f1"))
            ],
        }
        for figures in card.get("scores", [])
        if "data" in card
    ]
    head = {
        "library_name": "keras",
        "pipeline_tag": "audio-classification",
        "tags": ["genrekeras", "music", "music-genre-classification"],
    }
    if "license" in card:
        head["license"] = card["license"]
    if results:
        head["metrics"] = ["accuracy", "f1"]
        head["model-index"] = [{"name": "genrekeras", "results": results}]
    return head


def _confusions(figures, genres):
    """The five most frequent errors: (true genre, predicted genre, clips, clips of the true genre)."""
    matrix = figures["confusion_matrix"]
    errors = [
        (genres[row], genres[column], count, sum(matrix[row]))
        for row in range(len(genres))
        for column, count in enumerate(matrix[row])
        if row != column and count
    ]
    return sorted(errors, key=lambda error: -error[2])[:5]


def _named(name, lines):
    return [(name if place == 0 else "", line) for place, line in enumerate(lines)]


def _is_short(value):
    return isinstance(value, (int, float, str)) and len(str(value)) < 40


def _on(what):
    return f"{what['clips']:,} clips of {what['split']} ({what['protocol']} protocol, {what['heard']})"
