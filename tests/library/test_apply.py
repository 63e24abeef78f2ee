"""Genres are written with a journal, from which the old tags are restored, also after an interruption."""

import itertools
import json
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from conftest import write_sine
from genrekeras import tags
from genrekeras.library import JournalError, apply_tags, journal, undo_tags
from genrekeras.library.journal import TagJournal, read_journal
from tag_files import sha256


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The state folder of the user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "genrekeras"


def plan_of(paths, *genres, old=()):
    return pd.DataFrame([{"path": str(path), "old": old, "new": genres} for path in paths], dtype=object)


def songs_of(folder, count, kind="flac"):
    """Write some songs with different sounds."""
    folder.mkdir(exist_ok=True)
    return [write_sine(folder / f"{number:03d}.{kind}", 300 + number, seconds=0.1) for number in range(count)]


def by_name(table, column):
    return {os.path.basename(row["path"]): row[column] for row in table.to_dict("records")}


def test_tags_are_written_and_restored(tmp_path, state):
    paths = songs_of(tmp_path / "music", 2) + songs_of(tmp_path / "more", 1, "mp3")
    before = [sha256(path) for path in paths]
    plan = plan_of(paths, "Rock", "Jazz").assign(note="x")
    plan.loc[3] = {"path": str(paths[0]), "old": (), "new": None, "note": "left alone"}
    applied = apply_tags(plan)
    assert applied.files["written"].tolist() == [True, True, True, False] and "note" in applied.files
    assert [tags.read_genres(path) for path in paths] == [["Rock", "Jazz"]] * 3
    assert os.path.dirname(applied.journal) == str(state / "tag")
    lines = [json.loads(line) for line in open(applied.journal, encoding="utf-8")]
    assert [next(iter(line)) for line in lines] == ["format", "folder", "path", "path", "folder", "path"]
    change = lines[2]
    assert change["path"] == str(paths[0]) and (change["old"], change["new"]) == ([], ["Rock", "Jazz"])
    assert (change["before"], change["after"]) == (before[0], sha256(paths[0])) and len(change["audio"]) == 64
    table = undo_tags(applied.journal)
    assert table["restored"].all() and table["path"].tolist() == list(map(str, paths[::-1]))
    assert [sha256(path) for path in paths] == before
    assert not undo_tags(applied.journal)["restored"].any() and table["error"].isna().all()


def test_nothing_to_write_makes_no_journal(tmp_path, state):
    plan = plan_of(songs_of(tmp_path, 1)).assign(new=None)
    applied = apply_tags(plan)
    assert applied.journal is None and not applied.files["written"].any() and not state.exists()


def test_files_that_fail_are_named_and_the_others_are_written(tmp_path, monkeypatch):
    paths = songs_of(tmp_path / "music", 5)
    paths[0].unlink()
    paths[1].write_bytes(b"no music")
    tags.write_genres(paths[2], ["Folk"])
    os.link(paths[3], tmp_path / "link.flac")
    before = {path: sha256(path) for path in paths[1:4]}
    files = apply_tags(plan_of(paths, "Rock"), tmp_path / "journal").files
    assert files["written"].tolist() == [False] * 4 + [True]
    assert [error is None for error in files["error"]] == [False, False, True, False, True]
    assert "No such file" in files.loc[0, "error"] and "hard links" in files.loc[3, "error"]
    assert files.loc[2, "reason"] == "its genres have changed since they were read"
    assert {path: sha256(path) for path in paths[1:4]} == before
    plan = plan_of(paths[4:], old=("Rock",)).assign(new=[["a\nb"]])
    assert "`genre` must be" in apply_tags(plan, tmp_path / "journal").files.loc[0, "error"]


def test_values_of_a_plan_may_be_one_genre_or_missing(tmp_path):
    """Tables of other programs contain them."""
    [path] = songs_of(tmp_path, 1)
    for old, new in ((None, "Rock"), ("Rock", np.array(["Jazz"])), (["Jazz"], "Pop"), ("Pop", float("nan"))):
        plan = pd.DataFrame({"path": [str(path)], "old": [old], "new": [new]}, dtype=object)
        assert apply_tags(plan, tmp_path / "journal").files["written"].tolist() == [isinstance(new, (str, np.ndarray))]
    assert apply_tags(plan_of([path], "Folk").assign(old=float("nan"))).files["written"].tolist() == [False]
    assert tags.read_genres(path) == ["Pop"]


