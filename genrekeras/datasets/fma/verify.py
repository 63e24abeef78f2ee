"""Verify a folder of FMA by decoding all clips and comparing the folder with the published dataset."""

import concurrent.futures
import dataclasses
import hashlib
import os
import warnings
from typing import Literal

import numpy as np
import pandas as pd
from genrekeras import audio
from genrekeras.datasets.fma.metadata import SUBSETS, find_table, find_tracks
from genrekeras.datasets.groups import UNKNOWN, concentration_of_tables
from genrekeras.datasets.splits import SPLITS
from genrekeras.datasets.store import MIN_SECONDS
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import bar

TRACKS_SHA1 = "e65cfe18cbba4e37921b58ea5293c2510329de75"  # checksum of tracks.csv, version of 2017
SMALL_CLIPS = {"train": 6400, "validation": 800, "test": 800}
SMALL_CLIPS_PER_GENRE = 1000
# Clips that are broken in the published fma_small. Three contain no audio, and three are cut short.
BROKEN_AT_SOURCE = (98565, 98567, 98569, 99134, 108925, 133297)
# Accepted fraction of broken clips in the larger subsets, for which there is no list of broken clips.
MAX_BROKEN = 0.01
SILENT_DB = -60.0  # dB relative to full scale; clips with a lower RMS level are listed as almost silent
_READABLE = ("ok", "incomplete")


@dataclasses.dataclass(frozen=True)
class Check:
    """Result of `check`. `str(result)` returns a report.

    Attributes:
        data_dir: the folder.
        subset: subset of FMA with which the folder was compared.
        clips: table with a row for each clip, indexed by `track_id`. The columns are:

            - `genre`, `split`, `path`: str.
            - `artist_id`: int, -1 if it is unknown.
            - `state`: str, "ok", "incomplete" (damaged or shorter than the header states), "missing" or "broken".
            - `reason`: str, what is wrong with the clip.
            - `seconds`: float, length of the decoded audio.
            - `sample_rate`: int, in Hz.
            - `channels`: int.
            - `level`: float, RMS level in dB relative to full scale.
            - `checksum`: str, hash of the decoded audio.
        notes: remarks about the folder that are not problems.
        problems: differences from the published dataset. The list is empty if the folder is usable.
    """

    data_dir: str
    subset: str
    clips: pd.DataFrame
    notes: list[str]
    problems: list[str]

    @property
    def usable(self) -> bool:
        """Whether the folder has no `problems`."""
        return not self.problems

    @property
    def silent(self) -> pd.DataFrame:
        """The rows of `clips` with a level below `SILENT_DB`."""
        return self.clips[self.clips["level"] < SILENT_DB]

    @property
    def duplicates(self) -> list[list[int]]:
        """Groups of clips with exactly the same audio. A group is a list of track ids."""
        readable = self.clips[self.clips["state"].isin(_READABLE)]
        return [list(ids) for ids in readable.groupby("checksum").groups.values() if len(ids) > 1]

    def __str__(self):
        readable = self.clips[self.clips["state"].isin(_READABLE)]
        lines = [f"fma_{self.subset} in {self.data_dir}: {len(readable)} of {len(self.clips)} clips can be read", ""]
        columns = [split for split in SPLITS if split in set(self.clips["split"])]
        columns += ["readable", "incomplete", "missing", "broken"]
        table = pd.crosstab(self.clips["genre"], self.clips["split"].where(self.clips["state"].isin(_READABLE)))
        table["readable"] = readable["genre"].value_counts()
        for state in columns[-3:]:
            table[state] = self.clips.loc[self.clips["state"] == state, "genre"].value_counts()
        table = table.reindex(index=[genre for genre in SUBSETS[self.subset] if genre in set(self.clips["genre"])])
        table = table.reindex(columns=columns).fillna(0).astype(int)
        table.loc["all"] = table.sum()
        lines += [*table.rename_axis(index=None, columns=None).to_string().splitlines(), ""]
        lines += self._format_clips("missing", lambda row: "")
        lines += self._format_clips("broken", lambda row: f" {row.reason}")
        lines += self._format_clips("incomplete", lambda row: f" {row.reason}")
        silent = [f"  {track_id:06d}  {row.level:.0f} dB" for track_id, row in self.silent.iterrows()]
        lines += _section(f"{len(silent)} almost silent (below {SILENT_DB:g} dB)", silent)
        duplicates = ["  " + " = ".join(f"{track_id:06d}" for track_id in ids) for ids in self.duplicates]
        lines += _section(f"{len(duplicates)} group{'s' * (len(duplicates) != 1)} of duplicates", duplicates)
        for column, unit in (("sample_rate", "Hz"), ("channels", "channels")):
            counts = readable[column].value_counts()
            lines.append(f"{column}: " + ", ".join(f"{count} with {value:g} {unit}" for value, count in counts.items()))
        tables = {split: part for split in SPLITS if len(part := readable[readable["split"] == split])}
        table = concentration_of_tables(tables)
        if table["artists"].notna().any():
            lines += ["", "Artists of each split and genre:"]
            lines += table.round(1).to_string().splitlines()
        lines += [f"Note: {note}" for note in self.notes]
        verdict = "USABLE." if self.usable else f"NOT A COMPLETE fma_{self.subset}: {'; '.join(self.problems)}."
        return "\n".join([*lines, "", verdict])

    def _format_clips(self, state, describe):
        """Return the lines of the report that list the clips with a state.

        Args:
            state: str, value of the column `state`.
            describe: callable, row of `clips` -> str, text after the track id.
        """
        rows = self.clips[self.clips["state"] == state]
        return _section(f"{len(rows)} {state}", [f"  {row.Index:06d} {describe(row)}" for row in rows.itertuples()])


