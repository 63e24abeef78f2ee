"""Load music whose genres are in the tags of the files, or in a table."""

import collections
import csv
import dataclasses
import itertools
import os
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
from genrekeras import tags
from genrekeras.datasets.batches import check_integers
from genrekeras.datasets.folder import displayed, file_columns
from genrekeras.datasets.prepare import as_dataset, format_reasons, prepare
from genrekeras.datasets.splits import Dataset, Split
from genrekeras.datasets.store import Store
from genrekeras.utils.audio_files import find_files
from genrekeras.utils.io import StrPath, cache_dir
from genrekeras.utils.logging import only_absl_errors
from genrekeras.utils.progress import bar, print_message

NOTES = ["unreadable", "without_artist"]  # columns of `read_tracks` for a summary


class TaggedMusic(Store):
    """TFDS dataset of music whose genres are in tags. The genres are not stored."""

    DESCRIPTION = "Music whose genres are in the tags of the files."


def load_tagged(
    paths: StrPath | Sequence[StrPath],
    labels: StrPath | None = None,
    min_tracks: int = 10,
    protocol: Literal["artist_album", "random"] = "artist_album",
    sample_rate: int = 22050,
    seed: int = 0,
    prepared_dir: StrPath | None = None,
    beam_options: Sequence[str] | None = None,
) -> Dataset[Split]:
    """Load music whose genres are in the tags of the files, or in a CSV file.

    If a track has several genres, the clips of the dataset have several labels, and `Split.multi_label` is true. The
    values of a genre field are separated by the rules of `genrekeras.tags.split_genres`. Different spellings of a genre
    (case, spaces, hyphens, underscores, "&" for "and") are merged, and the most frequent one is used. A message lists
    them. Rare genres and tracks without a frequent genre are left out. One warning counts these genres and tracks, and
    names the files whose tags cannot be read.

    All tracks that share an artist or an album in their tags are assigned to the same split. Albums of the same name in
    different folders are different albums. Tracks without artist and album are grouped by folder. If an artist has
    tracks in several of these folders, scores are too high.

    The first call decodes the files that have a genre and stores them, like `load_folder`. Later calls read the stored
    clips, even with another `min_tracks` or protocol, or with other genres of the same files. If a file or its tags
    change, all files are decoded again. Nothing is written to the folders of the files.

    Args:
        paths: a folder, or files and folders. See `genrekeras.audio` for the formats. Genres are read from the tags of
            mp3, flac, ogg, opus, m4a, wma, wav and aiff files.
        labels: CSV file with genres, which are used instead of those in the tags. The first cell of a row is the path
            of a file. Each other cell is a genre. Paths are relative to the folder of the CSV file or, if no such file
            is in `paths`, to the folder `paths`. If the first cell of the first row is "path", the row is a header.
        min_tracks: `> 0`. Genres with fewer tracks are left out. The tracks are counted before they are decoded.
        protocol: see `load_folder`. If clips have several labels, see `genrekeras.datasets.splits.assign_splits`.
        sample_rate: `> 0`, in Hz, sample rate of the stored clips.
        seed: seed of the random assignment to splits.
        prepared_dir: see `load_folder`.
        beam_options: see `load_fma`.

    Returns:
        The genres are sorted by name. The `track_id` of a file is its index in the sorted list of all files. `counts`
        has these additional keys. Tracks that the first three keys count are in no split, but `counts["tracks"]`
        includes them.

        - `unreadable`: number of files whose tags cannot be read.
        - `untagged`: number of tracks without a genre.
        - `rare`: number of tracks that have rare genres only.
        - `rare_genres`: number of genres that are left out.
        - `without_artist`: number of tracks with a frequent genre, but without artist and album.

    Raises:
        FileNotFoundError: a folder or the CSV file does not exist.
        ValueError: fewer than two genres have `min_tracks` tracks, the CSV file has another format, no file can be
            decoded, or an argument is out of range.
        OSError: `prepared_dir` cannot be written, or the disk has too little free space.
    """
    check_integers(min_tracks=(min_tracks, 1))
    folder = paths if isinstance(paths, (str, os.PathLike)) else None
    if folder is not None and not os.path.exists(folder):
        raise FileNotFoundError(f"`paths` does not exist. Received: paths={os.fspath(folder)!r}")
    files = sorted({os.path.abspath(path) for path in find_files(paths)})
    source = os.path.abspath(folder) if folder else os.path.commonpath([os.path.dirname(path) for path in files])
    tracks = read_tracks(files, None if labels is None else read_labels(labels, source, files))
    sizes = collections.Counter(itertools.chain.from_iterable(tracks["genres"]))
    rare = {genre: size for genre, size in sizes.most_common() if size < min_tracks}
    genres = sorted(set(sizes) - set(rare))
    kept = tracks.assign(genres=[tuple(name for name in names if name not in rare) for names in tracks["genres"]])
    kept = kept[kept["genres"].map(bool)]
    counts, notes = _summary(tracks, kept, rare, min_tracks, source)
    if len(genres) < 2:
        raise ValueError(
            f"{source}: at least two genres must have `min_tracks`={min_tracks} tracks. "
            f"Received: {', '.join(genres) or 'no such genre'}. {notes}"
        )
    if notes:
        warnings.warn(f"{source}: {notes}", stacklevel=2)
    if kept["genres"].map(len).max() == 1:
        kept = kept.assign(genre=kept["genres"].str[0]).drop(columns="genres")
    stored = tracks[tracks["genres"].map(bool)].drop(columns=["genres", *NOTES])  # it does not depend on the labels
    prepared_dir = os.path.join(cache_dir(), "folders") if prepared_dir is None else prepared_dir
    with only_absl_errors():
        builder = prepare(TaggedMusic, stored, (), "tagged", sample_rate, protocol, prepared_dir, beam_options)
    print_message(f"The decoded clips of {source} are stored in {builder.data_dir}")
    data = as_dataset(builder, kept.drop(columns=NOTES), genres, os.path.basename(source), protocol, seed, source)
    return dataclasses.replace(data, counts={**data.counts, **counts, "tracks": len(tracks)})


