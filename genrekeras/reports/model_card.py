"""Summarize a saved model as lines of text, or as a model card in Markdown for model hubs."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import keras
from genrekeras.evaluation.base import percent
from genrekeras.evaluation.multi_label import report_class
from genrekeras.evaluation.report import Report
from genrekeras.inference.labels import MAX_GENRES, MIN_PROBABILITY
from genrekeras.models import GenreClassifier, Thresholds, backbones
from genrekeras.models.labels import GENRE, label_kinds
from genrekeras.models.thresholds import HOW_TO_CALIBRATE, NEVER
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.progress import printable

# Exceptions that malformed cards and files may cause, for example by too large numbers or too deep nesting.
MALFORMED = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    jinja2.TemplateError,
)
_MARKDOWN = re.compile(r"[\\`*\[\]|#~$]|(?<![^\W_])_|_(?![^\W_])")  # An underscore inside a word is not markup.
_LINK = re.compile(r"\[([^]]*)\]\(([^)]*)\)")  # in Markdown
_MAX_QUOTED = 1000  # characters


def templates(escape: Callable[[str], str], **options: Any) -> jinja2.Environment:
    """Return a Jinja environment for the templates of this package. The environment escapes each value.

    Args:
        escape: function that escapes a value. It is not applied to values that are marked as `safe`.
        **options: further arguments of `jinja2.Environment`.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(__file__), "templates")),
        finalize=lambda value: value if hasattr(value, "__html__") else escape(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def _escape_html(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape_markdown(text):
    """Escape characters that Markdown, HTML or a terminal would interpret."""
    return _MARKDOWN.sub(r"\\\g<0>", _escape_html(printable(text)))


_TEMPLATES = templates(_escape_markdown)
_TEMPLATES.filters["prose"] = lambda text: _escape_html(printable(str(text), keep="\n"))


def describe(model: GenreClassifier) -> list[tuple[str, str]]:
    """Summarize a model: its layers, training data, scores, calibration and thresholds.

    Args:
        model: the model to summarize.

    Returns:
        Pairs `(name, text)`. If the name is empty, the text continues the previous pair.
    """
    trained = {"all": "all", "stem": "stem and last layer", "head": "last layer"}[model.fine_tune]
    backbone, stem = _describe_backbone(model), _describe_stem(model)
    lines = [
        ("backbone", f"{backbone}, {stem}{_count_weights(model):,} weights, dropout {model.dropout:g}"),
        ("trained", f"{trained}, from {model.pretrained or 'random'} weights"),
        ("input", f"{model.clip_seconds:g} s at {model.sample_rate} Hz"),
        *_name_first("front end", _describe_front_end(model)),
        *_describe_labels(model),
    ]
    limits = describe_limits(model.thresholds)
    if limits:
        lines.append(("thresholds", f"low confidence {limits}"))
    class_thresholds = describe_class_thresholds(model)
    if class_thresholds:
        lines.append(("predicted", f"above these probabilities: {class_thresholds}"))
    elif model.multi_label:
        rule = f"at most {MAX_GENRES} genres of probability {MIN_PROBABILITY} or more, or else the most probable genre"
        lines.append(("predicted", f"{rule}; without confidence, because it is not calibrated. {HOW_TO_CALIBRATE}"))
    if not model.card:
        return [*lines, ("card", "none, because training data and scores were not saved with the model")]
    try:
        return lines + _describe_card(model.card, model.thresholds)
    except MALFORMED:
        return [*lines, ("card", _quote_malformed(model.card))]


def labels_by_kind(model: GenreClassifier) -> dict[str, list[str]]:
    """Return kind -> labels of a model, genres first. See `genrekeras.inference.label_kinds`."""
    labels: dict[str, list[str]] = {GENRE: []}
    for label, kind in label_kinds(model).items():
        labels.setdefault(kind, []).append(label)
    return {kind: names for kind, names in labels.items() if names}


def describe_limits(thresholds: Thresholds) -> str:
    """Return text that states when a prediction has low confidence. The text is empty if there are no limits."""
    if thresholds.better_than_chance is False:
        return "in all cases, because the model is not better than chance on the calibration clips"
    limits = []
    if thresholds.min_confidence is not None:
        limits.append(f"below a probability of {thresholds.min_confidence:.3f}")
    if thresholds.max_ood_score is not None:
        limits.append(f"with an OOD score above {thresholds.max_ood_score:.2f}")
    return ", or ".join(limits)


def describe_class_thresholds(model: GenreClassifier) -> str:
    """Return text that states the threshold of each genre. The text is empty if there are no class thresholds.

    If the card contains numbers of calibration clips with each genre, those above 0 are in parentheses.
    """
    if model.thresholds.class_thresholds is None:
        return ""
    calibration = model.card.get("calibration")
    positives = calibration.get("positives") if isinstance(calibration, Mapping) else None
    if not isinstance(positives, list) or len(positives) != len(model.genres):
        positives = [None] * len(model.genres)
    thresholds: list[str] = []
    never: list[str] = []
    for genre, value, clips in zip(model.genres, model.thresholds.class_thresholds, positives, strict=True):
        text = f"{genre}{'' if value == NEVER else f' {value:.3f}'}{f' ({clips} clips)' if clips else ''}"
        (never if value == NEVER else thresholds).append(text)
    parts = [", ".join(thresholds), f"never predicted: {', '.join(never)}" if never else ""]
    return "; ".join(filter(None, parts))


def _quote_malformed(card):
    """Return the first characters of a malformed card as JSON."""
    try:
        text = json.dumps(dict(card))
    except (ValueError, RecursionError) as error:
        return f"does not have the form that experiments write, and cannot be shown: {error}"
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."


def _describe_card(card, thresholds):
    """Return the lines of a card: data, training, scores and calibration."""
    lines = []
    if data := card.get("data"):
        text = data["name"]
        if counts := data.get("counts"):
            clips = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "validation", "test"))
            text = f"{text}, {data['protocol']} protocol: {clips} clips"
        lines.append(("data", text))
    if training := card.get("training"):
        lines.append(("training", ", ".join(f"{key} {value}" for key, value in training.items() if _is_short(value))))
    lines += _name_first("scores", [_describe_scores(figures) for figures in card.get("scores", [])])
    if calibration := card.get("calibration"):
        clips = _describe_clips(calibration["on"])
        lines.append(("calibrated", f"temperature {thresholds.temperature:.3f}, fitted on {clips}"))
    links_as_text = ((name, _LINK.sub(r"\1 (\2)", card[name])) for name in ("license", "about") if name in card)
    return [*lines, *links_as_text]


