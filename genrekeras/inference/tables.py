"""Tables of predictions as CSV and JSON text."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping

import pandas as pd
from genrekeras.genres import PROBABILITY_PREFIX


def format_csv(table: pd.DataFrame) -> str:
    """Return the result of `predict_files` as CSV. Several predicted genres are joined by "; "."""
    table = table.assign(genres=[genres and "; ".join(genres) for genres in table["genres"]])
    # Text is quoted, so that a carriage return in a file name does not end the row.
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


def format_json(table: pd.DataFrame) -> str:
    """Return the result of `predict_files` as a JSON list of objects. Missing values are null."""
    rows = [{key: None if value != value else value for key, value in row.items()} for row in table.to_dict("records")]
    return json.dumps(rows, indent=1) + "\n"


def drop_other_kinds(table: pd.DataFrame, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Return a table without the probabilities of labels that are not genres, such as moods.

    Args:
        table: the result of `predict_files` or `predict_timeline`.
        kinds: label -> kind, see `label_kinds`. If no label is a genre, the table is returned unchanged.
    """
    others = [PROBABILITY_PREFIX + label for label, kind in kinds.items() if kind != "genre"]
    return table if len(others) == len(kinds) else table.drop(columns=others)
