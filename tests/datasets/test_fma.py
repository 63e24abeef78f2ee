"""Folders of FMA: tables, layouts, broken clips, protocols."""

import os
import shutil

import genrekeras as gk
import numpy as np
import pandas as pd
import pytest
from conftest import FMA_GENRES, REAL_CLIPS, SHARED_CLIPS, add_all_genres, write_fma, write_sine
from genrekeras.datasets import fma, store

TRACKS = [
    (2, "Hip-Hop", "training"),
    (5, "Folk", "training"),
    (999, "Rock", "validation"),
    (1000, "Pop", "training"),
    (1001, "Rock", "test"),
    (2040, "Electronic", "training"),
    (2041, "Folk", "validation"),
]


@pytest.fixture
def folder(tmp_path):
    return write_fma(tmp_path / "fma", TRACKS)


def ids(split):
    return list(split.track_ids)


def test_official_splits(folder):
    data = gk.datasets.load_fma(folder)
    assert ids(data.train) == [2, 5, 1000, 2040] and ids(data.validation) == [999, 2041] and ids(data.test) == [1001]
    assert data.genres == gk.GENRES and data.sample_rate == 22050
    for split in (data.train, data.validation, data.test):
        for i in range(len(split)):
            element = split[i]
            genre = dict((track, name) for track, name, _ in TRACKS)[element["track_id"]]
            assert gk.GENRES[element["genre"]] == genre and split.labels[i] == element["genre"]
            hz = 200 * (1 + element["genre"]) + element["track_id"] % 7
            second = element["audio"][22050 : 2 * 22050]
            assert np.abs(np.fft.rfft(second)).argmax() == hz  # its audio, not that of another clip
            assert np.abs(second).max() == pytest.approx(0.5, abs=0.03)
    assert data.counts == {
        "tracks": 7,
        "missing": 0,
        "incomplete": 0,
        "broken": 0,
        "readable": 7,
        "train": 4,
        "validation": 2,
        "test": 1,
    }


def test_clips_are_decoded_once_for_all_protocols(folder, monkeypatch):
    first = gk.datasets.load_fma(folder)
    monkeypatch.setattr(store, "_decode", lambda *a: pytest.fail("decoded again"))
    again = gk.datasets.load_fma(folder)
    random = gk.datasets.load_fma(folder, protocol="random", seed=3)
    np.testing.assert_array_equal(again.train[0]["audio"], first.train[0]["audio"])
    assert again.train.fingerprint == first.train.fingerprint != random.train.fingerprint
    assert sorted(ids(random.train) + ids(random.validation)) == sorted(track for track, *_ in TRACKS)
    assert ids(random.test) == ids(random.validation) and random.protocol == "random"
    by_id = {track: genre for track, genre, _ in TRACKS}
    for i, track in enumerate(random.train.track_ids):
        assert gk.GENRES[random.train.labels[i]] == by_id[track] and random.train[i]["track_id"] == track


def test_all_genres_are_read_from_the_same_clips(folder, monkeypatch):
    add_all_genres(folder, {5: [103], 999: [25], 1000: [25, 12, 103]})
    top = gk.datasets.load_fma(folder)
    monkeypatch.setattr(store, "_decode", lambda *a: pytest.fail("decoded again"))
    data = gk.datasets.load_fma(folder, labels="all")
    assert data.genres == ("Electronic", "Folk", "Hip-Hop", "Pop", "Punk", "Rock", "Singer-Songwriter")
    names = dict(zip(data.all.track_ids, data.all.tracks["genres"], strict=True))
    assert names == {
        2: ("Hip-Hop",),
        5: ("Folk", "Singer-Songwriter"),
        999: ("Rock", "Punk"),
        1000: ("Pop", "Punk", "Rock", "Singer-Songwriter"),
        1001: ("Rock",),
        2040: ("Electronic",),
        2041: ("Folk",),
    }
    assert data.train.multi_label and data.counts == top.counts and "genre" not in data.train.tracks
    for split, same in ((data.train, top.train), (data.validation, top.validation), (data.test, top.test)):
        assert ids(split) == ids(same) and split.fingerprint != same.fingerprint
        np.testing.assert_array_equal(split[0]["audio"], same[0]["audio"])
        for row, track_id in zip(split.labels, split.track_ids, strict=True):
            assert {split.genres[label] for label in np.flatnonzero(row)} == set(names[track_id])
    random = gk.datasets.load_fma(folder, labels="all", protocol="random", seed=3)
    assert ids(random.train) == ids(gk.datasets.load_fma(folder, protocol="random", seed=3).train)


