"""Map the labels of a model to the genres that are written into files."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from genrekeras.tags import check_genre, spelling_key
from genrekeras.utils.io import StrPath

_KEYS = ("rename", "merge", "drop", "parents", "allow")
_MUSICNN = os.path.join(os.path.dirname(__file__), "musicnn.toml")
_NUM_PRESET_LABELS = 50  # of musicnn_msd, and of musicnn_mtt


class TaxonomyError(ValueError):
    """Exception for a taxonomy that is invalid. The message names the file and the entry."""


class Taxonomy:
    """Map the labels of a model to the genres that are written into files.

    A label without an entry is written as it is. Different spellings of a name are the same name, see
    `genrekeras.tags.spelling_key`.

    Args:
        rename: label -> genre. Several labels may have the same genre.
        merge: genre -> labels. All these labels become the genre.
        drop: labels that are never written.
        parents: genre -> parent, or list of parents. The parents of a genre are written after it, as separate values,
            and the parents of the parents after them.
        allow: the only genres that are written. `None` allows all genres.
        labels: labels of the model. Each label in `rename`, `merge` and `drop` must be one of them. For the presets
            musicnn_msd and musicnn_mtt, it may be a label of either. `None` accepts all labels.
        source: name of the taxonomy in messages.

    Raises:
        TaxonomyError: an entry has the wrong type, names an unknown label or genre, contradicts another entry, or a
            genre is its own ancestor.
    """

    def __init__(
        self,
        rename: Mapping[str, str] | None = None,
        merge: Mapping[str, Iterable[str]] | None = None,
        drop: Iterable[str] = (),
        parents: Mapping[str, str | Iterable[str]] | None = None,
        allow: Iterable[str] | None = None,
        labels: Iterable[str] | None = None,
        source: str = "taxonomy",
    ):
        self._source = source
        # spelling key of a label -> genre, or `None` if the label is dropped
        self._genres: dict[str, str | None] = {}
        entries = [(f"rename.{label}", label, genre) for label, genre in self._table("rename", rename)]
        for genre, merged in self._table("merge", merge):
            entries += [(f"merge.{genre}", label, genre) for label in self._list(f"merge.{genre}", merged)]
        entries += [("drop", label, None) for label in self._list("drop", drop)]
        for entry, label, genre in entries:
            self._add(entry, label, genre)
        self._parents = {
            spelling_key(child): self._list(f"parents.{child}", [names] if isinstance(names, str) else names)
            for child, names in self._table("parents", parents)
        }
        self._allowed = None if allow is None else {spelling_key(name): name for name in self._list("allow", allow)}
        for child in parents or ():
            self._check_cycle(child)
        if labels is not None:
            self._check_names(list(labels), entries, parents or {}, allow or ())

    @classmethod
    def load(cls, path: StrPath, labels: Iterable[str] | None = None) -> Taxonomy:
        """Read a taxonomy from a TOML file with the tables `rename`, `merge`, `parents` and the lists `drop`, `allow`.

        Args:
            path: path of the file.
            labels: labels of the model, see `Taxonomy`.

        Raises:
            TaxonomyError: the file is not TOML, or the taxonomy is invalid.
            OSError: the file cannot be read.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb") as file:
                content = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TaxonomyError(f"{path}: not a valid TOML file: {error}") from error
        if unknown := [key for key in content if key not in _KEYS]:
            raise TaxonomyError(f"{path}: unknown entry {unknown[0]!r}. The entries are {', '.join(_KEYS)}.")
        return cls(**content, labels=labels, source=path)

    @classmethod
    def musicnn(cls) -> Taxonomy:
        """Return the taxonomy for the presets musicnn_msd and musicnn_mtt, which is part of the package."""
        return cls.load(_MUSICNN)

    @classmethod
    def for_labels(cls, labels: Iterable[str], path: StrPath | None = None) -> Taxonomy | None:
        """Return the taxonomy of a file, or the default taxonomy for the labels of a model.

        Args:
            labels: labels of the model.
            path: path of a TOML file. Without it, the labels of the presets musicnn_msd and musicnn_mtt have a default
                taxonomy. Other labels have none.

        Raises:
            TaxonomyError: as in `load`.
            OSError: the file cannot be read.
        """
        if path:
            return cls.load(path, labels)
        return cls.musicnn() if _are_of_preset(labels) else None

    def genres(self, labels: Iterable[str]) -> list[str]:
        """Return the genres of some labels, without repetitions.

        Args:
            labels: labels of a track, the most probable one first.

        Returns:
            The genre of each label, followed by its parents. Genres that are not allowed are left out.
        """
        found: dict[str, str] = {}
        for label in labels:
            genre = self._genres.get(spelling_key(label), label)
            for name in [] if genre is None else [genre, *self._ancestors(genre)]:
                found.setdefault(spelling_key(name), name)
        if self._allowed is None:
            return list(found.values())
        return [self._allowed[key] for key in found if key in self._allowed]

    def _ancestors(self, genre):
        """Return the parents of a genre, then their parents, and so on."""
        found, level = [], [genre]
        while level:
            level = [parent for name in level for parent in self._parents.get(spelling_key(name), ())]
            found += level
        return found

    def _table(self, entry, value):
        """Return the items of a table whose keys are genres or labels."""
        if value is None:
            return []
        if not isinstance(value, Mapping):
            raise self._error(entry, f"must be a table. Received: {value!r}")
        for name in value:
            self._check_text(entry, name)
        return value.items()

    def _list(self, entry, value):
        """Return a list of genres or labels."""
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise self._error(entry, f"must be a list of texts. Received: {value!r}")
        names = list(value)
        for name in names:
            self._check_text(entry, name)
        return names

    def _check_text(self, entry, name):
        try:
            check_genre(name if isinstance(name, str) else "")
        except ValueError:
            raise self._error(
                entry, f"must contain non-empty texts without control characters. Received: {name!r}"
            ) from None

    def _add(self, entry, label, genre):
        """Add the genre of a label. `genre` is `None` if the label is dropped."""
        if genre is not None:
            self._check_text(entry, genre)
        key = spelling_key(label)
        if self._genres.get(key, genre) != genre:
            raise self._error(
                entry, f"{label!r} has two entries: {self._genres[key] or 'drop'!r} and {genre or 'drop'!r}"
            )
        self._genres[key] = genre

    def _check_cycle(self, child):
        """Raise `TaxonomyError` if a genre is its own ancestor."""
        paths = [[child]]
        while paths:
            path = paths.pop()
            for parent in self._parents.get(spelling_key(path[-1]), ()):
                if spelling_key(parent) in map(spelling_key, path):
                    raise self._error(f"parents.{path[-1]}", f"a cycle: {' -> '.join([*path, parent])}")
                paths.append([*path, parent])

    def _check_names(self, labels, entries, parents, allow):
        """Raise `TaxonomyError` if a label or a genre is unknown."""
        if _are_of_preset(labels):
            labels = _preset_labels()  # A copy of the taxonomy of the presets fits each of them.
        known = {spelling_key(label): label for label in labels}
        for entry, label, _ in entries:
            if spelling_key(label) not in known:
                raise self._unknown(entry, label, labels, "label of the model")
        targets = [self._genres.get(spelling_key(label), label) for label in known.values()]
        genres = [name for name in targets if name is not None]
        genres += [parent for names in self._parents.values() for parent in names]
        keys = set(map(spelling_key, genres))
        for entry, names in (("parents", parents), ("allow", allow)):
            for name in names:
                if spelling_key(name) not in keys:
                    raise self._unknown(entry, name, genres, "genre that the taxonomy can write")

    def _unknown(self, entry, name, known, kind):
        close = difflib.get_close_matches(name.casefold(), {each.casefold(): each for each in known}, 1, 0.7)
        hint = next((each for each in known if close and each.casefold() == close[0]), None)
        return self._error(entry, f"{name!r} is not a {kind}" + (f". Did you mean {hint!r}?" if hint else ""))

    def _error(self, entry: str, reason: str) -> TaxonomyError:
        return TaxonomyError(f"{self._source}: {entry}: {reason}")


def _are_of_preset(labels: Iterable[str]) -> bool:
    """Return whether labels are those of the preset musicnn_msd or musicnn_mtt."""
    labels = set(labels)
    return len(labels) == _NUM_PRESET_LABELS and labels <= set(_preset_labels())


def _preset_labels() -> list[str]:
    """Return the labels of the presets musicnn_msd and musicnn_mtt."""
    with open(_MUSICNN, "rb") as file:
        content: dict[str, Any] = tomllib.load(file)
    return [*content["drop"], *content["rename"], *(label for labels in content["merge"].values() for label in labels)]
