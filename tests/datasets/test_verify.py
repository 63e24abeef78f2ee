"""Verification of folders of FMA, with all kinds of broken clips, and tables and folders of other formats."""

import concurrent.futures
import os
import pathlib
import warnings
from typing import NamedTuple

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from conftest import write_fma, write_sine
from genrekeras.datasets import fma
from genrekeras.datasets.fma import verify
from genrekeras.datasets.synthetic import write_tracks

BROKEN = {
    99134: b"",  # three kinds of files without audio
    108925: b"<html>not found</html>",
    133297: b"ID3\x03\x00\x00\x00\x00\x00\x00",
    98565: 1.6,  # cut short, in seconds
    98567: 0.5,
    98569: "cut",  # half of the bytes
}
SILENT = 72059


class Folder(NamedTuple):
    """A folder in the layout of fma_small.

    Attributes:
        path: `pathlib.Path`.
        per_genre: int, number of clips of a genre.
        twins: ids of two clips with the same audio.
        rates: dict, sample rate -> number of readable clips.
    """

    path: pathlib.Path
    per_genre: int
    twins: list
    rates: dict


def clip(track_id, seconds=2.2, rate=8000):
    """Sounds that all differ."""
    time = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(track_id)
    return 0.3 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time) + 0.02 * rng.standard_normal(len(time))


def write_mp3(path, waveform, rate=8000):
    soundfile.write(path, waveform, rate, format="MP3", subtype="MPEG_LAYER_III")


def write_wav(path, waveform, rate=8000):
    """Write a wav file, which is faster, under the name of an mp3 file, which does not matter."""
    soundfile.write(path, waveform, rate, format="WAV", subtype="PCM_U8")