def test_tracks_without_a_top_genre_have_other_genres(tmp_path):
    """As in fma_large. Track 3 has no top genre, and track 4 has no genre at all."""
    folder = write_fma(tmp_path / "fma", [*TRACKS, (3, "", "training"), (4, "", "training")], audio=False)
    for track_id in (2, 3, 4, 5, 999):
        path = folder / "fma_small" / "000" / f"{track_id:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sine(path, 440)
    add_all_genres(folder, {3: [25, 12], 5: [103]})
    with pytest.warns(UserWarning, match="2 of 9 rows of subset 'small' lack a genre"):
        top = gk.datasets.load_fma(folder)
    with pytest.warns(UserWarning, match="1 of 9 rows of subset 'small' lack a genre"):
        data = gk.datasets.load_fma(folder, labels="all")
    assert (ids(top.train), ids(data.train)) == ([2, 5], [2, 3, 5])
    assert data.train.tracks.loc[3, "genres"] == ("Punk", "Rock") and data.counts["tracks"] == 8


def test_the_hierarchy_of_genres(tmp_path):
    (tmp_path / "genres.csv").write_text(FMA_GENRES)
    genres = fma.read_genres(tmp_path / "genres.csv")
    assert genres.loc[25].to_dict() == {"title": "Punk", "parent": 12, "top_level": 12} and len(genres) == 10


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: os.remove(f / "genres.csv"), r"genres\.csv is not FMA's genres\.csv: .*No such file"),
        (lambda f: (f / "genres.csv").write_text("a,b\n1,2\n"), r"genres\.csv is not FMA's genres\.csv"),
        (lambda f: (f / "genres.csv").write_text(FMA_GENRES.replace("Punk", "Rock")), "one title per genre"),
        (lambda f: (f / "genres.csv").write_text(FMA_GENRES.replace("25,", "26,")), r"must list ids of .*'\[17, 25\]'"),
        (lambda f: replace(f / "tracks.csv", "[17, 25]", "17 and 25"), r"must list ids of .*'17 and 25'"),
        (lambda f: replace(f / "tracks.csv", "genres_all", "genres"), r"no column \('track', 'genres_all'\)"),
    ],
)
def test_invalid_tables_of_all_genres(folder, spoil, message):
    add_all_genres(folder, {5: [25]})
    spoil(folder / "fma_metadata")
    with pytest.raises(ValueError, match=message):
        gk.datasets.load_fma(folder, labels="all")


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_all_genres_need_tracks_csv(folder):
    tracks = fma.read_tracks(folder / "fma_metadata" / "tracks.csv")
    shutil.rmtree(folder / "fma_metadata")
    fma.write_labels(tracks, folder / "train_labels.csv")
    with pytest.raises(ValueError, match=r'`labels="all"` needs tracks\.csv'):
        gk.datasets.load_fma(folder, labels="all")


def test_a_changed_folder_is_built_again(folder):
    before = gk.datasets.load_fma(folder)
    shutil.copy(folder / "fma_small" / "001" / "001001.mp3", folder / "fma_small" / "000" / "000002.mp3")
    after = gk.datasets.load_fma(folder)
    assert np.abs(after.train[0]["audio"][:1000] - before.train[0]["audio"][:1000]).max() > 0.1


def test_another_sample_rate(folder):
    data = gk.datasets.load_fma(folder, sample_rate=16000)
    assert data.sample_rate == data.train.sample_rate == 16000
    assert abs(len(data.train[0]["audio"]) - 3 * 16000) < 1600


def test_samples_above_1_are_not_clipped(folder, monkeypatch):
    def loud(path, sample_rate):
        return 1.25 * np.sin(np.arange(3 * sample_rate) / 10).astype("float32"), None

    monkeypatch.setattr(store, "_decode", loud)
    audio = gk.datasets.load_fma(folder).train[0]["audio"]
    np.testing.assert_allclose(audio, loud(None, 22050)[0], atol=1.25 / 32767)


def test_incomplete_clips_are_kept(folder):
    """One half of a clip of 9 s is incomplete; a clip of which less than 2 s are left is broken."""
    for track_id, share in ((2, 2), (5, 9)):
        path = write_sine(folder / "fma_small" / "000" / f"{track_id:06d}.mp3", 440, seconds=9)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // share])
    with pytest.warns(UserWarning) as caught:
        data = gk.datasets.load_fma(folder)
    messages = [str(warning.message) for warning in caught]
    reason = "cut short: only 4.4 s of 9.0 s can be decoded"
    kept = f"1 are incomplete: fma_small/000/000002.mp3 ({reason}). These clips are kept."
    assert any(kept in message for message in messages) and data.incomplete == {2: reason}
    assert data.counts["incomplete"] == 1 and data.counts["broken"] == 1 and list(data.broken) == [5]
    assert len(data.train.select(np.flatnonzero(data.train.track_ids == 2))[0]["audio"]) > 4 * 22050
    assert "1 broken, 1 incomplete" in str(data)