def read_tracks(files: Sequence[str], table: Mapping[str, Sequence[str]] | None) -> pd.DataFrame:
    """Read the tags of files, and merge the spellings of genres.

    Args:
        files: absolute paths.
        table: path of a file -> its genres, see `read_labels`. `None` uses the genres in the tags.

    Returns:
        A table with a row for each file. It has the columns of `genrekeras.datasets.folder.find_files` except `genre`,
        and the columns `genres` (tuple of str), `unreadable` (str, reason why the genres cannot be read, or "") and
        `without_artist` (bool, whether artist and album are missing).
    """
    rows = []
    for path in bar(len(files), "Reading tags", "file", iterable=files):
        problem = ""
        try:
            file_tags = tags.read_tags(path)
        except tags.TagError as error:
            file_tags, problem = tags.Tags("", "", "", []), error.reason
        if table is None:
            genres = tags.split_genres(file_tags.genres)
        else:
            genres, problem = list(table.get(path, [])), ""
        rows.append(_row(path, file_tags, genres, problem))
    tracks = pd.DataFrame(rows, dtype=object).rename_axis("track_id").astype({"bytes": "int64"})
    for column in ("artist", "album"):
        tracks[f"{column}_id"] = pd.factorize(tracks.pop(f"{column}_key"))[0]
    spelling = tags.merge_spellings(itertools.chain.from_iterable(tracks["genres"]))
    tracks["genres"] = [tuple(dict.fromkeys(map(spelling.get, genres))) for genres in tracks["genres"]]
    others = collections.defaultdict(list)
    for name, chosen in sorted(spelling.items()):
        if name != chosen:
            others[chosen].append(name)
    if others:
        merged = "; ".join(f"{chosen} (also {', '.join(names)})" for chosen, names in sorted(others.items()))
        print_message(f"Spellings of genres that are merged: {merged}")
    return tracks


def _summary(tracks, kept, rare, min_tracks, source):
    """Count what is left out.

    Args:
        tracks: result of `read_tracks`.
        kept: the rows of the tracks that have a frequent genre.
        rare: dict, rare genre -> number of tracks.
        min_tracks, source: see `load_tagged`.

    Returns:
        dict of the counts that `load_tagged` adds, and a text for a warning. The text is empty if nothing is left out.
    """
    counts, notes = summarize(tracks, kept, source)
    if rare:
        first = ", ".join(f"{genre} ({size})" for genre, size in itertools.islice(rare.items(), 20))
        more = ", ..." if len(rare) > 20 else ""
        notes.append(f"{len(rare)} genres of fewer than {min_tracks} tracks are left out: {first}{more}.")
    if counts["without_artist"]:
        notes.append(
            f"{counts['without_artist']} tracks have neither artist nor album in their tags. They are grouped by "
            "folder. If an artist has tracks in several folders, scores are too high."
        )
    return {**counts, "rare_genres": len(rare)}, " ".join(notes)