def test_undo_leaves_files_alone_that_somebody_changed(tmp_path):
    paths = songs_of(tmp_path / "music", 4)
    before = sha256(paths[3])
    path = apply_tags(plan_of(paths, "Rock")).journal
    file = tags.reading.open_tags(paths[0])
    file["title"] = "New"
    file.save()
    paths[1].unlink()
    paths[2].rename(tmp_path / "moved.flac")
    changed = sha256(paths[0])
    table = undo_tags(path)
    assert not any("machine" in error for error in table["error"].dropna())
    errors = by_name(table, "error")
    assert "it was changed after its genres were written" in errors["000.flac"] and errors["003.flac"] is None
    assert "No such file" in errors["001.flac"] and "No such file" in errors["002.flac"]
    assert sha256(paths[0]) == changed and sha256(paths[3]) == before
    assert tags.read_genres(tmp_path / "moved.flac") == ["Rock"]


def test_several_calls_with_one_journal_are_undone_in_reverse_order(tmp_path):
    [path] = songs_of(tmp_path / "music", 1)
    before = sha256(path)
    for old, new in itertools.pairwise(["", "Rock", "Jazz", "Folk"]):
        apply_tags(plan_of([path], new, old=(old,) if old else ()), tmp_path / "journal")
    table = undo_tags(tmp_path / "journal")
    assert table["restored"].tolist() == [True] * 3 and table["old"].tolist() == [("Jazz",), ("Rock",), ()]
    assert sha256(path) == before


def test_a_file_that_is_not_a_journal_is_neither_read_nor_changed(tmp_path):
    [song] = songs_of(tmp_path / "music", 1)
    (tmp_path / "text").write_text("no journal\n")
    (tmp_path / "list").write_text("[1]\n")
    (tmp_path / "new").write_text('{"format": "genrekeras tag journal", "version": 9}\n')
    for path in (song, *(tmp_path / name for name in ("text", "list", "new"))):
        before = path.read_bytes()
        with pytest.raises(JournalError, match=f"{path} (is not a journal|was written by another version)"):
            undo_tags(path)
        with pytest.raises(JournalError):
            apply_tags(plan_of([song], "Rock"), path)
        assert path.read_bytes() == before and tags.read_genres(song) == []
    with pytest.raises(FileNotFoundError):
        undo_tags(tmp_path / "none")
    (tmp_path / "empty").touch()  # A process was killed before it wrote the first line.
    assert len(undo_tags(tmp_path / "empty")) == 0


def test_a_journal_of_another_machine(tmp_path, monkeypatch):
    paths = songs_of(tmp_path / "music", 2)
    before = sha256(paths[1])
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "elsewhere")
        name = apply_tags(plan_of(paths, "Rock")).journal
    paths[0].unlink()
    table = undo_tags(name)
    assert table["restored"].tolist() == [True, False] and sha256(paths[1]) == before
    assert table.loc[1, "error"].endswith("No such file or directory. The journal was written on the machine elsewhere")


def test_a_damaged_journal_restores_what_it_can(tmp_path):
    paths = songs_of(tmp_path / "music", 6)
    before = list(map(sha256, paths))
    name = apply_tags(plan_of(paths, "Rock")).journal
    header, folder, *lines = open(name, "rb").read().splitlines(keepends=True)
    values = [json.loads(line) for line in lines]
    values[1]["hunks"][0][2] = "AAAA"
    values[2]["before"] = values[2]["before"].replace("a", "b")
    values[3]["path"] = str(paths[4])
    damaged = [lines[0][:-9] + b"\n", *(json.dumps(value).encode() + b"\n" for value in values[1:5]), lines[5][:-20]]
    with open(name, "wb") as file:
        file.write(b"".join([header, folder, *damaged]))
    after = list(map(sha256, paths))
    table = undo_tags(name)
    errors = dict(zip(table["path"], table["error"], strict=True))
    assert "line 3 is damaged" in errors[name] and len(table) == 5
    assert "journal is damaged" in errors[str(paths[1])] and "cannot be restored" in errors[str(paths[2])]
    # The last line is that of a change that was not made yet.
    assert [sha256(path) for path in paths] == [*after[:4], before[4], after[5]]
    with TagJournal(name):
        pass
    assert open(name, "rb").read() == b"".join([header, folder, *damaged[:-1]])  # It can be continued.


