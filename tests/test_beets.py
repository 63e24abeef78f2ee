"""The plugin of beets, with a real library and real files."""

import os
import pathlib
import subprocess
import sys

import mutagen
import pytest
import yaml
from conftest import calibrate, small_model, tones, write_sine
from genrekeras import export, load_model, tags

pytest.importorskip("beets", reason="beets is not installed")
from beets import config
from beets.library import Item, Library

from beetsplug.genrekeras import GenrekerasPlugin, common_genres, save

pytestmark = pytest.mark.slow
LABELS = (["Low"], ["High"])
ROOT = pathlib.Path(__file__).parents[1]
SOURCE = """
from beets.autotag import AlbumInfo, TrackInfo
from beets.metadata_plugins import MetadataSourcePlugin

class FakeSourcePlugin(MetadataSourcePlugin):
    album_for_id = track_for_id = None

    def candidates(self, items, artist, album, va_likely):
        tracks = [TrackInfo(title=x.title, artist=x.artist, index=x.track, track_id=x.title) for x in items]
        yield AlbumInfo(tracks, album=album, artist=artist, album_id="1", **self.values())

    def item_candidates(self, item, artist, title):
        yield TrackInfo(title=title, artist=artist, track_id=title, **self.values())

    def values(self):
        return {"data_source": "FakeSource", "label": "Found", "genres": self.config["genres"].get(list)}
"""