def summarize(tracks: pd.DataFrame, kept: pd.DataFrame, source: str) -> tuple[dict[str, int], list[str]]:
    """Count the tracks that are left out.

    Args:
        tracks: result of `read_tracks`.
        kept: the rows of the tracks that have a frequent genre.
        source: folder of the files.

    Returns:
        Counts with the keys `unreadable`, `untagged`, `rare` and `without_artist`, see `load_tagged`; and a list with a
        text about the tracks that are left out. The list is empty if there are none.
    """
    has_problem = tracks["unreadable"] != ""
    unreadable = dict(tracks.loc[has_problem, ["path", "unreadable"]].to_numpy())
    untagged = tracks.loc[~has_problem & ~tracks["genres"].map(bool), "path"]
    counts = {
        "unreadable": len(unreadable),
        "untagged": len(untagged),
        "rare": len(tracks) - len(unreadable) - len(untagged) - len(kept),
        "without_artist": int(kept["without_artist"].sum()),
    }
    left_out = []
    if unreadable:
        left_out.append(f"the tags of {len(unreadable)} cannot be read: {format_reasons(unreadable, source)}")
    if len(untagged):
        left_out.append(f"{len(untagged)} have no genre (the first: {os.path.relpath(untagged.iloc[0], source)})")
    if counts["rare"]:
        left_out.append(f"{counts['rare']} have rare genres only")
    return counts, [f"Of {len(tracks)} files, {'; '.join(left_out)}. These files are left out."] if left_out else []


def _row(path, file_tags, genres, problem):
    """Return the row of a file as a dict."""
    folder, file = os.path.split(path)
    artist, album = (_text(value) for value in (file_tags.artist, file_tags.album))
    without_artist = not artist and not album
    return {
        **file_columns(path),
        "title": _text(file_tags.title) or displayed(os.path.splitext(file)[0]),
        "artist": artist,
        "album": album,
        "artist_key": _normalized(artist) or None,
        "album_key": f"{folder}/{_normalized(album)}" if album or without_artist else None,
        "genres": tuple(map(_text, genres)),
        "unreadable": problem,
        "without_artist": without_artist,
    }


def _text(value):
    """Return a text in which characters that UTF-8 cannot encode are replaced, such as single UTF-16 surrogates."""
    return value.encode("utf-8", "replace").decode("utf-8").strip()


def _normalized(name):
    """Return the name of an artist or album in a form that ignores case, spaces and Unicode variants."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def read_labels(path: StrPath, folder: str, files: Sequence[str]) -> dict[str, list[str]]:
    """Read the argument `labels` of `load_tagged`.

    Args:
        path: path of the CSV file.
        folder: folder of the files.
        files: absolute paths of the files.

    Returns:
        Path of a file -> its genres. A warning counts the files of the CSV file that are not in `files`.

    Raises:
        OSError: the CSV file cannot be read.
        ValueError: the CSV file has another format, or names a file twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`labels` must be a CSV file in UTF-8 ({error}). Received: {path}") from error
    if rows and rows[0][0].casefold() == "path":
        rows = rows[1:]
    if not any(len(row) > 1 for row in rows):
        raise ValueError(f"`labels` must be a CSV file with rows of a path and its genres. Received: {path}")
    known = {os.path.realpath(file): file for file in files}
    folders = (os.path.dirname(os.path.abspath(path)), folder)
    table: dict[str, list[str]] = {}
    absent = []
    for name, *genres in rows:
        places = [os.path.realpath(os.path.join(parent, name)) for parent in folders]
        found = next((known[place] for place in places if place in known), None)
        if found is None:
            absent.append(name)
        elif found in table:
            raise ValueError(f"{path} contains a file twice: {name}")
        else:
            table[found] = [" ".join(genre.split()) for genre in genres if genre]
    if absent:
        warnings.warn(
            f"{path}: {len(absent)} of {len(rows)} files are not among the files to load (the first: {absent[0]}).",
            stacklevel=3,
        )
    return table
