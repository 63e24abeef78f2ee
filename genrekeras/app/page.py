"""The page: its components, and what happens when a file is uploaded. Gradio draws it and adds an HTTP API."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genrekeras import inference
from genrekeras.app.analysis import MAX_MINUTES, Analyser
from genrekeras.genres import PROBABILITY_PREFIX
from genrekeras.utils.progress import printable
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import gradio

MAX_UPLOAD_MB = 500  # for all files that are uploaded together
MAX_FILES = 200  # that are uploaded together
_MAX_WAITING = 50  # requests
_NUM_BARS = 8
_DESCRIPTIONS = {
    "fma_small": "one of 8 genres",
    "musicnn_msd": "several of 30 genres",
    "musicnn_mtt": "several of 14 genres",
}
_INTRODUCTION = f"""# Which genre is it?
Drop a piece of music below, or record one. The computer that runs this page analyses a copy, and deletes the copy after
the answer. A track may last up to {MAX_MINUTES} minutes. The answer can be wrong.
"""
_PLAIN = {  # beginning of an error -> what the page shows instead
    "not audio": "it is not music, or it is a kind of file that this program cannot read",
    "empty": "the file is empty",
    "missing": "uploads are deleted after the answer. Drop the file again",
}
CSS = """
.gradio-container {width: 100%; max-width: 900px !important; margin: auto}
.answer table {width: 100%; border: 0 !important; font-size: 0.9em}
.answer th, .answer td {text-align: left; padding: 4px 8px !important; border: 0 !important}
.answer tr {border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important}
.answer td {overflow-wrap: anywhere}
.answer td:first-child {width: 45%}
.answer .problem {color: var(--error-text-color); font-weight: 600}
"""
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none is loaded


def build(analyser: Analyser, delete: Callable[[Sequence[str]], None]) -> gradio.Blocks:
    """Return the page.

    Args:
        analyser: it analyses the files.
        delete: function that deletes uploaded files. It is called after each answer.
    """
    import gradio as gr

    def analyse(upload: Mapping[str, Any], model: str) -> Iterator[dict[Any, Any]]:
        """Show the answer for a track, in several steps because the figures take longer."""
        track, name = upload["path"], _name(upload)
        try:
            [row] = analyser.predict(model, [track])
            if row["error"]:
                yield {status: _problem_html(name, row["error"]), result: gr.Column(visible=False)}
            else:
                bars, other_bars = _bars(row, inference.label_kinds(analyser.model(model)))
                yield {
                    status: _summary(name, row),
                    result: gr.Column(visible=True),
                    genres: bars,
                    others: gr.Label(other_bars, visible=bool(other_bars)),
                    similar: None,
                    timeline: None,
                    spectrogram: None,
                }
                if analyser.has_index:
                    yield {similar: _similar(analyser.similar(track))}
                yield {timeline: _small(analyser.timeline(model, track))}
                yield {spectrogram: _small(analyser.spectrogram(model, track, row["seconds"]))}
        finally:
            delete([track])
        yield {file: None, recording: None}

    def analyse_recording(upload: Mapping[str, Any], model: str) -> Iterator[dict[Any, Any]]:
        yield from analyse({**upload, "orig_name": "Your recording"}, model)

    def predict(track: Mapping[str, Any] | None, model: str) -> dict[str, Any]:
        """Predict the genre of a track.

        The answer has the columns of `genrekeras predict --json`, with `file` instead of `path`. If the page has an
        index of tracks, the entry `similar` lists the most similar ones.
        """
        if track is None:
            raise gr.Error("Upload a file, and name its path.", print_exception=False)
        try:
            if model not in analyser.models:
                message = f"`model` must be one of {', '.join(analyser.models)}. Received: model={model}"
                raise gr.Error(message, print_exception=False)
            [row] = analyser.predict(model, [track["path"]])
            if row["error"]:
                raise gr.Error(_problem(_name(track), row["error"]), print_exception=False)
            [answer] = json.loads(inference.format_json(analyser.table(model, [row])))
            # The Python client would download every file that an entry `path` names.
            answer = {"file": _name(track), **{key: value for key, value in answer.items() if key != "path"}}
            if analyser.has_index:
                answer["similar"] = analyser.similar(track["path"]).rename(columns={"path": "file"}).to_dict("records")
            return answer
        finally:
            delete([track["path"]])

    def analyse_files(
        uploads: Sequence[Mapping[str, Any]],
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio looks for this default
    ) -> dict[Any, Any]:
        """Show a table of several files, and a link to the table as CSV."""
        paths = [upload["path"] for upload in uploads]
        try:
            if len(paths) > MAX_FILES:
                reason = f"too many: the maximum is {MAX_FILES}"
                return {many: None, files_status: _problem_html(f"{len(paths)} files", reason)}
            rows: list[dict[str, Any]] = []
            for row in analyser.predict(model, paths):
                rows.append({**row, "path": _name(uploads[len(rows)])})
                progress((len(rows), len(paths)), unit="files")
        finally:
            delete(paths)
        table = analyser.table(model, rows)
        return {many: None, files_status: _files_summary(table)}

    with gr.Blocks(title="genrekeras", analytics_enabled=False) as page:
        gr.Markdown(_INTRODUCTION)
        names = list(analyser.models)
        choices = [(f"{name}: {_DESCRIPTIONS[name]}" if name in _DESCRIPTIONS else name, name) for name in names]
        # Radio buttons, because a dropdown has a text field, and Chrome sends a query about text fields to Google.
        choice = gr.Radio(choices, value=names[0], label="Model", info="It is used for the next file.")
        with gr.Tab("One track"):
            with gr.Row(equal_height=True):
                file = gr.File(label="File", height=150)
                recording = gr.Audio(sources=["microphone"], label="Recording", editable=False, buttons=[])
            status = gr.HTML(elem_classes="answer")
            with gr.Column(visible=False) as result:
                with gr.Row():
                    genres = gr.Label(label="Genres", show_heading=False)
                    others = gr.Label(label="Moods, eras, voices, instruments", show_heading=False)
                similar = gr.HTML(elem_classes="answer", visible=analyser.has_index)
                gr.Markdown("### Genres along the track")
                timeline = gr.Plot(show_label=False)
                gr.Markdown("### Spectrogram: loudness at each time and pitch, as the model processes it")
                spectrogram = gr.Plot(show_label=False)
        with gr.Tab("Many files"):
            many = gr.File(file_count="multiple", label=f"Up to {MAX_FILES} files, together up to {MAX_UPLOAD_MB} MB")
            files_status = gr.HTML(elem_classes="answer")
        # Without preprocessing, the functions get dicts with the entries `path` and `orig_name`.
        options: dict[str, Any] = {"preprocess": False, "concurrency_id": "model", "concurrency_limit": 1}
        hidden: dict[str, Any] = {"api_visibility": "private", **options}
        outputs = [file, recording, status, result, genres, others, similar, timeline, spectrogram]
        file.upload(analyse, [file, choice], outputs, show_progress_on=[file], **hidden)
        inputs = [recording, choice]
        recording.stop_recording(analyse_recording, inputs, outputs, show_progress_on=[recording], **hidden)
        many.upload(analyse_files, [many, choice], [many, files_status], show_progress_on=[many], **hidden)
        # The API is an event of components that are not shown.
        model_name = gr.Textbox(names[0], visible=False)
        gr.Button(visible=False).click(
            predict, [file, model_name], gr.JSON(visible=False), api_name="predict", **options
        )
    return page.queue(max_size=_MAX_WAITING)


def _name(upload):
    """Return the name of an upload on the user's machine. Gradio replaces some characters in the path."""
    return upload.get("orig_name") or os.path.basename(upload["path"])


