"""The plugin of beets, with a real library and real files. beets runs in processes of its own."""

import os
import pathlib
import subprocess
import sys

import mutagen
import pytest
from conftest import calibrate, small_model, tones, write_sine
from genrekeras import tags

pytest.importorskip("beets", reason="beets is not installed")
pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def beet(tmp_path, rng):
    """Function: return the output of a command of beets, which must succeed."""
    model = small_model(genres=("Low", "High"))
    calibrate(model, tones(rng, 16, 22050)).save(tmp_path / "model.keras")
    (tmp_path / "config.yaml").write_text(
        f"directory: {tmp_path}/library\nlibrary: {tmp_path}/library.db\nplugins: genrekeras\n"
        f"paths: {{default: $title}}\nimport: {{autotag: no, quiet: yes}}\n"
        f"genrekeras: {{model: {tmp_path}/model.keras}}\n"
    )

    def run(*arguments, code=0):
        environment = {**os.environ, "BEETSDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "beets", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def songs(tmp_path):
    """Files without a genre, with a genre, and one without audio that beets can read."""
    (tmp_path / "songs").mkdir()
    paths = [write_sine(tmp_path / "songs" / f"{name}.flac", 440, 3.0, rate=22050) for name in ("new", "jazz", "bad")]
    for path in paths:
        file = mutagen.File(path)
        file["title"] = path.stem
        file.save()
    tags.write_genres(paths[1], ["Jazz"])
    header = paths[2].read_bytes()
    paths[2].write_bytes(header[: header.index(b"\xff\xf8")])
    return {path.stem: path for path in paths}


def genres_in_library(tmp_path):
    """Return the genres in the tags of the files in the library: name of the file -> genres."""
    return {path.stem: tags.read_genres(path) for path in (tmp_path / "library").rglob("*.flac")}


def test_import_copies_and_writes_genres_of_tracks_without_one(beet, songs, tmp_path):
    before = {name: path.read_bytes() for name, path in songs.items()}
    output = beet("import", tmp_path / "songs")
    assert {name: path.read_bytes() for name, path in songs.items()} == before
    assert "bad.flac: genres are left as they are" in output and output.count("left as they are") == 1
    listed = dict(line.split(": ") for line in beet("ls", "-f", "$path: $genres").splitlines())
    genres = {pathlib.Path(path).stem: genres for path, genres in listed.items()}
    assert genres["new"] in ("Low", "High") and genres["jazz"] == "Jazz" and genres["bad"] == ""
    assert genres_in_library(tmp_path) == {"new": [genres["new"]], "jazz": ["Jazz"], "bad": []}


def test_command(beet, songs, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("model:", "auto: no, model:"))
    beet("import", tmp_path / "songs")
    assert genres_in_library(tmp_path) == {"new": [], "jazz": ["Jazz"], "bad": []}
    assert "genres:" in (shown := beet("genrekeras", "--pretend")) and "Jazz" not in shown
    assert genres_in_library(tmp_path)["new"] == []
    beet("genrekeras", "--overwrite")
    genres = genres_in_library(tmp_path)
    assert genres["new"] == genres["jazz"] != ["Jazz"] and genres["bad"] == []
    config.write_text(config.read_text().replace("model.keras", "missing.keras"))
    assert "missing.keras" in beet("genrekeras", "--overwrite", code=1)
