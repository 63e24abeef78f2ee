"""What there is to know of a saved model: as lines, and as a card that model hubs read."""

import json
import os
import re

import jinja2
import keras
from genrekeras.models import backbones
from genrekeras.utils.io import atomic_write
from genrekeras.utils.progress import printable

# Errors that a malformed card or file of a run may raise, also for numbers that are too large or nesting too deep.
OTHER_FORM = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    jinja2.TemplateError,
)
_MARKDOWN = re.compile(r"[\\`*\[\]|#~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is no markup
_LONGEST = 1000


def templates(escape, **options):
    """Return the Jinja environment of the templates, in which each value is escaped.

    Args:
        escape: function, str -> str; it is not applied to values that are marked as `safe`.
        options: of `jinja2.Environment`.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(__file__), "templates")),
        finalize=lambda value: value if hasattr(value, "__html__") else escape(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def _without_html(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(text):
    """Escape what Markdown, HTML or a terminal would interpret."""
    return _MARKDOWN.sub(r"\\\g<0>", _without_html(printable(text)))


_TEMPLATES = templates(_markdown)
_TEMPLATES.filters["prose"] = lambda text: _without_html(printable(str(text), keep="\n"))


def describe(model):
    """Return a summary of a model: its parts, training data, scores and calibration.

    Args:
        model: `GenreClassifier`.

    Returns:
        list of (str, str), a name and a text; the name is empty if the text continues the previous line.
    """
    trained = {"all": "all", "stem": "stem and last layer", "head": "last layer"}[model.fine_tune]
    lines = [
        (
            "backbone",
            f"{backbone(model)}, {stem(model)}{weights(model):,} weights, dropout {model.dropout:g}",
        ),
        ("trained", f"{trained}, from {model.pretrained or 'random'} weights"),
        ("input", f"{model.clip_seconds:g} s at {model.sample_rate} Hz"),
        *_named("front end", front_end(model)),
        ("genres", ", ".join(model.genres)),
    ]
    if not model.card:
        return [*lines, ("card", "none: what it was trained on and how good it is was not saved with it")]
    try:
        return lines + _lines_of_card(model.card)
    except OTHER_FORM:
        return [*lines, ("card", _of_another_form(model.card))]


def _of_another_form(card):
    try:
        text = json.dumps(dict(card))
    except (ValueError, RecursionError) as error:
        return f"not of the form that experiments give it, and cannot be shown: {error}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
        limits = (("below a probability of %.3f", "min_confidence"), ("with an OOD score above %.2f", "max_ood_score"))
        told = [text % calibration[key] for text, key in limits if calibration.get(key) is not None]
        if calibration.get("better_than_chance") is False:
            told = ["always: the model is not better than chance on these clips"]
        if told:
            lines.append(("low confidence", ", or ".join(told)))
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
        f"{figures['split']} ({figures['protocol']} protocol, {figures['clips']:,} clips, {figures['input_coverage']}): "
        f"{100 * figures['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], macro-F1 {figures['macro_f1']:.3f}, "
        f"calibration error {figures['calibration_error']:.3f}"
    )


def model_card(model, path):
    """Write a model card in Markdown, with the front matter that model hubs read.

    All text of the model and its card is escaped, such as names of genres. Only `card["about"]` may contain Markdown,
    but no HTML.

    Args:
        model: `GenreClassifier`; what its `card` lacks is left out.
        path: str or path-like, such as "model_card.md".

    Raises:
        ValueError: the card is not of the form that experiments give it.
        OSError: it cannot be written.
    """
    try:
        text = _rendered(model, model.card)
    except OTHER_FORM as error:
        raise ValueError(
            f"The card in the model is not of the form that experiments give it: {type(error).__name__}: {error}"
        ) from error
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _rendered(model, card):
    scores = card.get("scores", [])
    main = next((figures for figures in scores if figures["split"] == "test"), scores[0] if scores else None)
    return _TEMPLATES.get_template("model_card.md.jinja").render(
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
                "name": f"{card['data']['name']}, {figures['protocol']} protocol, {figures['input_coverage']}",
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
    return f"{what['clips']:,} clips of {what['split']} ({what['protocol']} protocol, {what['input_coverage']})"
