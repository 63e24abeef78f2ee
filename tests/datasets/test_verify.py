"""The check of an FMA folder: at full size with all kinds of broken clips, and on tables and folders that lie."""

import concurrent.futures
import os
import warnings

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from conftest import write_fma, write_sine
from genrekeras.datasets import fma
from genrekeras.datasets.synthetic import write_tracks

SMALL = {"training": 800, "validation": 100, "test": 100}  # of each genre
BROKEN = {
    99134: b"",  # no audio, in three kinds
    108925: b"<html>not found</html>",
    133297: b"ID3\x03\x00\x00\x00\x00\x00\x00",
    98565: 1.6,  # cut short, in seconds
    98567: 0.5,
    98569: "cut",  # in the middle of its bytes
}
SILENT = 72059


def clip(track_id, seconds=2.2, rate=8000):
    """Sounds that all differ."""
    time = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(track_id)
    return 0.3 * np.sin(2 * np.pi * rng.uniform(100, 3000) * time) + 0.02 * rng.standard_normal(len(time))


def write_mp3(path, waveform, rate=8000):
    soundfile.write(path, waveform, rate, format="MP3", subtype="MPEG_LAYER_III")


def write_wav(path, waveform, rate=8000):
    """Under a name of MP3, as nobody asks the name: to encode 8,000 takes more than a minute."""
    soundfile.write(path, waveform, rate, format="WAV", subtype="PCM_U8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """8,000 short clips in the layout of fma_small, with six broken ones, a silent one, and two of the same sound."""
    folder = tmp_path_factory.mktemp("whole") / "fma"
    others = [track_id for track_id in range(3, 155_000, 19) if track_id not in {*BROKEN, SILENT}]
    rest = iter([SILENT, *np.random.default_rng(0).permutation(others).tolist()])
    broken = iter(BROKEN)
    rows = []  # five tracks an artist, each an album of its own, but for a compilation across the splits of each genre
    for genre in gk.GENRES:
        for split, count in SMALL.items():
            for _ in range(count):
                track_id = next(broken, None) if split == "training" else None
                track_id = next(rest) if track_id is None else track_id
                album = 200_000 + len(rows) // 1000 if len(rows) % 300 == 0 else track_id
                rows.append((track_id, genre, split, len(rows) // 5, album))
    write_tracks(folder / "fma_metadata", sorted(rows))
    assert len(rows) == 8000 and len({row[0] for row in rows}) == 8000

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
        elif track_id % 400 == 3:
            write_mp3(path, clip(track_id, rate=22050), rate=22050)
        else:
            (write_mp3 if kind or track_id % 20 == 3 else write_wav)(path, clip(track_id, kind or 2.2))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, [row[0] for row in rows]))
    twins = [row[0] for row in rows if row[0] not in {*BROKEN, SILENT} and row[0] % 400 != 3][:2]
    paths = [folder / "fma_small" / f"{i // 1000:03d}" / f"{i:06d}.mp3" for i in twins]
    paths[1].write_bytes(paths[0].read_bytes())
    return folder, sorted(twins)


def test_a_folder_of_8000_clips_with_all_six_broken_kinds(whole):
    folder, twins = whole
    found = fma.check(folder)
    assert found.usable and found.faults == []
    assert found.clips["state"].value_counts().to_dict() == {"ok": 7994, "broken": 6}
    assert sorted(found.clips.index[found.clips["state"] == "broken"]) == sorted(BROKEN)
    assert list(found.silent.index) == [SILENT]
    assert found.duplicates == [twins]
    lines = str(found).splitlines()
    assert lines[0].endswith("7994 of 8000 clips can be read") and lines[-1] == "USABLE."
    table = {" ".join(line.split()[:-7]): [int(n) for n in line.split()[-7:]] for line in lines[3:12]}
    assert table["all"] == [6394, 800, 800, 7994, 0, 0, 6] and table["Hip-Hop"] == [794, 100, 100, 994, 0, 0, 6]
    assert all(table[genre] == [800, 100, 100, 1000, 0, 0, 0] for genre in gk.GENRES[1:])
    text = str(found)
    for reason in (
        "099134  empty: the file has 0 bytes",
        "108925  not audio",
        "133297  not audio",
        "098565  cut short: 1.6 s",
        "098567  cut short: 0.5 s",
        "098569  cut short: 1.",
        f"{twins[0]:06d} = {twins[1]:06d}",
    ):
        assert reason in text, reason
    rates = found.clips.loc[found.clips["state"] == "ok", "sample_rate"].value_counts()
    assert f"sample_rate: {rates[8000]} with 8000 Hz, {rates[22050]} with 22050 Hz" in text and rates[22050] > 10
    assert found.clips.loc[98567, "seconds"] == pytest.approx(0.5, abs=0.1)


def test_the_same_folder_as_a_dataset(whole, tmp_path):
    folder, _ = whole
    with pytest.warns(UserWarning, match="6 cannot be read") as caught:
        data = gk.datasets.load_fma(folder, prepared_dir=tmp_path)
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert data.counts == {
        "tracks": 8000,
        "missing": 0,
        "broken": 6,
        "incomplete": 0,
        "readable": 7994,
        "train": 6394,
        "validation": 800,
        "test": 800,
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
        whole_groups = gk.datasets.load_fma(folder, prepared_dir=tmp_path, protocol="artist_album")
    assert (gk.datasets.leakage(whole_groups)[["artists", "albums", "duplicates", "clips"]] == 0).all(axis=None)
    moved = set(data.test.track_ids) - set(whole_groups.test.track_ids)
    assert len(moved) == 3 * 5 and moved <= set(whole_groups.train.track_ids)


def test_what_is_missing_or_broken_makes_it_unusable(tmp_path):
    rows = [(2, "Rock", "training"), (5, "Pop", "training"), (9, "Folk", "test"), (11, "Folk", "test")]
    folder = write_fma(tmp_path / "fma", rows)
    half = write_sine(folder / "fma_small" / "000" / "000011.mp3", 440, seconds=9)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    os.remove(folder / "fma_small" / "000" / "000002.mp3")
    (folder / "fma_small" / "000" / "000005.mp3").write_bytes(b"")
    write_sine(folder / "fma_small" / "000" / "000007.mp3", 440)
    found = fma.check(folder)
    assert not found.usable and list(found.clips["state"]) == ["missing", "broken", "ok", "incomplete"]
    text = str(found)
    assert (
        "1 clips are missing; 2 clips are broken or incomplete that are complete at the source; its table has" in text
    )
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
    found = fma.check(folder)
    assert (found.clips["state"] == "ok").all() and len(found.silent) == 0 and found.duplicates == []
    assert (found.clips["seconds"].sub(30).abs() < 0.1).all() and (found.clips["sample_rate"] >= 44100).all()
    assert not found.usable and "its table has {'train': 8}" in str(found)


def test_a_folder_without_one_clip_that_is_audio(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (5, "Pop", "training")])
    for path in (folder / "fma_small").rglob("*.mp3"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    found = fma.check(folder)
    assert "0 of 2 clips can be read" in str(found) and not found.usable


def test_large_may_have_a_few_broken_clips(tmp_path):
    header = ",set,set,track\n,split,subset,genre_top\ntrack_id,,,\n"
    (tmp_path / "fma_metadata").mkdir()
    rows = "".join(f"{i},training,large,Rock\n" for i in range(200))
    (tmp_path / "fma_metadata" / "tracks.csv").write_text(header + rows)
    (tmp_path / "fma_large" / "000").mkdir(parents=True)
    write_sine(tmp_path / "fma_large" / "000" / "000000.mp3", 440)
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


def test_what_looks_like_fma(tmp_path):
    for name in ("140/song.mp3", "tracks.csv", "jazz/1.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not fma.is_fma(tmp_path)  # a genre named by its tempo, a playlist
    (tmp_path / "140" / "140123.mp3").write_bytes(b"")
    assert fma.is_fma(tmp_path) and fma.is_fma(tmp_path / "nowhere")


def test_a_table_with_a_cut_last_line(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training"), (5, "Pop", "training")])
    table = folder / "fma_metadata" / "tracks.csv"
    table.write_text(table.read_text() + "7,trai")
    with pytest.warns(UserWarning, match="does not end with a whole line"):
        assert list(fma.read_tracks(table).index) == [2, 5]


def test_a_table_that_breaks_off_within_quotes(tmp_path):
    folder = write_fma(tmp_path / "fma", [(2, "Rock", "training")])
    table = folder / "fma_metadata" / "tracks.csv"
    table.write_text(table.read_text() + '7,training,small,"Old-Time')
    with pytest.raises(ValueError, match=r"tracks\.csv is not FMA's tracks\.csv: .*EOF inside string"):
        fma.read_tracks(table)


@pytest.mark.parametrize(
    "text, message",
    [
        ("track_id,genre\n2,Rock\n5,Pop\n", "third line does not begin with track_id"),
        (",set,set\n,split,subset\ntrack_id,,\n2,training,small\n", r"no column \('track', 'genre_top'\)"),
        (",set,set,track\n,split,subset,genre_top\n2,training,small,Rock\n", "third line does not begin with"),
    ],
)
def test_a_table_of_another_version(tmp_path, text, message):
    (tmp_path / "tracks.csv").write_text(text)
    with pytest.raises(ValueError, match=f"is not FMA's tracks.csv: .*{message}"):
        fma.read_tracks(tmp_path / "tracks.csv")


def test_subsets_hold_each_other_and_rows_without_genre_are_counted(tmp_path):
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