def test_one_warning_names_broken_and_missing_clips(folder):
    (folder / "fma_small" / "000" / "000005.mp3").write_bytes(b"")
    (folder / "fma_small" / "001" / "001000.mp3").write_text("no music")
    os.remove(folder / "fma_small" / "002" / "002041.mp3")
    with pytest.warns(UserWarning) as caught:
        data = gk.datasets.load_fma(folder)
    messages = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert len(messages) == 1
    for part in (
        "of 7 tracks",
        "1 have no file",
        "002041",
        "2 cannot be read",
        "000005.mp3 (empty",
        "001000.mp3 (not audio",
    ):
        assert part in messages[0]
    assert ids(data.train) == [2, 2040] and ids(data.validation) == [999]
    assert set(data.broken) == {5, 1000}
    assert (data.counts["missing"], data.counts["broken"], data.counts["readable"]) == (1, 2, 4)


def test_a_clip_that_is_too_short_is_broken(folder):
    write_sine(folder / "fma_small" / "000" / "000002.mp3", 440, seconds=1.5)
    with pytest.warns(UserWarning, match=r"000002\.mp3 \(cut short: 1\.5 s\)") as caught:
        assert ids(gk.datasets.load_fma(folder).train) == [5, 1000, 2040]
    assert {warning.filename for warning in caught} == {__file__}


def test_a_split_without_a_readable_clip_is_empty(folder):
    (folder / "fma_small" / "001" / "001001.mp3").write_bytes(b"")  # the only test clip
    with pytest.warns(UserWarning, match=r"001001\.mp3 \(empty"):
        data = gk.datasets.load_fma(folder)
    assert ids(data.train) == [2, 5, 1000, 2040] and len(data.test) == 0 and data.counts["broken"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "track_id,genre\n",
        "id,genre\n2,Rock\n",
        "track_id,genre\n1,a,b\n",
        "track_id,genre\ninf,Rock\n",
        "track_id,genre\n7.5,Rock\n",
    ],
)
def test_invalid_label_files(tmp_path, text):
    (tmp_path / "train_labels.csv").write_text(text)
    with pytest.raises(ValueError, match=r"train_labels\.csv"):
        fma.read_labels(tmp_path / "train_labels.csv")


@pytest.mark.parametrize("layout", ["nested", "audio beside metadata", "flat", "labels"])
def test_layouts(folder, tmp_path, layout):
    place = tmp_path / layout.replace(" ", "_")
    data_dir = place
    if layout == "nested":
        shutil.copytree(folder / "fma_small", place / "fma_small" / "fma_small")
        shutil.copytree(folder / "fma_metadata", place / "fma_metadata" / "fma_metadata")
    elif layout == "audio beside metadata":
        shutil.copytree(folder, place)
        data_dir = place / "fma_small"
    elif layout == "flat":
        shutil.copytree(folder / "fma_small", place)
        shutil.copy(folder / "fma_metadata" / "tracks.csv", place)
    else:
        shutil.copytree(folder / "fma_small", place / "fma_small")
        tracks = fma.read_tracks(folder / "fma_metadata" / "tracks.csv")
        fma.write_labels(tracks, place / "train_labels.csv")
        assert list(pd.read_csv(place / "train_labels.csv").columns) == ["track_id", "genre"]
        assert fma.read_labels(place / "train_labels.csv")["genre"].to_dict() == tracks["genre"].to_dict()
        with pytest.raises(ValueError, match="needs official splits"):
            gk.datasets.load_fma(place)
    data = gk.datasets.load_fma(data_dir, protocol="random", prepared_dir=tmp_path / "prepared")
    assert sorted(ids(data.train) + ids(data.validation)) == [track for track, *_ in TRACKS]


def test_a_subset_in_the_folder_of_a_larger_one(folder):
    os.rename(folder / "fma_small", folder / "fma_large")
    write_sine(folder / "fma_large" / "000" / "000003.mp3", 440)  # a clip of large only
    assert len(gk.datasets.load_fma(folder).train) == 4


def test_files_and_folders_with_unexpected_names(folder):
    """A file named like a track folder is ignored, like a folder or a link to itself named like a clip."""
    audio = folder / "fma_small"
    (audio / "101").touch()
    (audio / "102").symlink_to("102")
    for track in ("000/000002.mp3", "001/001000.mp3"):
        os.remove(audio / track)
    (audio / "000" / "000002.mp3").mkdir()
    (audio / "001" / "001000.mp3").symlink_to("001000.mp3")
    with pytest.warns(UserWarning, match="2 have no file"):
        data = gk.datasets.load_fma(folder)
    assert ids(data.train) == [5, 2040] and data.counts["missing"] == 2


