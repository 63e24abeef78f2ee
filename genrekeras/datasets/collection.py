"""Find the tracks of a music collection, their genres and their artists, without decoding audio."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from genrekeras.datasets import folder, tagged
from genrekeras.datasets.batches import check_integers
from genrekeras.datasets.groups import UNKNOWN, group_tracks
from genrekeras.datasets.labels import add_labels
from genrekeras.utils.audio_files import find_files
from genrekeras.utils.io import StrPath

FOLDERS, TAGS = "folders", "tags"  # values of `labels`; any other value is the path of a CSV file
_MIN_ARTISTS = 2  # a genre of one artist cannot be evaluated on an artist that was not in training


@dataclasses.dataclass(frozen=True)
class Collection:
    """Tracks of a music collection that have a genre with enough tracks.

    Attributes:
        source: absolute path of the folder.
        tracks: table with a row for each track, indexed by `track_id`, with the columns of `Split.tracks`.
            `artist_id` is the group of the track. All tracks that share an artist or an album are in the same group,
            see `find_collection`. The column `without_artist` states whether artist and album are unknown.
        genres: in the order of the labels.
        rare: genre that is left out -> its size, such as "3 tracks".
        counts: numbers with the keys `tracks` (all audio files), `unreadable` (files whose tags cannot be read),
            `untagged` and `rare` (tracks that have rare genres only).
        notes: texts for the user about tracks that are left out, and about unknown artists.
    """

    source: str
    tracks: pd.DataFrame
    genres: tuple[str, ...]
    rare: dict[str, str]
    counts: dict[str, int]
    notes: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        """Whether tracks have several genres."""
        return "genres" in self.tracks

    def select(self, positions: Sequence[int] | np.ndarray, checksums: Sequence[str], min_tracks: int) -> Collection:
        """Return the collection of some tracks. Genres that now have too few tracks are left out.

        Args:
            positions: `(n,)` int, indices of the tracks.
            checksums: for each of these tracks, checksum of its audio. Tracks with the same checksum get the same
                group.
            min_tracks: as in `find_collection`.

        Raises:
            ValueError: fewer than two genres are left.
        """
        tracks = self.tracks.iloc[np.asarray(positions, int)].assign(checksum=checksums)
        tracks["artist_id"] = group_tracks(tracks)
        if not self.multi_label:
            tracks["genres"] = [(genre,) for genre in tracks["genre"]]
        kept, rare = _without_rare(tracks, min_tracks)
        return _collection(self.source, kept, {**self.rare, **rare}, self.counts, self.notes, min_tracks)


def find_collection(music: StrPath, labels: StrPath = FOLDERS, min_tracks: int = 10) -> Collection:
    """Find the audio files in a folder, their genres and their artists.

    Tracks are grouped, so that tracks of the same artist are not used both to train and to evaluate a model. All tracks
    are in the same group that share

    - the artist or the album in their tags,
    - with `labels="folders"`, the first folder in the folder of the genre, such as `Rock/Some Artist`,
    - with other labels, the folder, if they have neither artist nor album in their tags.

    Different spellings of a genre are merged, see `load_tagged`.

    Args:
        music: the folder.
        labels: source of the genres. `"folders"`: the name of the first folder is the genre, see `load_folder`.
            `"tags"`: the tags of the files, see `load_tagged`. Otherwise, path of a CSV file, see the argument `labels`
            of `load_tagged`.
        min_tracks: `> 0`. Genres with fewer tracks, and genres of only one artist, are left out.

    Raises:
        FileNotFoundError: the folder or the CSV file does not exist.
        ValueError: there are no audio files, fewer than two genres have enough tracks, or the CSV file has another
            format.
    """
    check_integers(min_tracks=(min_tracks, 1))
    if not os.path.isdir(music):
        raise FileNotFoundError(f"`music` is not a folder. Received: music={os.fspath(music)!r}")
    if labels not in (FOLDERS, TAGS) and not os.path.isfile(labels):
        raise FileNotFoundError(
            f'`labels` must be "{FOLDERS}", "{TAGS}" or the path of a CSV file. Received: labels={os.fspath(labels)!r}'
        )
    source = os.path.abspath(music)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if labels == FOLDERS:
            tracks = _read_folders(source)
        else:
            files = sorted({os.path.abspath(path) for path in find_files(source)})
            tracks = tagged.read_tracks(files, None if labels == TAGS else tagged.read_labels(labels, source, files))
    tracks["artist_id"], tracks["album_id"] = group_tracks(tracks), UNKNOWN
    kept, rare = _without_rare(tracks, min_tracks)
    counts, notes = tagged.summarize(tracks, kept, source)
    notes = [*(str(warning.message) for warning in caught), *notes]
    without_artist = counts.pop("without_artist")
    if without_artist:
        own = ", or by itself if it lies directly in the folder of a genre" if labels == FOLDERS else ""
        notes.append(
            f"{without_artist} of {len(kept)} tracks have neither artist nor album in their tags"
            f"{' or folders' if labels == FOLDERS else ''}. Each is grouped by its folder{own}. If an artist has "
            "tracks in several of these groups, the scores may be too good."
        )
    kept = kept.drop(columns="unreadable")
    return _collection(source, kept, rare, {"tracks": len(tracks), **counts}, tuple(notes), min_tracks)


def _read_folders(source):
    """Return the result of `read_tracks` for one folder per genre. Artists and albums are those of tags and folders."""
    by_folder = folder.find_files(source)
    genres = {path: [genre] for path, genre in zip(by_folder["path"], by_folder["genre"], strict=True)}
    tracks = tagged.read_tracks(list(genres), genres)
    in_folder = (by_folder["artist_id"] != UNKNOWN).to_numpy()
    tracks["album_id"] = tracks["album_id"].where(~tracks["without_artist"].to_numpy(bool), UNKNOWN)
    tracks["artist_id"], tracks["album_id"] = group_tracks(tracks), by_folder["artist_id"]
    tracks["without_artist"] &= ~in_folder
    for column in ("artist", "album"):
        tracks[column] = tracks[column].where(tracks[column] != "", by_folder[column])
    return tracks


def _without_rare(tracks, min_tracks):
    """Return the tracks that have a frequent genre, without their rare genres, and dict, rare genre -> its size."""
    genres = tracks["genres"].explode().dropna()
    sizes = genres.value_counts()
    artists = tracks["artist_id"].loc[genres.index].groupby(genres.to_numpy()).nunique()
    rare = {
        genre: f"{size} track{'s' if size > 1 else ''}{' of one artist' if 1 == artists[genre] < size else ''}"
        for genre, size in sizes.items()
        if size < min_tracks or artists[genre] < _MIN_ARTISTS
    }
    kept = tracks.assign(genres=[tuple(name for name in names if name not in rare) for names in tracks["genres"]])
    return kept[kept["genres"].map(bool).astype(bool)], rare


def _collection(source, tracks, rare, counts, notes, min_tracks):
    """Return the `Collection` of a table with the column `genres`. Replace this column by labels."""
    genres = tuple(sorted(set(tracks["genres"].explode())))
    if len(genres) < 2:
        left_out = ", ".join(f"{genre} ({size})" for genre, size in rare.items())
        raise ValueError(
            f"{source}: at least two genres must have `min_tracks`={min_tracks} tracks, of two or more artists. "
            f"Received: {', '.join(genres) or 'no such genre'}. "
            f"{f'Left out: {left_out}. Add tracks of these genres, or use a lower `min_tracks`. ' if rare else ''}"
            f"{' '.join(notes)}".strip()
        )
    if tracks["genres"].map(len).max() == 1:
        tracks = tracks.assign(genre=tracks["genres"].str[0]).drop(columns="genres")
    tracks = tracks.drop(columns=["label", "labels"], errors="ignore")
    return Collection(source, add_labels(tracks, genres), genres, rare, counts, notes)