@pytest.fixture(scope="module", params=[50, pytest.param(1000, marks=pytest.mark.slow)])
def small(request, tmp_path_factory):
    """`Folder` of short clips with six broken ones, a silent one and two of the same sound; at full size if slow."""
    per_genre = request.param
    folder = tmp_path_factory.mktemp("small") / "fma"
    others = [track_id for track_id in range(3, 155_000, 19) if track_id not in {*BROKEN, SILENT}]
    rest = iter([SILENT, *np.random.default_rng(0).permutation(others).tolist()])
    broken = iter(BROKEN)
    # An artist has five tracks, each in its own album. A compilation in each genre has tracks of several splits.
    rows = []
    for genre in gk.GENRES:
        for split, share in {"training": 0.8, "validation": 0.1, "test": 0.1}.items():
            for _ in range(round(share * per_genre)):
                track_id = next(broken, None) if split == "training" else None
                track_id = next(rest) if track_id is None else track_id
                is_compilation = len(rows) % (3 * per_genre // 10) == 0
                album = 200_000 + len(rows) // per_genre if is_compilation else track_id
                rows.append((track_id, genre, split, len(rows) // 5, album))
    write_tracks(folder / "fma_metadata", sorted(rows))
    assert len(rows) == 8 * per_genre and len({row[0] for row in rows}) == 8 * per_genre
    period = 2 * per_genre // 5  # one of so many clips has the higher rate

    def write(track_id):
        path = folder / "fma_small" / f"{track_id // 1000:03d}" / f"{track_id:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = BROKEN.get(track_id)
        if isinstance(kind, bytes):
            path.write_bytes(kind)
        elif kind == "cut":
            write_mp3(path, clip(track_id, 3.0))
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif track_id == SILENT:
            write_mp3(path, 1e-5 * clip(track_id))
        elif track_id % period == 3:
            write_mp3(path, clip(track_id, rate=22050), rate=22050)
        else:
            (write_mp3 if kind or track_id % 20 == 5 else write_wav)(path, clip(track_id, kind or 2.2))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, [row[0] for row in rows]))
    readable = [row[0] for row in rows if row[0] not in BROKEN]
    high = sum(track_id % period == 3 and track_id != SILENT for track_id in readable)
    twins = [track_id for track_id in readable if track_id != SILENT and track_id % period != 3][:2]
    paths = [folder / "fma_small" / f"{i // 1000:03d}" / f"{i:06d}.mp3" for i in twins]
    paths[1].write_bytes(paths[0].read_bytes())
    return Folder(folder, per_genre, sorted(twins), {8000: len(readable) - high, 22050: high})


def test_a_complete_folder_with_six_kinds_of_broken_clips(small, monkeypatch):
    count = small.per_genre
    splits = {"train": 8 * count * 8 // 10, "validation": 8 * count // 10, "test": 8 * count // 10}
    monkeypatch.setattr(verify, "SMALL_CLIPS", splits)
    monkeypatch.setattr(verify, "SMALL_CLIPS_PER_GENRE", count)
    result = fma.check(small.path)
    assert result.usable and result.problems == []
    assert result.clips["state"].value_counts().to_dict() == {"ok": 8 * count - 6, "broken": 6}
    assert sorted(result.clips.index[result.clips["state"] == "broken"]) == sorted(BROKEN)
    assert list(result.silent.index) == [SILENT]
    assert result.duplicates == [small.twins]
    text = str(result)
    lines = text.splitlines()
    assert lines[0].endswith(f"{8 * count - 6} of {8 * count} clips can be read") and lines[-1] == "USABLE."
    table = {" ".join(line.split()[:-7]): [int(n) for n in line.split()[-7:]] for line in lines[3:12]}
    held_out = [8 * count // 10] * 2
    assert table["all"] == [splits["train"] - 6, *held_out, 8 * count - 6, 0, 0, 6]
    held_out = [count // 10] * 2
    assert table["Hip-Hop"] == [count * 8 // 10 - 6, *held_out, count - 6, 0, 0, 6]
    assert all(table[genre] == [count * 8 // 10, *held_out, count, 0, 0, 0] for genre in gk.GENRES[1:])
    for reason in (
        "099134  empty: the file has 0 bytes",
        "108925  not audio",
        "133297  not audio",
        "098565  cut short: 1.6 s",
        "098567  cut short: 0.5 s",
        "098569  cut short: 1.",
        f"{small.twins[0]:06d} = {small.twins[1]:06d}",
        f"sample_rate: {small.rates[8000]} with 8000 Hz, {small.rates[22050]} with 22050 Hz",
    ):
        assert reason in text, reason
    assert small.rates[22050] > 10
    assert result.clips.loc[98567, "seconds"] == pytest.approx(0.5, abs=0.1)


def test_the_same_folder_as_a_dataset(small, tmp_path):
    count = small.per_genre
    with pytest.warns(UserWarning, match="6 cannot be read") as caught:
        data = gk.datasets.load_fma(small.path, prepared_dir=tmp_path)
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert data.counts == {
        "tracks": 8 * count,
        "missing": 0,
        "broken": 6,
        "incomplete": 0,
        "readable": 8 * count - 6,
        "train": 8 * count * 8 // 10 - 6,
        "validation": 8 * count // 10,
        "test": 8 * count // 10,
    }
    rng = np.random.default_rng(1)
    for split in (data.train, data.validation, data.test):
        assert list(split.track_ids) == sorted(split.track_ids)
        for position in rng.integers(0, len(split), 10):
            element = split[int(position)]
            expected = gk.audio.load(split.tracks["path"].iloc[position])
            np.testing.assert_allclose(element["audio"], expected, atol=1 / 32767)
            assert element["track_id"] == split.track_ids[position]
    leaks = gk.datasets.leakage(data).loc[("train", "test")]
    assert leaks["artists"] == 0 and leaks["albums"] == leaks["clips"] == 3  # compilations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_artist = gk.datasets.load_fma(small.path, prepared_dir=tmp_path, protocol="artist_album")
    assert (gk.datasets.leakage(by_artist)[["artists", "albums", "duplicates", "clips"]] == 0).all(axis=None)
    moved = set(data.test.track_ids) - set(by_artist.test.track_ids)
    assert len(moved) == 3 * 5 and moved <= set(by_artist.train.track_ids)


def test_missing_and_broken_clips(tmp_path):
    rows = [(2, "Rock", "training"), (5, "Pop", "training"), (9, "Folk", "test"), (11, "Folk", "test")]
    folder = write_fma(tmp_path / "fma", rows)
    half = write_sine(folder / "fma_small" / "000" / "000011.mp3", 440, seconds=9)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    os.remove(folder / "fma_small" / "000" / "000002.mp3")
    (folder / "fma_small" / "000" / "000005.mp3").write_bytes(b"")
    write_sine(folder / "fma_small" / "000" / "000007.mp3", 440)
    result = fma.check(folder)
    assert not result.usable and list(result.clips["state"]) == ["missing", "broken", "ok", "incomplete"]
    text = str(result)
    problems = "1 clips are missing; 2 clips are broken or incomplete, but complete in the published dataset; "
    assert f"{problems}its table has" in text
    assert "1 missing:\n  000002" in text and "1 broken:\n  000005  empty" in text
    assert "1 incomplete:\n  000011  cut short: only 4.4 s of 9.0 s can be decoded" in text
    assert "2 of 4 clips can be read" in text
    assert "1 files have no row with a genre in tracks.csv (the first: 000/000007.mp3)" in text
    assert "is not the version of 2017" in text


def test_real_clips(real_clips, tmp_path):
    folder = write_fma(tmp_path / "fma", [(i, "Rock", "training") for i in real_clips], audio=False)
    (folder / "fma_small").mkdir()
    for path in real_clips.values():
        (folder / "fma_small" / path.name[:3]).mkdir(exist_ok=True)
        os.symlink(path, folder / "fma_small" / path.name[:3] / path.name)
    result = fma.check(folder)
    assert (result.clips["state"] == "ok").all() and len(result.silent) == 0 and result.duplicates == []
    assert (result.clips["seconds"].sub(30).abs() < 0.1).all() and (result.clips["sample_rate"] >= 44100).all()
    assert not result.usable and "its table has {'train': 8}" in str(result)


def test_a_folder_without_audio(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (5, "Pop", "training")])
    for path in (folder / "fma_small").rglob("*.mp3"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    result = fma.check(folder)
    assert "0 of 2 clips can be read" in str(result) and not result.usable


def test_large_may_have_a_few_broken_clips(tmp_path):
    header = ",set,set,track\n,split,subset,genre_top\ntrack_id,,,\n"
    (tmp_path / "fma_metadata").mkdir()
    rows = "".join(f"{i},training,large,Rock\n" for i in range(200))
    (tmp_path / "fma_metadata" / "tracks.csv").write_text(header + rows)
    (tmp_path / "fma_large" / "000").mkdir(parents=True)
    write_sine(tmp_path / "fma_large" / "000" / "000000.mp3", 440, seconds=2.1, rate=8000)
    for i in range(1, 200):
        os.link(tmp_path / "fma_large" / "000" / "000000.mp3", tmp_path / "fma_large" / "000" / f"{i:06d}.mp3")
    for i, usable in ((7, True), (8, True), (9, False)):
        os.remove(tmp_path / "fma_large" / "000" / f"{i:06d}.mp3")
        (tmp_path / "fma_large" / "000" / f"{i:06d}.mp3").write_bytes(b"")
        assert fma.check(tmp_path, "large").usable == usable


def test_an_unknown_subset(tmp_path):
    with pytest.raises(ValueError, match="`subset` must be one of"):
        fma.check(tmp_path, subset="tiny")


# tracks.csv


def test_ids_of_mixed_kinds(tmp_path):
    (tmp_path / "tracks.csv").write_text(
        ",set,set,track\n,split,subset,genre_top\ntrack_id,,,\n"
        "2.0,training,small,Rock\nx,training,small,Rock\n5,test,small,Pop\n"
    )
    with pytest.warns(UserWarning, match="1 of 3 rows of subset 'small' lack a genre, split or id"):
        assert list(fma.read_tracks(tmp_path / "tracks.csv").index) == [2, 5]


def test_is_fma(tmp_path):
    for name in ("140/song.mp3", "tracks.csv", "jazz/1.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not fma.is_fma(tmp_path)  # folders of tempos, and a playlist
    (tmp_path / "140" / "140123.mp3").write_bytes(b"")
    assert fma.is_fma(tmp_path) and fma.is_fma(tmp_path / "nowhere")


def test_a_table_with_a_cut_last_line(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (5, "Pop", "training")])
    table = folder / "fma_metadata" / "tracks.csv"
    table.write_text(table.read_text() + "7,trai")
    with pytest.warns(UserWarning, match="does not end with a line break"):
        assert list(fma.read_tracks(table).index) == [2, 5]


def test_a_table_that_ends_within_quotes(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training")])
    table = folder / "fma_metadata" / "tracks.csv"
    table.write_text(table.read_text() + '7,training,small,"Old-Time')
    with pytest.raises(ValueError, match=r"tracks\.csv is not FMA's tracks\.csv: .*EOF inside string"):
        fma.read_tracks(table)


@pytest.mark.parametrize(
    "text, message",
    [
        ("track_id,genre\n2,Rock\n5,Pop\n", "third line does not start with track_id"),
        (",set,set\n,split,subset\ntrack_id,,\n2,training,small\n", r"no column \('track', 'genre_top'\)"),
        (",set,set,track\n,split,subset,genre_top\n2,training,small,Rock\n", "third line does not start with"),
    ],
)
def test_a_table_of_another_version(tmp_path, text, message):
    (tmp_path / "tracks.csv").write_text(text)
    with pytest.raises(ValueError, match=f"is not FMA's tracks.csv: .*{message}"):
        fma.read_tracks(tmp_path / "tracks.csv")


def test_subsets_contain_smaller_ones_and_rows_without_genre_are_counted(tmp_path):
    rows = [
        "2,training,small,Rock",
        "3,validation,medium,Jazz",
        "4,training,large,Old-Time / Historic",
        "5,test,large,",
    ]
    header = ",set,set,track\n,split,subset,genre_top\ntrack_id,,,\n"
    (tmp_path / "tracks.csv").write_text(header + "\n".join(rows) + "\n")
    assert list(fma.read_tracks(tmp_path / "tracks.csv", "small").index) == [2]
    assert list(fma.read_tracks(tmp_path / "tracks.csv", "medium").index) == [2, 3]
    for subset in ("large", "full"):
        with pytest.warns(UserWarning, match=f"1 of 4 rows of subset '{subset}' lack a genre"):
            assert list(fma.read_tracks(tmp_path / "tracks.csv", subset)["genre"])[1:] == [
                "Jazz",
                "Old-Time / Historic",
            ]


def test_medium_with_its_sixteen_genres(tmp_path):
    assert len(fma.SUBSETS["medium"]) == 16 and fma.SUBSETS["medium"][:8] == gk.GENRES
    header = ",set,set,track,artist,album\n,split,subset,genre_top,id,id\ntrack_id,,,,,\n"
    rows = ["2,training,small,Rock,1,", "3,validation,medium,Jazz,,7", "4,training,medium,Blues,2,8"]
    (tmp_path / "fma_metadata").mkdir()
    (tmp_path / "fma_metadata" / "tracks.csv").write_text(header + "\n".join(rows) + "\n")
    (tmp_path / "fma_medium" / "000").mkdir(parents=True)
    for track_id in (2, 3, 4):
        write_sine(tmp_path / "fma_medium" / "000" / f"{track_id:06d}.mp3", 440)
    data = gk.datasets.load_fma(tmp_path, subset="medium")
    assert data.genres == fma.SUBSETS["medium"] and list(data.train.labels) == [4, 8]
    assert data.train.tracks["artist_id"].tolist() == [1, 2] and data.train.tracks["album_id"].tolist() == [-1, 8]
    assert data.genres[data.validation.labels[0]] == "Jazz" and list(data.validation.tracks["artist_id"]) == [-1]
