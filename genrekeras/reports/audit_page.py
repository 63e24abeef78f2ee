"""Write an HTML page of tracks that may have a wrong genre, with a player for each track."""

import os
import urllib.parse

import pandas as pd
from genrekeras.reports.model_card import templates
from genrekeras.utils.io import StrPath, atomic_write
from genrekeras.utils.progress import printable

_TEMPLATES = templates(printable, autoescape=True)


def audit_html(tracks: pd.DataFrame, path: StrPath, summary: str, headline: str) -> None:
    """Write the page. It plays the files of the tracks from their folders, so it works on this computer only.

    Args:
        tracks: rows of `genrekeras.library.label_errors.Audit.tracks`.
        path: path of the file, such as "audit.html".
        summary: heading of the page, without a full stop.
        headline: score of the model, without a full stop.

    Raises:
        OSError: the page cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    rows = [{**row, "link": _link(row["path"], folder)} for row in tracks.to_dict("records")]
    text = _TEMPLATES.get_template("audit.html.jinja").render(rows=rows, summary=summary, headline=headline)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _link(path, folder):
    """Return the URL of a file relative to a folder. It is absolute if they are on different drives."""
    path = os.path.abspath(path)
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # different drives on Windows
        return "file:///" + urllib.parse.quote(path.replace(os.sep, "/"))
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