def _describe_backbone(model):
    """Return the name of the backbone. For an ensemble, return the names with the numbers of models."""
    if isinstance(model.backbone, str):
        return model.backbone
    return " and ".join(f"{model.backbone.count(name)} {name}" for name in dict.fromkeys(model.backbone))


def _describe_labels(model):
    """Return a line for the labels of each kind."""
    several = "; a clip can have several" if model.multi_label else ""
    lines = [(f"{kind}s", ", ".join(labels)) for kind, labels in labels_by_kind(model).items()]
    return [(lines[0][0], f"{lines[0][1]}{several}"), *lines[1:]]


def _describe_stem(model):
    """Return the kind of the stem and a comma. The text is empty for networks that are designed for one channel."""
    has_gray_input = isinstance(backbones.get(model.backbone), backbones.MelBackbone)
    return "" if has_gray_input else f"stem {model.stem}, "


def _count_weights(model):
    """Return the number of weights in the backbone and the last layer."""
    return model.feature_extractor.count_params() + model.head.count_params()


def _describe_front_end(model):
    """Return one line for each layer of the front end."""
    omitted = ("name", "dtype", "trainable")
    return [
        f"{type(layer).__name__}({', '.join(f'{k}={v!r}' for k, v in layer.get_config().items() if k not in omitted)})"
        for layer in model.front_end.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def _describe_scores(figures):
    """Return a line of text with the scores of a report. `figures` is the result of `Report.figures()`."""
    kind = report_class(figures)
    score = percent(figures[kind.SCORE], figures[f"{kind.SCORE}_interval_95"])
    return (
        f"{figures['split']} ({figures['protocol']} protocol, {figures['clips']:,} clips, "
        f"{figures['input_coverage']}): {kind.SCORE_NAME} {score}, "
        f"macro-F1 {figures['macro_f1']:.3f}, calibration error {figures['calibration_error']:.3f}"
    )


def model_card(model: GenreClassifier, path: StrPath) -> None:
    """Write a model card in Markdown, with front matter for model hubs.

    Text from the model, such as names of genres, is escaped. Only `model.card["about"]` may contain Markdown. It must
    not contain HTML.

    Args:
        model: the model to describe. If an entry of `model.card` is missing, its section is omitted or marked as
            unknown.
        path: path of the file, such as "model_card.md".

    Raises:
        ValueError: `model.card` does not have the form that experiments write.
        OSError: the file cannot be written.
    """
    try:
        text = _render(model, model.card)
    except MALFORMED as error:
        raise ValueError(
            f"`model.card` does not have the form that experiments write: {type(error).__name__}: {error}"
        ) from error
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _render(model, card):
    """Return the Markdown text of a model card."""
    scores = card.get("scores", [])
    main = next((figures for figures in scores if figures["split"] == "test"), scores[0] if scores else None)
    kind = report_class(main or {})
    return _TEMPLATES.get_template("model_card.md.jinja").render(
        model=model,
        front_end=_describe_front_end(model),
        backbone=_describe_backbone(model),
        stem=_describe_stem(model),
        num_weights=_count_weights(model),
        front_matter=_front_matter(card),
        card=card,
        thresholds=model.thresholds,
        limits=describe_limits(model.thresholds),
        class_thresholds=describe_class_thresholds(model),
        main=main,
        kind=kind,
        errors=_frequent_errors(main, model.genres) if main and kind is Report else [],
        artists=artists_of_splits(card.get("data") or {}),
        labels=labels_by_kind(model),
    )


def artists_of_splits(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table of the artists of each split. The list is empty if the artists are unknown.

    Args:
        data: entry `data` of a card or of the config of a run. Its entry `concentration` contains the rows of
            `genrekeras.datasets.concentration`.

    Returns:
        The rows for complete splits. In each, `smallest` is the row of the genre with the smallest effective size.
    """
    rows = [row for row in data.get("concentration", []) if row["artists"] is not None]
    return [
        {**row, "smallest": min(genres, key=lambda genre: genre["effective_size"])}
        for row in rows
        if row["genre"] == "all"
        and (genres := [genre for genre in rows if genre["split"] == row["split"] and genre is not row])
    ]


def _front_matter(card):
    """Return the front matter of a model card: dict, key -> JSON-serializable value."""
    results = [
        {
            "task": {"type": "audio-classification"},
            "dataset": {
                "name": f"{card['data']['name']}, {figures['protocol']} protocol, {figures['input_coverage']}",
                "type": card["data"]["name"].split()[0],
                "split": figures["split"],
            },
            "metrics": [
                {"type": report_class(figures).SCORE, "value": round(figures[report_class(figures).SCORE], 4)},
                {"type": "f1", "value": round(figures["macro_f1"], 4)},
            ],
        }
        for figures in card.get("scores", [])
        if "data" in card
    ]
    front_matter = {
        "library_name": "keras",
        "pipeline_tag": "audio-classification",
        "tags": ["genrekeras", "music", "music-genre-classification"],
    }
    if "license" in card:
        front_matter["license"] = card["license"]
    if results:
        front_matter["metrics"] = [metric["type"] for metric in results[0]["metrics"]]
        front_matter["model-index"] = [{"name": "genrekeras", "results": results}]
    return front_matter


def _frequent_errors(figures, genres):
    """Return the five most frequent errors.

    Each is a tuple (true genre, predicted genre, number of these errors, number of clips of the true genre).
    """
    matrix = figures["confusion_matrix"]
    errors = [
        (genres[row], genres[column], count, sum(matrix[row]))
        for row in range(len(genres))
        for column, count in enumerate(matrix[row])
        if row != column and count
    ]
    return sorted(errors, key=lambda error: -error[2])[:5]


def _name_first(name, lines):
    """Return pairs (name, line). The name is empty for all lines except the first."""
    return [(name if index == 0 else "", line) for index, line in enumerate(lines)]


def _is_short(value):
    return isinstance(value, (int, float, str)) and len(str(value)) < 40


def _describe_clips(clips):
    return f"{clips['clips']:,} {clips['split']} clips ({clips['protocol']} protocol, {clips['input_coverage']})"
