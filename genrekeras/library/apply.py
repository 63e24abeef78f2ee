"""Write planned genres into files, and restore the old tags."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from genrekeras import audio, tags
from genrekeras.library.journal import TagJournal, read_journal, tag_lock
from genrekeras.library.plan import COLUMNS
from genrekeras.utils.io import StrPath, remove_leftovers
from genrekeras.utils.progress import bar


class AppliedTags(NamedTuple):
    """Result of `apply_tags`.

    Attributes:
        files: the table of `plan_tags` with the additional column `written`: bool, whether the file was written.
            `reason` and `error` may contain more than in the plan.
        journal: path of the journal, from which `undo_tags` restores the old tags. `None` if nothing was to be written.
    """

    files: pd.DataFrame
    journal: str | None


def apply_tags(plan: pd.DataFrame, journal: StrPath | None = None) -> AppliedTags:
    """Write the genres of a plan into files.

    `genrekeras.tags.write_genres` describes what does not change in a file. Before a file is replaced, its old bytes
    are recorded in a journal. If the genres of a file are not those in the column `old` any more, it is left as it is.
    A file that cannot be written gets an `error`, and the other files are written. Only one process of a user writes at
    a time, others wait.

    Args:
        plan: result of `plan_tags`, or another table with the columns `path`, `old` and `new`. A value of `old` and
            `new` is a list of genres, one genre, or missing.
        journal: path of the journal. If it exists, changes are appended. `None` uses a new file in the state folder of
            the user.

    Raises:
        JournalError: the file `journal` exists and is not a journal.
        OSError: the journal cannot be created.
    """
    rows = plan.to_dict("records")
    if not any(map(is_planned, rows)):
        return AppliedTags(plan.assign(written=False), None)
    with TagJournal(journal) as opened:
        applied = [apply_row(row, opened) for row in bar(len(rows), "Writing tags", "file", iterable=rows)]
    columns = [*plan.columns.union(COLUMNS, sort=False), "written"]
    files = pd.DataFrame(applied, columns=columns, dtype=object).astype({"probability": "float64", "written": bool})
    return AppliedTags(files, opened.path)


def is_planned(row: Mapping[str, Any]) -> bool:
    """Return whether a row of a plan has genres to write."""
    has_genres = isinstance(row["new"], str) or pd.api.types.is_list_like(row["new"])
    return has_genres and not isinstance(row.get("error"), str)


def apply_row(row: Mapping[str, Any], journal: TagJournal) -> dict[str, Any]:
    """Write the genres of a row of a plan.

    Args:
        row: row of `plan_tags`.
        journal: the opened journal.

    Returns:
        The row with the additional key `written`, and perhaps another `reason` or `error`.
    """
    row = {"reason": None, "error": None, **row, "written": False}
    if not is_planned(row):
        return row
    path = os.path.realpath(row["path"])
    try:
        with tag_lock():
            if tags.read_genres(path) != _to_list(row["old"]):
                return {**row, "reason": "its genres have changed since they were read"}
            if journal.add_folder(os.path.dirname(path)):
                _clean(os.path.dirname(path))
            change = tags.write_genres(path, _to_list(row["new"]), before_replacing=journal.add_change)
            return {**row, "written": change is not None}
    except tags.TagError as error:
        return {**row, "error": error.reason}
    except OSError as error:
        return {**row, "error": f"the journal cannot be written: {error}"}


def undo_tags(journal: StrPath) -> pd.DataFrame:
    """Restore the files whose changes are in a journal. Their bytes are the same as before.

    A file that was changed after its genres were written is left as it is. After an interruption, call the function
    again.

    Args:
        journal: path of the journal.

    Returns:
        A row for each change, the last one first, with these columns:

        - `path`: str.
        - `restored`: bool, whether the file was restored. It is false if the file has its old tags already.
        - `old`, `new`: tuples of str, the genres before and after the change.
        - `error`: str, why the file cannot be restored, or `None`.

        A damaged line of the journal has a row with an error, too. Its `path` is the journal.

    Raises:
        JournalError: the file is not a journal.
        OSError: the journal cannot be read.
    """
    content, rows = read_journal(journal), []
    is_foreign = content.host not in ("", socket.gethostname())
    hint = f". The journal was written on the machine {content.host}" if is_foreign else ""
    for folder in dict.fromkeys(content.folders):
        with tag_lock():
            _clean(folder)
    for change in bar(len(content.changes), "Restoring tags", "file", iterable=content.changes[::-1]):
        row = {"path": change.path, "restored": False, "old": change.old, "new": change.new, "error": None}
        try:
            with tag_lock():
                row["restored"] = tags.restore(change)
        except tags.TagError as error:
            row["error"] = error.reason + hint
        rows.append(row)
    for number in content.damaged:
        reason = f"line {number} is damaged, so the change in it cannot be undone"
        rows.append({"path": os.fspath(journal), "restored": False, "old": (), "new": (), "error": reason})
    return pd.DataFrame(rows, columns=["path", "restored", "old", "new", "error"], dtype=object).astype(
        {"restored": bool}
    )


def _to_list(genres):
    """Return the genres in a value of a plan, which may be one genre or missing."""
    if isinstance(genres, str):
        return [genres]
    return list(genres) if pd.api.types.is_list_like(genres) else []


def _clean(folder):
    """Remove the unfinished copies of a process that was killed while it wrote tags in a folder."""
    try:
        remove_leftovers(folder, audio.EXTENSIONS)
    except OSError:  # The folder is missing or cannot be read, so its files get errors.
        pass
