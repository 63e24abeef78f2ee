"""Genres in tags: what players and mutagen read, the sound unchanged, nothing half-written."""

import os
import stat

import mutagen
import numpy as np
import pytest
from conftest import write_sine
from genrekeras import audio, tags

KINDS = ("mp3", "flac", "ogg", "wav", "aiff")


@pytest.mark.parametrize("kind", KINDS)
def test_a_genre_goes_in_and_nothing_else_changes(tmp_path, kind):
    path = write_sine(tmp_path / f"ü 'song'.{kind}", 440)
    before, sound = path.read_bytes(), audio.load(path)
    path.chmod(0o640)
    tags.write_genre(path, "Hip-Hop", copy=tmp_path / "old")
    assert tags.read_genres(path) == ["Hip-Hop"]
    np.testing.assert_array_equal(audio.load(path), sound)
    assert (tmp_path / "old").read_bytes() == before and stat.S_IMODE(path.stat().st_mode) == 0o640
    tags.write_genre(path, "Folk", copy=tmp_path / "old")
    assert tags.read_genres(path) == ["Folk"] and (tmp_path / "old").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "old"])


@pytest.mark.parametrize("kind", ["m4a", "wma", "opus"])
def test_a_genre_goes_into_what_ffmpeg_makes(ffmpeg, tmp_path, kind):
    write_sine(tmp_path / "sine.wav", 440, rate=48000)
    path = tmp_path / f"song.{kind}"
    ffmpeg("-i", tmp_path / "sine.wav", "-metadata", "title=Дождь", path)
    sound = audio.load(path)
    tags.write_genre(path, "Hip-Hop")
    assert tags.read_genres(path) == ["Hip-Hop"]
    np.testing.assert_array_equal(audio.load(path), sound)
    told = mutagen.File(path, easy=True)
    assert str(told["Title" if kind == "wma" else "title"][0]) == "Дождь"


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg"])
def test_other_tags_stay(tmp_path, kind):
    path = write_sine(tmp_path / f"song.{kind}", 440)
    file = mutagen.File(path, easy=True)
    if file.tags is None:
        file.add_tags()
    file["title"], file["artist"], file["genre"] = ["Дождь"], ["A", "B"], ["Old", "Older"]
    file.save()
    assert tags.read_genres(path) == ["Old", "Older"]
    tags.write_genre(path, "Rock")
    file = mutagen.File(path, easy=True)
    assert file["title"] == ["Дождь"] and file["artist"] == ["A", "B"] and file["genre"] == ["Rock"]


def test_a_link_stays_a_link(tmp_path):
    path = write_sine(tmp_path / "song.flac", 440)
    (tmp_path / "link.flac").symlink_to(path)
    tags.write_genre(tmp_path / "link.flac", "Rock")
    assert (tmp_path / "link.flac").is_symlink() and tags.read_genres(path) == ["Rock"]


def test_files_that_cannot_be_tagged_stay_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "text.mp3").write_text("no music")
    with pytest.raises(tags.TagError, match="tags cannot be read"):
        tags.write_genre(tmp_path / "text.mp3", "Rock")
    assert (tmp_path / "text.mp3").read_text() == "no music"
    (tmp_path / "text.txt").write_text("no music")
    with pytest.raises(tags.TagError, match="not known"):
        tags.write_genre(tmp_path / "text.txt", "Rock")
    with pytest.raises(tags.TagError, match="No such file"):
        tags.read_genres(tmp_path / "none.mp3")
    path = write_sine(tmp_path / "song.flac", 440)
    before = path.read_bytes()

    def full(self, *arguments, **options):
        raise mutagen.MutagenError("No space left on device")

    monkeypatch.setattr("mutagen.flac.FLAC.save", full)
    with pytest.raises(tags.TagError, match="cannot be written: No space left"):
        tags.write_genre(path, "Rock")
    assert path.read_bytes() == before and len(os.listdir(tmp_path)) == 3
