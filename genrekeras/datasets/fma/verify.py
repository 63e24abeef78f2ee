"""Is an FMA folder what it should be? Every clip decoded, and one table of what was found."""

import concurrent.futures
import dataclasses
import hashlib
import os
import warnings

import numpy as np
import pandas as pd
from genrekeras import audio
from genrekeras.datasets.fma.metadata import SUBSETS, find_table, find_tracks
from genrekeras.datasets.splits import SPLITS
from genrekeras.datasets.store import MIN_SECONDS
from genrekeras.utils.progress import bar

TRACKS_SHA1 = "e65cfe18cbba4e37921b58ea5293c2510329de75"
# What fma_small must have, and its clips that are broken at the source: three hold no audio, three are cut short. Of
# the larger subsets it is not known which are; there, one in a hundred may be.
SMALL_CLIPS = {"train": 6400, "validation": 800, "test": 800}
SMALL_CLIPS_A_GENRE = 1000
BROKEN_AT_SOURCE = (98565, 98567, 98569, 99134, 108925, 133297)
_READABLE = ("ok", "incomplete")
SILENT_DB = -60.0  # of the root mean square of a clip, against full scale


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found in an FMA folder. `str` of it is a table.

    Attributes:
        data_dir: str.
        subset: str.
        clips: `pandas.DataFrame` indexed by `track_id`: `genre`, `split`, `path`, `state` ("ok"; "incomplete", damaged
            or shorter than the header states; "missing"; "broken"), `reason`, `seconds`, `sample_rate` (Hz),
            `channels`, `level` (root mean square, dB of full scale), and `checksum` of the sound.
        remarks: list of str, on the folder and its table.
        faults: list of str, what keeps it from being the subset; empty if it is usable.
    """

    data_dir: str
    subset: str
    clips: pd.DataFrame
    remarks: list
    faults: list

    @property
    def usable(self):
        """Whether all is there that FMA has, clips that are broken at the source aside."""
        return not self.faults

    @property
    def silent(self):
        """The readable clips that are all but silent, as rows of `clips`."""
        return self.clips[self.clips["level"] < SILENT_DB]

    @property
    def duplicates(self):
        """Lists of track ids whose clips are the same sound, sample by sample."""
        readable = self.clips[self.clips["state"].isin(_READABLE)]
        return [list(same) for same in readable.groupby("checksum").groups.values() if len(same) > 1]

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
        lines += self._named("missing", lambda row: "")
        lines += self._named("broken", lambda row: f" {row.reason}")
        lines += self._named("incomplete", lambda row: f" {row.reason}")
        silent = [f"  {track_id:06d}  {row.level:.0f} dB" for track_id, row in self.silent.iterrows()]
        lines += _section(f"{len(silent)} all but silent (below {SILENT_DB:g} dB)", silent)
        same = ["  " + " = ".join(f"{track_id:06d}" for track_id in ids) for ids in self.duplicates]
        lines += _section(f"{len(same)} sounds more than once", same)
        for column, unit in (("sample_rate", "Hz"), ("channels", "channels")):
            counts = readable[column].value_counts()
            lines.append(f"{column}: " + ", ".join(f"{count} with {value:g} {unit}" for value, count in counts.items()))
        lines += [f"Note: {remark}" for remark in self.remarks]
        verdict = "USABLE." if self.usable else f"NOT fma_{self.subset} AS IT SHOULD BE: {'; '.join(self.faults)}."
        return "\n".join([*lines, "", verdict])

    def _named(self, state, describe):
        rows = self.clips[self.clips["state"] == state]
        return _section(f"{len(rows)} {state}", [f"  {row.Index:06d} {describe(row)}" for row in rows.itertuples()])


def check(data_dir, subset="small"):
    """Decode every clip of an FMA folder and count what is there.

    Args:
        data_dir: str or path-like, as `load_fma` takes it.
        subset: `"small"`, `"medium"`, `"large"` or `"full"`. Of fma_small it is known what must be there; of the
            others, that each track of the table must have a clip, of which one in a hundred may be broken.

    Returns:
        `Check`.

    Raises:
        FileNotFoundError, ValueError: as `load_fma`.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` must be one of {tuple(SUBSETS)}. Received: subset={subset!r}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracks = find_tracks(data_dir, subset, SUBSETS[subset])
    remarks = [str(warning.message) for warning in caught]
    table = find_table(os.fspath(data_dir))
    if os.path.basename(table) == "tracks.csv" and _sha1(table) != TRACKS_SHA1:
        remarks.append(f"{table} is not the version of 2017 (its sha1 is another one)")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = pool.map(_examine, tracks["path"], tracks["bytes"])
        found = list(bar(len(tracks), "Decoding clips", "clip", iterable=rows))
    clips = tracks.assign(split=tracks.get("split", "?"))[["genre", "split", "path"]]
    columns = ("state", "reason", "seconds", "sample_rate", "channels", "level", "checksum")
    clips = clips.join(pd.DataFrame(found, index=clips.index, columns=columns))
    return Check(os.fspath(data_dir), subset, clips, remarks, _faults(clips, subset))


def _examine(path, count):
    if count < 0:
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


def _faults(clips, subset):
    """Why a folder is not the subset."""
    faults = []
    missing = int((clips["state"] == "missing").sum())
    bad = clips.index[clips["state"].isin(["broken", "incomplete"])]
    if missing:
        faults.append(f"{missing} clips are missing")
    if subset != "small" and len(bad) > 0.01 * len(clips):
        faults.append(f"{len(bad)} clips are broken or incomplete, more than one in a hundred")
    if subset == "small":
        if new := len(set(bad) - set(BROKEN_AT_SOURCE)):
            faults.append(f"{new} clips are broken or incomplete that are complete at the source")
        splits, genres = clips["split"].value_counts().to_dict(), clips["genre"].value_counts().to_dict()
        if splits not in (SMALL_CLIPS, {"?": sum(SMALL_CLIPS.values())}):  # train_labels.csv knows no splits
            faults.append(f"its table has {splits}, not {SMALL_CLIPS}")
        if genres != dict.fromkeys(SUBSETS["small"], SMALL_CLIPS_A_GENRE):
            faults.append(f"its table has {genres}, not {SMALL_CLIPS_A_GENRE} of each genre")
    return faults


def _section(title, lines, most=40):
    shown = [*lines[:most], *([f"  ... and {len(lines) - most} more"] if len(lines) > most else [])]
    return [f"{title}{':' if lines else ''}", *shown]


def _sha1(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
