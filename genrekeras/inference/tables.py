"""Tables of predictions as CSV and JSON text."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def format_csv(table: pd.DataFrame) -> str:
    """Return the result of `predict_files` as CSV. Several predicted genres are joined by "; "."""
    table = table.assign(genres=[genres and "; ".join(genres) for genres in table["genres"]])
    # Text is quoted, so that a carriage return in a file name does not end the row.
    return table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


def format_json(table: pd.DataFrame) -> str:
    """Return the result of `predict_files` as a JSON list of objects. Missing values are null."""
    rows = [{key: None if value != value else value for key, value in row.items()} for row in table.to_dict("records")]
    return json.dumps(rows, indent=1) + "\n"