def test_is_fma(folder, tmp_path):
    assert fma.is_fma(folder) and fma.is_fma(folder / "fma_small") and fma.is_fma(tmp_path / "nowhere")
    music = tmp_path / "music"
    (music / "101" / "000002.mp3").mkdir(parents=True)
    (music / "102").touch()
    assert not fma.is_fma(music)
    shutil.copy(folder / "fma_small" / "000" / "000002.mp3", music / "101" / "000003.mp3")
    assert fma.is_fma(music)


def test_real_clips(real_clips, tmp_path):
    folder = write_fma(
        tmp_path / "fma", [(track, genre, "training") for track, genre in REAL_CLIPS.items()], audio=False
    )
    for track_id, path in real_clips.items():
        place = folder / "fma_small" / f"{track_id // 1000:03d}" / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    data = gk.datasets.load_fma(folder)
    assert ids(data.train) == list(REAL_CLIPS) and len(data.validation) == len(data.test) == 0
    for element in (data.train[i] for i in range(8)):
        assert gk.GENRES[element["genre"]] == REAL_CLIPS[element["track_id"]]
        decoded = gk.audio.load(real_clips[element["track_id"]])
        assert 29.9 * 22050 < len(decoded) < 30.1 * 22050
        np.testing.assert_allclose(element["audio"], decoded, atol=1.2 / 32767)


def test_the_shared_table_of_fma_small(tmp_path):
    """Counts of fma_small as its table has them: 8,000 tracks, 8 x 1,000, 6,400 / 800 / 800."""
    path = SHARED_CLIPS.parent / "fma_small_tracks.csv"
    if not path.is_file():
        pytest.skip("the table of fma_small (shared/data/fma_small_tracks.csv beside this checkout) is not here")
    table = pd.read_csv(path)
    write_fma(tmp_path / "fma", table[["track_id", "genre_top", "split"]].itertuples(index=False), audio=False)
    tracks = fma.read_tracks(tmp_path / "fma" / "fma_metadata" / "tracks.csv")
    assert len(tracks) == 8000 and set(tracks["genre"].value_counts()) == {1000}
    assert tracks["split"].value_counts().to_dict() == {"train": 6400, "validation": 800, "test": 800}


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda f: shutil.rmtree(f), FileNotFoundError, "`data_dir` is not a folder"),
        (lambda f: shutil.rmtree(f / "fma_metadata"), FileNotFoundError, "There is no tracks.csv"),
        (lambda f: shutil.rmtree(f / "fma_small"), FileNotFoundError, "There are no clips"),
        (
            lambda f: [shutil.rmtree(p) or p.mkdir() for p in (f / "fma_small").iterdir()],
            FileNotFoundError,
            "contains no clip of the 7 tracks",
        ),
        (
            lambda f: [p.write_text("no music") for p in (f / "fma_small").glob("*/*")],
            ValueError,
            "None of the 7 clips can be read",
        ),
        (lambda f: (f / "fma_metadata" / "tracks.csv").write_text("a,b\n1,2\n"), ValueError, "is not FMA's tracks.csv"),
        (lambda f: (f / "fma_metadata" / "tracks.csv").write_text(""), ValueError, "is not FMA's tracks.csv"),
        (
            lambda f: (f / "fma_metadata" / "tracks.csv").write_text(
                (f / "fma_metadata" / "tracks.csv").read_text().replace("small", "large")
            ),
            ValueError,
            "contains no track of subset 'small'",
        ),
        (
            lambda f: (f / "fma_metadata" / "tracks.csv").write_text(
                (f / "fma_metadata" / "tracks.csv").read_text().replace("Folk", "Polka")
            ),
            ValueError,
            "genres that are not in .*Polka",
        ),
        (
            lambda f: (f / "fma_metadata" / "tracks.csv").write_text(
                (f / "fma_metadata" / "tracks.csv").read_text() + "2,training,small,Rock\n"
            ),
            ValueError,
            "contains a track twice: 2",
        ),
    ],
)
def test_invalid_folders(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        gk.datasets.load_fma(folder)


def test_invalid_arguments(folder, tmp_path):
    with pytest.raises(ValueError, match="`prepared_dir` must not contain"):
        gk.datasets.load_fma(folder, prepared_dir=tmp_path / "what?")
    with pytest.raises(ValueError, match="`subset` must be one of"):
        gk.datasets.load_fma(folder, subset="huge")
    with pytest.raises(ValueError, match="`labels` must be one of"):
        gk.datasets.load_fma(folder, labels="both")
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        gk.datasets.load_fma(folder, protocol="lucky")
    with pytest.raises(ValueError, match="`sample_rate` must be"):
        gk.datasets.load_fma(folder, sample_rate=22050.0)


def test_a_folder_that_cannot_be_written(folder):
    (folder / "prepared").write_text("a file is in the way")
    with pytest.raises(OSError, match=r"cannot be stored in .*prepared.* Choose another `prepared_dir`"):
        gk.datasets.load_fma(folder)
