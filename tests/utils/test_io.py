"""Atomic writes, writes to streams, and lists of the files below a folder."""

import os
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from genrekeras.cli import main
from genrekeras.utils.io import atomic_write, files_below, format_size


def write(path, text="new"):
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        open(temporary, "w").close()
        assert temporary.endswith(".csv") and os.path.dirname(temporary) == str(tmp_path)
        raise KeyError
    assert os.listdir(tmp_path) == ["table.csv"] and path.read_text() == "old"
    write(path)
    assert os.listdir(tmp_path) == ["table.csv"] and path.read_text() == "new"


@pytest.mark.parametrize(
    "name", ["\u8a9e" * 80 + ".csv", "\u8a9e" * 85, "x" * 255, "y" * 200 + ".weights.h5", os.fsdecode(b"caf\xe9.csv")]
)
def test_names_of_any_legal_length(tmp_path, name):
    with atomic_write(tmp_path / name) as temporary, open(temporary, "w") as file:
        assert temporary.endswith(os.path.splitext(name)[1])
        file.write("x")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["state", "state.old"])
def test_a_writer_may_append_an_extension(tmp_path, name):
    with atomic_write(tmp_path / name) as temporary:
        np.savez(temporary, a=np.arange(3))
    with pytest.raises(KeyError), atomic_write(tmp_path / name) as temporary:
        np.savez(temporary, a=0)
        raise KeyError
    assert os.listdir(tmp_path) == [name]
    with open(tmp_path / name, "rb") as file:
        assert np.load(file)["a"].tolist() == [0, 1, 2]


def test_the_target_of_a_link_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "x.txt", tmp_path / "link.txt"
    for _ in range(2):  # a target that does not exist yet, then one that does
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write(link)
        assert link.is_symlink() and target.read_text() == "new"
        assert os.listdir(target.parent) == ["x.txt"] and os.listdir(tmp_path) == ["elsewhere", "link.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_written_into(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(30)
    assert read == ["new"] and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="/dev/fd does not exist here")
def test_a_redirected_standard_stream_is_written_into(tmp_path):
    path = tmp_path / "log.txt"
    with open(path, "w") as file:
        file.write("before, ")
        file.flush()
        write(f"/dev/fd/{file.fileno()}")
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    assert path.read_text() == "before, new" and os.listdir(tmp_path) == ["log.txt"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can create devices")
def test_a_device_is_written_into(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))
        write(device)
    except PermissionError:
        pytest.skip("devices cannot be created or opened here")
    assert device.is_char_device()


def test_each_folder_is_visited_once(tmp_path):
    """Folders link to each other, and the links are sorted before the folders."""
    for name in "abcdefg":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.wav").touch()
        for other in "abcdefg":
            (tmp_path / name / f"0{other}").symlink_to(tmp_path / other)
    assert files_below(str(tmp_path)) == ([f"{name}/1.wav" for name in "abcdefg"], [])


def test_the_first_of_several_links_to_a_folder_is_followed(tmp_path):
    (tmp_path / "elsewhere" / "in").mkdir(parents=True)
    (tmp_path / "elsewhere" / "in" / "2.wav").touch()
    for name in ("b/out", "a/out", "a/z/out"):
        (tmp_path / "music" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "music" / name).symlink_to(tmp_path / "elsewhere")
    assert files_below(str(tmp_path / "music")) == (["a/out/in/2.wav"], [])


def test_broken_links(tmp_path):
    (tmp_path / "self.mp3").symlink_to("self.mp3")
    (tmp_path / "gone.mp3").symlink_to("nowhere")
    (tmp_path / "x.mp3").touch()
    names, unreadable = files_below(str(tmp_path))
    assert names == ["gone.mp3", "x.mp3"]  # the reader reports that gone.mp3 has no content
    assert len(unreadable) == 1 and unreadable[0].startswith(f"{tmp_path}/self.mp3: ")


def test_a_folder_that_vanishes(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.wav").touch()
    scandir = os.scandir

    def scan_and_remove(path):
        entries = list(scandir(path))
        if path == str(tmp_path):
            os.remove(tmp_path / "a" / "x.wav")
            os.rmdir(tmp_path / "a")
        return entries

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    assert files_below(str(tmp_path)) == (["b/x.wav"], [f"{tmp_path}/a: No such file or directory"])


def test_folders_as_deep_as_paths_may_be(tmp_path, monkeypatch):
    depth = 1100
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    open("x.wav", "w").close()
    try:
        assert files_below(str(tmp_path)) == (["d/" * depth + "x.wav"], [])
    finally:  # pytest cannot remove them, because shutil.rmtree is recursive
        os.remove("x.wav")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_predict_into_a_pipe(music, tmp_path, one_second_model):
    """A note names links that cannot be opened, and no journal is left beside the pipe."""
    (music / "b" / "self").symlink_to("self")
    one_second_model.save(tmp_path / "m.keras")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    flags = ["-m", str(tmp_path / "m.keras"), "--csv", "-o", str(pipe)]
    done = CliRunner().invoke(main, ["predict", str(music), *flags])
    reader.join(30)
    assert done.exit_code == 0 and len(read[0].splitlines()) == 1 + 3, done.output
    assert "Note: " in done.output and "b/self: Too many levels of symbolic links" in done.output
    assert set(os.listdir(tmp_path)) == {"m.keras", "pipe", music.name}


def test_sizes_as_text():
    assert [format_size(n) for n in (999, 7_679_594, 7_679_594_875)] == ["999 bytes", "7.32 MiB", "7.15 GiB"]