class Beets:
    """A library of beets, and the command `beet`."""

    def __init__(self, folder):
        self.folder = folder
        self.config = {
            "directory": str(folder / "library"),
            "library": str(folder / "library.db"),
            "plugins": ["genrekeras"],
            "paths": {"default": "$title", "singleton": "$title"},
            "import": {"autotag": False, "quiet": True},
            "genrekeras": {"model": str(folder / "model.keras")},
        }

    def __call__(self, *arguments, code=0):
        """Return the output of a command, which must end with this exit code."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        environment = {**os.environ, "BEETSDIR": str(self.folder), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "beets", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def use_metadata_source(self, genres=()):
        """Let imports match with candidates from a metadata source that supplies these genres."""
        (self.folder / "plugins").mkdir()
        (self.folder / "plugins" / "fakesource.py").write_text(SOURCE)
        self.config |= {"pluginpath": [str(self.folder / "plugins")], "plugins": ["genrekeras", "fakesource"]}
        self.config["fakesource"] = {"data_source_mismatch_penalty": 0, "genres": list(genres)}
        self.config["import"]["autotag"] = True

    def tracks(self):
        """Return the genres of the tracks in the library: title -> genres."""
        return {item.title: item.genres for item in self.open().items()}

    def albums(self):
        """Return the genres of the albums in the library: (label, name) -> genres."""
        return {(album.label, album.album): album.genres for album in self.open().albums()}

    def open(self):
        """Return the library."""
        return Library(self.config["library"], self.config["directory"])


@pytest.fixture
def beet(tmp_path, rng):
    """A library of beets whose plugin uses a small model."""
    model = small_model(genres=("Low", "High"))
    calibrate(model, tones(rng, 16, 22050)).save(tmp_path / "model.keras")
    return Beets(tmp_path)


@pytest.fixture
def songs(tmp_path):
    """An album: files without a genre, with a genre, and one without audio that beets can read."""
    (tmp_path / "songs").mkdir()
    paths = [write_sine(tmp_path / "songs" / f"{name}.flac", 440, 3.0, rate=22050) for name in ("new", "jazz", "bad")]
    for number, path in enumerate(paths, 1):
        file = mutagen.File(path)
        file.update(title=path.stem, artist="Sine", album="Tones", tracknumber=str(number))
        file.save()
    tags.write_genres(paths[1], ["Jazz"])
    header = paths[2].read_bytes()
    paths[2].write_bytes(header[: header.index(b"\xff\xf8")])
    return {path.stem: path for path in paths}


def contents(paths):
    """Return the bytes of the files that exist."""
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def genres_in_library(tmp_path):
    """Return the genres in the tags of the files in the library: name of the file -> genres."""
    return {path.stem: tags.read_genres(path) for path in (tmp_path / "library").rglob("*.flac")}


def test_import_copies_and_writes_genres_of_tracks_without_one(beet, songs, tmp_path):
    before = contents(songs)
    output = beet("import", tmp_path / "songs")
    assert contents(songs) == before
    assert "bad.flac: genres are left as they are" in output and output.count("left as they are") == 1
    genres = beet.tracks()
    assert genres == {"new": genres["new"], "jazz": ["Jazz"], "bad": []} and genres["new"] in LABELS
    assert genres_in_library(tmp_path) == genres
    assert beet.albums() == {("", "Tones"): genres["new"]}


@pytest.mark.parametrize("options", [{}, {"move": True}, {"write": False}, {"copy": False}], ids=str)
def test_matched_import(beet, songs, tmp_path, options):
    before = contents(songs)
    beet.use_metadata_source()
    beet.config["import"] |= options
    beet("import", tmp_path / "songs")
    genres = beet.tracks()
    assert genres == {"new": genres["new"], "jazz": ["Jazz"], "bad": []} and genres["new"] in LABELS
    assert beet.albums() == {("Found", "Tones"): genres["new"]}
    if "copy" in options:  # beets writes into the files where they are
        assert {path.stem: tags.read_genres(path) for path in songs.values()} == genres
    else:
        assert contents(songs) == ({} if "move" in options else before)
        assert genres_in_library(tmp_path) == ({**genres, "new": []} if "write" in options else genres)


@pytest.mark.parametrize("matched", [False, True], ids=["as_is", "matched"])
def test_import_of_singletons(beet, songs, tmp_path, matched):
    before = contents(songs)
    if matched:
        beet.use_metadata_source()
    beet("import", "--singletons", tmp_path / "songs")
    genres = beet.tracks()
    assert genres == {"new": genres["new"], "jazz": ["Jazz"], "bad": []} and genres["new"] in LABELS
    assert genres_in_library(tmp_path) == genres and beet.albums() == {} and contents(songs) == before
    assert len(beet.open().items("label:Found")) == (3 if matched else 0)


@pytest.mark.parametrize("overwrite", [False, True], ids=["keep", "overwrite"])
def test_metadata_source_with_genres(beet, songs, tmp_path, overwrite):
    beet.use_metadata_source(["Soul"])
    beet.config["genrekeras"]["overwrite"] = overwrite
    beet("import", tmp_path / "songs")
    genres = beet.tracks()
    if overwrite:
        assert genres["new"] == genres["jazz"] in LABELS and genres["bad"] == ["Soul"]
    else:
        assert genres == {name: ["Soul"] for name in songs}
    assert beet.albums() == {("Found", "Tones"): genres["new"]}
    assert genres_in_library(tmp_path) == genres


def test_command(beet, songs, tmp_path):
    beet.config["genrekeras"]["auto"] = False
    beet("import", tmp_path / "songs")
    assert genres_in_library(tmp_path) == {"new": [], "jazz": ["Jazz"], "bad": []}
    shown = beet("genrekeras", "--pretend")
    assert shown.count("genres:\n") == 2 and "Jazz" not in shown  # a track and the album
    assert genres_in_library(tmp_path)["new"] == beet.tracks()["new"] == beet.albums()["", "Tones"] == []
    beet("genrekeras", "--overwrite")
    genres = genres_in_library(tmp_path)
    assert genres["new"] == genres["jazz"] in LABELS and genres["bad"] == []
    assert beet.tracks() == genres and beet.albums() == {("", "Tones"): genres["new"]}


def test_exported_model(beet, songs, tmp_path, rng):
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    export.export(load_model(tmp_path / "model.keras"), path, "onnx", tones(rng, 2, 22050))
    beet.config["genrekeras"]["model"] = str(path)
    beet("import", tmp_path / "songs")
    assert beet.tracks()["new"] in LABELS
    path.write_bytes(b"")
    assert "model.onnx cannot be loaded" in beet("import", tmp_path / "songs", code=1)


def test_wrong_options_end_the_import_before_it_begins(beet, songs, tmp_path):
    beet.config["genrekeras"]["model"] = str(tmp_path / "missing.keras")
    assert "missing.keras" in beet("import", tmp_path / "songs", code=1)
    beet.config["genrekeras"]["source"] = "artist"
    assert "genrekeras.source" in beet("import", tmp_path / "songs", code=1)
    assert beet.tracks() == {}


def test_one_answer_for_an_album(one_second_model, tmp_path, monkeypatch):
    monkeypatch.setenv("BEETSDIR", str(tmp_path))
    one_second_model.save(tmp_path / "model.keras")
    library = Library(str(tmp_path / "library.db"), str(tmp_path))
    paths = [write_sine(tmp_path / f"{hz}.flac", hz, rate=22050) for hz in (100, 300, 900, 2000, 5000, 10000)]
    album = library.add_album([Item.from_path(str(path)) for path in paths])
    ids = [item.id for item in album.items()]

    def predict(query, **options):
        config.clear()
        config.read(user=False)
        config["genrekeras"].set({"model": str(tmp_path / "model.keras"), **options})
        for changed in GenrekerasPlugin().predict(library.items(query)):
            save(changed, write=False)
        return [item.genres for item in album.items()], library.get_album(album.id).genres

    tracks, common = predict("")
    assert len(set(map(tuple, tracks))) > 1 and common == common_genres(album.items())
    assert predict("", source="album") == (tracks, common)
    one, common = predict(f"id:{ids[0]}", source="album", overwrite=True)
    assert one[1:] == tracks[1:] and common == common_genres(album.items())
    assert predict("", source="album", overwrite=True) == ([one[0]] * len(paths), one[0])


def test_common_genres():
    def common(*tracks):
        return common_genres([Item(genres=list(genres)) for genres in tracks])

    assert common(("Rock",), ("Pop", "Rock"), ()) == ["Rock"]
    assert common(("Rock", "Pop"), ("Rock", "Pop"), ("Jazz",)) == ["Rock", "Pop"]
    assert common(("Jazz",), ("Rock",), ("Other",)) == ["Jazz"]
    assert common((), ()) == []