def check(data_dir: StrPath, subset: Literal["small", "medium", "large", "full"] = "small") -> Check:
    """Decode all clips in a folder of FMA and compare the folder with the published dataset.

    For fma_small, the numbers of clips and the broken clips of the published dataset are known. In a folder of a larger
    subset, each track of the table must have a clip, and at most 1 % of the clips may be broken or incomplete.

    Args:
        data_dir: folder with the metadata and the clips. See `find_tracks` for the layout.
        subset: subset of FMA with which the folder is compared.

    Raises:
        FileNotFoundError: there is no folder, no table or no clip.
        ValueError: the subset is unknown, or the table is not a table of FMA.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {tuple(SUBSETS)}. Received: subset={subset!r}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracks = find_tracks(data_dir, subset, SUBSETS[subset])
    notes = [str(warning.message) for warning in caught]
    table = find_table(os.fspath(data_dir))
    if os.path.basename(table) == "tracks.csv" and _sha1(table) != TRACKS_SHA1:
        notes.append(f"{table} is not the version of 2017, because its sha1 differs")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = pool.map(_examine, tracks["path"], tracks["bytes"])
        rows = list(bar(len(tracks), "Decoding clips", "clip", iterable=examined))
    clips = tracks.assign(split=tracks.get("split", "?"), artist_id=tracks.get("artist_id", UNKNOWN))
    clips = clips[["genre", "split", "artist_id", "path"]]
    columns = ("state", "reason", "seconds", "sample_rate", "channels", "level", "checksum")
    clips = clips.join(pd.DataFrame(rows, index=clips.index, columns=columns))
    return Check(os.fspath(data_dir), subset, clips, notes, _problems(clips, subset))


def _examine(path, size):
    """Decode a clip and return its row of `Check.clips` as a dict.

    Args:
        path: str.
        size: int, size of the file in bytes. The size of a missing file is negative.
    """
    if size < 0:
        return {"state": "missing"}
    row = {}
    try:
        header = audio.info(path)
        row |= {"sample_rate": header.sample_rate, "channels": header.channels}
        waveform, warning = audio.decode(path, header.sample_rate)
        row |= {"state": "incomplete" if warning else "ok", "reason": warning or ""}
        row["seconds"] = len(waveform) / row["sample_rate"]
        row["level"] = 10 * np.log10(np.mean(np.square(waveform, dtype="float64")) + 1e-12)
        row["checksum"] = hashlib.blake2b(waveform.tobytes(), digest_size=8).hexdigest()
        if row["seconds"] < MIN_SECONDS:
            row |= {"state": "broken", "reason": f"cut short: {row['seconds']:.1f} s"}
    except audio.AudioError as error:
        row |= {"state": "broken", "reason": error.reason}
    return row


def _problems(clips, subset):
    """Compare clips with the published subset. Return the differences as a list of str."""
    problems = []
    missing = int((clips["state"] == "missing").sum())
    bad = clips.index[clips["state"].isin(["broken", "incomplete"])]
    if missing:
        problems.append(f"{missing} clips are missing")
    if subset != "small" and len(bad) > MAX_BROKEN * len(clips):
        problems.append(f"{len(bad)} clips are broken or incomplete, more than {MAX_BROKEN:.0%}")
    if subset == "small":
        if new := len(set(bad) - set(BROKEN_AT_SOURCE)):
            problems.append(f"{new} clips are broken or incomplete, but complete in the published dataset")
        splits, genres = clips["split"].value_counts().to_dict(), clips["genre"].value_counts().to_dict()
        if splits not in (SMALL_CLIPS, {"?": sum(SMALL_CLIPS.values())}):  # train_labels.csv has no splits
            problems.append(f"its table has {splits} tracks instead of {SMALL_CLIPS}")
        if genres != dict.fromkeys(SUBSETS["small"], SMALL_CLIPS_PER_GENRE):
            problems.append(f"its table has {genres} tracks instead of {SMALL_CLIPS_PER_GENRE} of each genre")
    return problems


def _section(title, lines, max_lines=40):
    """Return a section of the report: a title and at most `max_lines` lines."""
    shown = [*lines[:max_lines], *([f"  ... and {len(lines) - max_lines} more"] if len(lines) > max_lines else [])]
    return [f"{title}{':' if lines else ''}", *shown]


def _sha1(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
