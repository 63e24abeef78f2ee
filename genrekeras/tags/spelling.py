"""Spelling of genres: separate the genres in a value, and compare and merge different spellings."""

import collections
import re
import unicodedata
from collections.abc import Iterable

from mutagen.id3 import TCON

# Names of genres that contain a separator but are one genre, and names that mean no genre, by `spelling_key`.
_INDIVISIBLE = {"singer/songwriter", "folk,world,andcountry", "pop/funk"}
_NO_GENRES = {"", "other", "unknown", "none"}


def split_genres(values: Iterable[str]) -> list[str]:
    """Return the separate genres in the values of a genre field.

    Programs write several genres as several values, or as one value with separators. The rules are:

    - The separators are ";", NUL, "/" and ",": "Rock; Pop/Folk" contains three genres, and iTunes' "Hip-Hop/Rap" and
      "R&B/Soul" contain two each. "&", "-" and "+" do not separate: "Drum & Bass" is one genre.
    - "Singer/Songwriter" (iTunes), "Folk, World, & Country" (Discogs) and "Pop/Funk" (ID3) are one genre each.
    - The numbers of ID3, such as "(17)" or "17", are replaced by their names ("Rock").
    - "Other", "Unknown" and "None" are not genres. ID3 has numbers for the first two.
    - Spaces at the ends are removed, and other white space is one space. Repeated genres are removed. The letters are
      in the Unicode normalization form NFC.

    Args:
        values: such as `Tags.genres`.
    """
    parts = list(values)
    for separators in (";\0", ",", "/"):
        parts = [
            piece
            for part in parts
            for piece in ([part] if spelling_key(part) in _INDIVISIBLE else re.split(f"[{separators}]", part))
        ]
    parts = [part.strip() for part in parts]
    names = [" ".join(unicodedata.normalize("NFC", name).split()) for name in TCON(encoding=3, text=parts).genres]
    by_key: dict[str, str] = {}
    for name in names:
        by_key.setdefault(spelling_key(name), name)
    return [name for key, name in by_key.items() if key not in _NO_GENRES]


def spelling_key(genre: str) -> str:
    """Return a text that is equal for different spellings of a genre.

    Case, spaces, hyphens and underscores are ignored, and "&" equals "and": "Hip Hop" and "hip-hop" are the same genre,
    and so are "Drum & Bass" and "drum and bass".
    """
    folded = unicodedata.normalize("NFKC", genre).casefold().replace("&", "and")
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) not in ("Pd", "Pc"))


def merge_spellings(genres: Iterable[str]) -> dict[str, str]:
    """Choose one spelling for each genre: the most frequent one. In case of a tie, it is the first in the alphabet.

    Args:
        genres: genres of all tracks. Genres with equal `spelling_key` are the same.

    Returns:
        Spelling -> chosen spelling.
    """
    counts = collections.Counter(genres)
    chosen: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        chosen.setdefault(spelling_key(name), name)
    return {name: chosen[spelling_key(name)] for name in counts}