@pytest.mark.parametrize("lines", [1, 4])
def test_a_journal_without_the_last_newline(tmp_path, lines):
    """A text editor has removed it. The last line is complete."""
    paths, name = songs_of(tmp_path / "music", 3), tmp_path / "journal"
    before = list(map(sha256, paths))
    apply_tags(plan_of(paths[:2], "Rock"), name)
    name.write_bytes(b"\n".join(name.read_bytes().splitlines()[:lines]))
    apply_tags(plan_of(paths[2:], "Rock"), name)
    name.write_bytes(name.read_bytes().rstrip())
    assert undo_tags(name)["restored"].sum() == (3 if lines == 4 else 1)
    assert [sha256(path) == old for path, old in zip(paths, before, strict=True)] == [lines == 4, lines == 4, True]


def test_a_journal_that_cannot_be_written_leaves_the_files_alone(tmp_path, monkeypatch):
    paths = songs_of(tmp_path / "music", 2)
    before = list(map(sha256, paths))
    opened = TagJournal(tmp_path / "journal")
    write = opened._write

    def fail(value):
        if "before" in value:
            raise OSError(28, "No space left on device", opened.path)
        write(value)

    with monkeypatch.context() as patch:
        patch.setattr("genrekeras.library.apply.TagJournal", lambda path: opened)
        patch.setattr(opened, "_write", fail)
        files = apply_tags(plan_of(paths, "Rock")).files
    assert not files["written"].any() and all("No space left on device" in error for error in files["error"])
    assert list(map(sha256, paths)) == before and sorted(os.listdir(tmp_path / "music")) == ["000.flac", "001.flac"]
    with pytest.raises(OSError, match="journal"):
        apply_tags(plan_of(paths, "Rock"), paths[0] / "journal")


def test_a_line_that_does_not_fit_on_the_disk_is_removed(small_disk):
    disk, enlarge = small_disk
    with TagJournal(disk / "journal") as opened:
        opened.add_folder("/music")
        with pytest.raises(OSError, match="No space left"):
            opened.add_folder("/" + "x" * 1_000_000)
        enlarge("3m")
        assert opened.add_folder("/" + "x" * 1_000_000) and not opened.add_folder("/music")
    content = read_journal(disk / "journal")
    assert len(content.folders) == 2 and content.damaged == []


def test_names_in_any_script(tmp_path):
    names = ["Дождь.flac", "雨.flac", "مطر.flac", "emoji 🎵.flac", "new\nline.flac", "'quotes\" $x.flac"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"latin-1 \xe4\xff.flac"))
    [source] = songs_of(tmp_path / "source", 1)
    folder = tmp_path / "müsic"
    folder.mkdir()
    for name in names:
        with open(folder / name, "wb") as file:
            file.write(source.read_bytes())
    paths = [os.path.join(folder, name) for name in names]
    applied = apply_tags(plan_of(paths, "Жанр 雨"))
    assert applied.files["written"].all() and all(tags.read_genres(path) == ["Жанр 雨"] for path in paths)
    assert undo_tags(applied.journal)["restored"].all()
    assert all(open(path, "rb").read() == source.read_bytes() for path in paths)


def test_a_link_is_followed_and_its_target_is_written_once(tmp_path):
    [path] = songs_of(tmp_path / "music", 1)
    before = sha256(path)
    (tmp_path / "link.flac").symlink_to(path)
    applied = apply_tags(plan_of([tmp_path / "link.flac", path], "Rock"))
    assert applied.files["written"].tolist() == [True, False]
    assert len(read_journal(applied.journal).changes) == 1 and (tmp_path / "link.flac").is_symlink()
    assert undo_tags(applied.journal)["restored"].tolist() == [True] and sha256(path) == before


