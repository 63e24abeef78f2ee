"""The page of tracks that may have a wrong genre."""

import os

import pandas as pd
from genrekeras.reports.audit_page import audit_html


def test_names_are_escaped(tmp_path):
    names = ["a & b.mp3", "<script>.mp3", "100% #1?.mp3", os.fsdecode(b"\xff.mp3"), "müsic \x1b.mp3"]
    rows = [
        {
            "path": os.path.join(tmp_path, "music", name),
            "artist": "<b>",
            "title": "",
            "genres": ("R&B", "Pop"),
            "genre": "R&B",
            "suggested": "Pop" if index else "",
            "probability": 0.012,
            "suggested_probability": 0.9,
        }
        for index, name in enumerate(names)
    ]
    audit_html(
        pd.DataFrame(rows, dtype=object),
        tmp_path / "pages.html",
        "5 of 9 tracks may have a wrong genre",
        "On artists: 80 %",
    )
    page = (tmp_path / "pages.html").read_text()
    assert "<script>" not in page and "<b>" not in page and "\x1b" not in page
    links = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert links[:3] == ["music/a%20%26%20b.mp3", "music/%3Cscript%3E.mp3", "music/100%25%20%231%3F.mp3"]
    assert links[3:] == ["music/%FF.mp3", "music/m%C3%BCsic%20%1B.mp3"]
    assert page.count("&rarr;") == 4 and "R&amp;B" in page