def _genres(row):
    return ", ".join(row["genres"]) or "no genre is probable enough"


def _summary(name, row):
    """Return HTML that names the predicted genres of a track, and the reasons to doubt them."""
    lines = [f"<p><b>{_escape(name)}</b>: {_escape(_genres(row))}</p>"]
    if row["low_confidence"]:
        lines.append(f"<p>Low confidence ({_escape(row['reason'])}): do not rely on this answer.</p>")
    if row["warning"]:
        lines.append(f"<p>Note: the file is {_escape(row['warning'])}.</p>")
    return "".join(lines)


def _plain(reason):
    """Return why a file has no answer, in plain words."""
    return next((text for start, text in _PLAIN.items() if reason.startswith(start)), reason)


def _problem(name, reason):
    return f"{name} could not be analysed: {_plain(reason)}."


def _problem_html(name, reason):
    return f'<p class="problem">{_escape(_problem(name, reason))}</p>'


def _bars(row, kinds):
    """Return label -> probability of the most probable genres, and of the most probable labels of other kinds."""
    groups: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for label in sorted(kinds, key=lambda label: -row[PROBABILITY_PREFIX + label]):
        group = groups[kinds[label] != "genre"]
        if len(group) < _NUM_BARS:
            group[label] = row[PROBABILITY_PREFIX + label]
    return groups


def _similar(table):
    rows = [(row.path, row.genre, f"{row.similarity:.2f}") for row in table.itertuples()]
    return "<h3>Most similar tracks</h3>" + _table(("Track", "Predicted genre", "Similarity, at most 1"), rows)


def _files_summary(table):
    """Return HTML: a table of several files, and a link that contains the table as CSV."""
    rows = []
    for row in table.to_dict("records"):
        if row["error"]:
            answer = f"not analysed: {_plain(row['error'])}"
        else:
            confidence = f", low confidence: {row['reason']}" if row["low_confidence"] else ""
            answer = f"{_genres(row)} ({row['probability']:.0%}{confidence})"
        rows.append((row["path"], answer))
    text = inference.format_csv(table).encode("utf-8", "surrogateescape")
    address = "data:text/csv;charset=utf-8;base64," + base64.b64encode(text).decode()
    link = f'<p><a href="{address}" download="genres.csv">Download all probabilities as genres.csv</a></p>'
    return link + _table(("File", "Genre (probability)"), rows)


def _table(header, rows):
    """Return an HTML table of texts."""
    head = "".join(f"<th>{_escape(text)}</th>" for text in header)
    body = "".join("<tr>" + "".join(f"<td>{_escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _small(figure: Figure) -> Figure:
    """Return a figure that is readable on a phone too."""
    figure.set_size_inches(5.5, 3)
    figure.set_dpi(200)
    return figure


def _escape(text):
    return html.escape(printable(text))