def forked(function, *arguments):
    """Call a function in a forked process. Return the id of the process."""
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
        finally:
            os._exit(0)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_process_that_is_killed_leaves_each_file_old_or_new(tmp_path):
    """At 20 random moments. The journal contains the changes of all new files, and undo removes unfinished copies."""
    kinds, seed = ("flac", "mp3", "wav", "ogg"), random.Random(20231122)
    sources = {path.name: path.read_bytes() for kind in kinds for path in songs_of(tmp_path / "source", 2, kind)}
    folder, states = tmp_path / "music", []
    for moment in range(20):
        folder.mkdir()
        for name, content in sources.items():
            (folder / name).write_bytes(content)
        paths, name = sorted(folder.iterdir()), tmp_path / f"journal {moment}"
        child = forked(apply_tags, plan_of(paths, "Rock", "Jazz"), name)
        lines, deadline = seed.randrange(len(sources) + 2), time.monotonic() + 60
        while (name.read_bytes().count(b"\n") if name.exists() else 0) < lines and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(seed.uniform(0, 0.04))  # a file takes some 40 ms
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        changes = {change.path: change for change in read_journal(name).changes} if name.exists() else {}
        new = 0
        for path in paths:
            change, is_old = changes.get(str(path)), path.read_bytes() == sources[path.name]
            assert is_old or sha256(path) == change.after, f"{path} is damaged"
            assert tags.read_genres(path) == ([] if is_old else ["Rock", "Jazz"])
            new += not is_old
        states.append(new)
        if name.exists():
            table = undo_tags(name)
            assert table["error"].isna().all() and table["restored"].sum() == new
        assert {path.name: path.read_bytes() for path in paths} == sources
        if name.exists():
            assert sorted(folder.iterdir()) == paths  # without unfinished copies
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert len(set(states)) >= 4, states


def test_an_interrupted_undo_is_resumed(tmp_path, monkeypatch):
    paths = songs_of(tmp_path / "music", 4)
    before = list(map(sha256, paths))
    name = apply_tags(plan_of(paths, "Rock")).journal
    restore, calls = tags.restore, []

    def interrupted(change):
        calls.append(change.path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return restore(change)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tags, "restore", interrupted)
        undo_tags(name)
    table = undo_tags(name)
    assert table["restored"].tolist() == [False, False, True, True] and table["error"].isna().all()
    assert list(map(sha256, paths)) == before


def test_unfinished_copies_are_removed_and_other_files_are_kept(tmp_path):
    paths = songs_of(tmp_path / "music", 2)
    mine = tmp_path / "music" / ".tmp-0123abcd-000.flac"
    others = [".tmp-0123abcd-none.flac", ".tmp-xyz-000.flac", ".tmp-0123abcd-genres.csv", "genres.csv", "tmp-000.flac"]
    for name in (mine.name, *others):
        (tmp_path / "music" / name).write_bytes(b"x")
    apply_tags(plan_of(paths[1:], "Rock"))
    assert not mine.exists() and all((tmp_path / "music" / name).exists() for name in others)


def test_two_calls_at_once_write_each_file_once(tmp_path):
    paths = songs_of(tmp_path / "music", 12)
    before = list(map(sha256, paths))
    plan, results = plan_of(paths, "Rock"), {}

    def call(number):
        results[number] = apply_tags(plan, tmp_path / f"journal {number}")

    threads = [threading.Thread(target=call, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = sum(result.files["written"].astype(int) for result in results.values())
    assert written.tolist() == [1] * 12 and all(result.files["error"].isna().all() for result in results.values())
    reasons = {reason for result in results.values() for reason in result.files["reason"]} - {None}
    assert reasons <= {"its genres have changed since they were read"}
    for number in range(2):
        assert undo_tags(tmp_path / f"journal {number}")["error"].isna().all()
    assert list(map(sha256, paths)) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_only_one_process_writes_at_a_time(tmp_path):
    [path] = songs_of(tmp_path / "music", 1)
    with journal.tag_lock():
        child = forked(apply_tags, plan_of([path], "Rock"), tmp_path / "journal")
        time.sleep(0.5)
        assert tags.read_genres(path) == [] and os.waitpid(child, os.WNOHANG) == (0, 0)
    os.waitpid(child, 0)
    assert tags.read_genres(path) == ["Rock"]


@pytest.mark.parametrize("count", [50, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_files(tmp_path, count):
    [path] = songs_of(tmp_path / "source", 1)
    folder = tmp_path / "music"
    folder.mkdir()
    paths = [folder / f"{number:05d}.flac" for number in range(count)]
    for each in paths:
        each.write_bytes(path.read_bytes())
    applied = apply_tags(plan_of(paths, "Rock"))
    assert applied.files["written"].all() and os.path.getsize(applied.journal) < count * 1000
    assert undo_tags(applied.journal)["restored"].all() and {sha256(each) for each in paths} == {sha256(path)}
