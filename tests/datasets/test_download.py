"""Download and unpacking, from a local server with faults."""

import errno
import hashlib
import http.server
import importlib
import io
import os
import re
import stat
import sys
import threading
import time
import zipfile

import pytest
from genrekeras.datasets import fma
from genrekeras.datasets.fma.download import Archive, DownloadError, unpack

module = importlib.import_module("genrekeras.datasets.fma.download")  # `fma.download` is the function


def zipped(members, name="fma_small", compression=zipfile.ZIP_BZIP2):
    """The bytes of a zip file, compressed as FMA's are."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(f"{name}/{member}" if isinstance(member, str) else member, data)
    return content.getvalue()


CLIPS = {f"{i // 10:03d}/{i:06d}.mp3": os.urandom(9_000) for i in range(40)}
FILES = {
    "fma_small.zip": zipped(CLIPS),
    "fma_metadata.zip": zipped({"tracks.csv": b"track_id\n" * 5000, "README.txt": b"read"}, "fma_metadata"),
}


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, with the next one of `faults` for each request of the archive of clips."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.ranges, self.requests = dict(FILES), [], True, []
        self.url = f"http://127.0.0.1:{self.server_port}/fma"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        wanted = self.headers.get("Range")
        self.server.requests.append((name, wanted))
        fault = self.server.faults.pop(0) if self.server.faults and name == "fma_small.zip" else None
        if isinstance(fault, int):
            return self.send_error(fault)
        if name not in self.server.files:
            return self.send_error(404)
        content = self.server.files[name]
        if fault == "silence":
            time.sleep(1.5)
            return None
        if fault == "portal":
            content, wanted = b"<!DOCTYPE html><html>Please log in</html>", None
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        body = content[start : start + 100_000] if fault == "slice" else content[start:]
        if start:
            first = start + (fault == "another part")
            self.send_header("Content-Range", f"bytes {first}-{start + len(body) - 1}/{len(content)}")
        if fault not in ("no length", "no length, cut"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("break", "no length, cut"):
            body = body[: len(body) // 3]
        elif fault == "break at once":
            body = b""
        elif fault == "wrong":
            body = bytes(len(body))
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """The server; the archives of the module have the sizes and checksums of its files."""
    server = Server()
    archives = {
        key: Archive(f"fma_{key}", len(content), hashlib.sha1(content).hexdigest(), clips)
        for key, content, clips in (
            ("metadata", FILES["fma_metadata.zip"], 0),
            ("small", FILES["fma_small.zip"], 40),
        )
    }
    monkeypatch.setattr(module, "ARCHIVES", archives)
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def clips_in(folder):
    return {path.relative_to(folder / "fma_small").as_posix(): path.read_bytes() for path in folder.rglob("*.mp3")}


def ranges_of(server):
    return [wanted for name, wanted in server.requests if name == "fma_small.zip"]


def test_download(server, tmp_path, capsys):
    fma.download(tmp_path / "fma", base_url=server.url)
    assert clips_in(tmp_path / "fma") == CLIPS
    assert (tmp_path / "fma" / "fma_metadata" / "tracks.csv").read_bytes() == b"track_id\n" * 5000
    out, err = capsys.readouterr()
    assert out == "" and "Downloading and unpacking fma_metadata.zip, fma_small.zip needs about" in err
    assert "Downloading fma_small.zip: 100%" in err and "Unpacking fma_small.zip: 100%" in err

    server.requests.clear()
    fma.download(tmp_path / "fma", base_url=server.url)
    assert server.requests == [] and "fma_small is complete." in capsys.readouterr().err


def test_metadata_and_audio_separately(server, tmp_path):
    fma.download(tmp_path, parts=["metadata"], base_url=server.url)
    assert not (tmp_path / "fma_small").exists() and (tmp_path / "fma_metadata").exists()
    fma.download(tmp_path, parts=["audio"], base_url=server.url, remove_archives=True)
    assert clips_in(tmp_path) == CLIPS
    assert [name for name, _ in server.requests] == ["fma_metadata.zip", "fma_small.zip"]
    assert sorted(os.listdir(tmp_path)) == [".download.lock", "fma_metadata", "fma_metadata.zip", "fma_small"]


def test_broken_connections_are_resumed(server, tmp_path):
    server.faults = ["break", "break", 500, "break at once", 503, "break"]
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS
    starts = [int(wanted[6:-1]) if wanted else 0 for wanted in ranges_of(server)]
    assert len(starts) == 7 and starts[0] == 0 and starts == sorted(starts)
    assert starts[1] > 60_000 and starts[2] > starts[1] and starts[6] > starts[5] == starts[2]


def test_a_server_without_ranges(server, tmp_path):
    server.ranges, server.faults = False, ["break", "break"]
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and len(ranges_of(server)) == 3


def test_a_server_that_sends_no_length(server, tmp_path):
    server.faults = ["no length"]
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS


def test_a_server_that_sends_no_length_and_breaks(server, tmp_path):
    server.faults = ["no length, cut", "no length, cut"]
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS
    starts = [int(wanted[6:-1]) if wanted else 0 for wanted in ranges_of(server)]
    assert starts == sorted(set(starts)) and len(starts) == 3


def test_a_server_without_ranges_and_without_lengths(server, tmp_path):
    server.ranges, server.faults = False, ["no length"] * 3
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS


def test_a_server_that_answers_in_slices(server, tmp_path):
    server.faults = ["break", "slice", "slice"]
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and len(ranges_of(server)) == 4


@pytest.mark.parametrize("ranges", [True, False])
def test_a_login_portal_does_not_destroy_received_bytes(server, tmp_path, ranges):
    server.faults, server.ranges = ["break", "portal"], ranges
    with pytest.raises(DownloadError, match=r"now sends a file that is a web page.* received before are kept in"):
        fma.download(tmp_path, base_url=server.url)
    kept = os.path.getsize(tmp_path / "fma_small.zip.part")
    assert kept > 60_000 and not (tmp_path / "fma_small.zip.part.new").exists()
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and ranges_of(server)[-1] == f"bytes={kept}-"


def test_an_invalid_address_is_not_tried_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(DownloadError, match=r"cannot be downloaded: .*scheme"):
        fma.download(tmp_path, base_url="mirror.example/fma")


def test_deleted_clips_are_restored(server, tmp_path):
    fma.download(tmp_path, base_url=server.url)
    for name in list(CLIPS)[:3]:
        os.remove(tmp_path / "fma_small" / name)
    (tmp_path / "fma_small" / "000" / ".tmp-0123abcd-000001.mp3").write_bytes(b"of a killed process")
    server.requests.clear()
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and server.requests == []  # from the archive


def test_received_bytes_are_kept_if_the_server_stays_down(server, tmp_path):
    server.faults = ["break", *[500] * 6]
    with pytest.raises(DownloadError, match=r"after 6 tries: the server reports 500 .*kept in .*fma_small\.zip\.part"):
        fma.download(tmp_path, base_url=server.url)
    kept = os.path.getsize(tmp_path / "fma_small.zip.part")
    assert kept > 60_000
    server.requests.clear()
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and ranges_of(server) == [f"bytes={kept}-"]


def test_no_server(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="after 6 tries: no connection"):
        fma.download(tmp_path, base_url=server.url)


def test_404_is_not_tried_again(server, tmp_path):
    server.files.pop("fma_small.zip")
    with pytest.raises(DownloadError, match=r"/fma/fma_small\.zip cannot be downloaded: 404"):
        fma.download(tmp_path, base_url=server.url)
    assert len(ranges_of(server)) == 1


def test_a_wrong_checksum(server, tmp_path):
    server.faults = ["wrong"]
    with pytest.raises(DownloadError, match=r"damaged or another file: its sha1 is \w+ instead of"):
        fma.download(tmp_path, base_url=server.url)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("fma_small")]
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS


def test_the_start_of_another_file_is_downloaded_again(server, tmp_path):
    (tmp_path / "fma_small.zip.part").write_bytes(b"another version" * 1000)
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and ranges_of(server) == ["bytes=15000-", None]


@pytest.mark.parametrize("name", ["fma_small.zip", "fma_small.zip.part"])
def test_an_incomplete_zip_file_is_completed(server, tmp_path, name):
    """A browser leaves such files."""
    half = len(FILES["fma_small.zip"]) // 2
    (tmp_path / name).write_bytes(FILES["fma_small.zip"][:half])
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS and ranges_of(server) == [f"bytes={half}-"]


def test_a_login_portal_that_sends_a_page(server, tmp_path):
    server.files["fma_small.zip"] = b"<!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(DownloadError, match="is a web page, perhaps from a login portal or a proxy"):
        fma.download(tmp_path, base_url=server.url)
    with pytest.raises(DownloadError, match="is a web page"):
        (tmp_path / "page.zip").write_bytes(b"\n<html>no</html>")
        unpack(str(tmp_path / "page.zip"), str(tmp_path), "fma_small")


def test_unpacking_keeps_complete_files(tmp_path):
    path = tmp_path / "fma_small.zip"
    path.write_bytes(FILES["fma_small.zip"])
    first, second = list(CLIPS)[:2]
    (tmp_path / "fma_small" / "000").mkdir(parents=True)
    (tmp_path / "fma_small" / first).write_bytes(CLIPS[first])
    (tmp_path / "fma_small" / second).write_bytes(CLIPS[second][:100])  # of another tool that was interrupted
    before = os.stat(tmp_path / "fma_small" / first)
    unpack(str(path), str(tmp_path), "fma_small")
    assert clips_in(tmp_path) == CLIPS
    after = os.stat(tmp_path / "fma_small" / first)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_interrupted_unpacking(tmp_path, monkeypatch):
    path = tmp_path / "fma_small.zip"
    path.write_bytes(FILES["fma_small.zip"])
    copy, calls = module.shutil.copyfileobj, []

    def interrupt(source, target, length):
        calls.append(source.name)
        if len(calls) == 10:
            target.write(b"half of it")
            raise KeyboardInterrupt
        copy(source, target, length)

    monkeypatch.setattr(module.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(str(path), str(tmp_path), "fma_small")
    complete = clips_in(tmp_path)
    assert 0 < len(complete) < 40 and all(CLIPS[name] == content for name, content in complete.items())
    done = len(calls)
    unpack(str(path), str(tmp_path), "fma_small")
    assert clips_in(tmp_path) == CLIPS and len(calls) - done == 40 - len(complete)


def link():
    member = zipfile.ZipInfo("fma_small/000/000001.mp3")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    "member",
    [
        zipfile.ZipInfo("../evil.mp3"),
        zipfile.ZipInfo("fma_small/../../evil.mp3"),
        zipfile.ZipInfo("/evil.mp3"),
        zipfile.ZipInfo("fma_small//evil.mp3"),
        zipfile.ZipInfo("evil.mp3"),
        zipfile.ZipInfo("elsewhere/evil.mp3"),
        zipfile.ZipInfo("fma_small/..\\..\\evil.mp3"),
        link(),
    ],
    ids=lambda member: member.filename,
)
def test_members_outside_of_the_folder_are_refused_before_unpacking(tmp_path, member):
    path = tmp_path / "in" / "fma_small.zip"
    path.parent.mkdir()
    path.write_bytes(zipped({"000/000000.mp3": b"good", member: b"evil"}))
    with pytest.raises(DownloadError, match="Nothing was unpacked"):
        unpack(str(path), str(path.parent), "fma_small")
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "fma_small.zip"]


def test_damaged_members(tmp_path):
    content = bytearray(zipped(CLIPS, compression=zipfile.ZIP_STORED))
    content[content.index(CLIPS["001/000011.mp3"]) + 5000] ^= 255
    (tmp_path / "fma_small.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"damaged, or not a complete zip file \(Bad CRC-32 .*001/000011.mp3"):
        unpack(str(tmp_path / "fma_small.zip"), str(tmp_path), "fma_small")
    assert not (tmp_path / "fma_small" / "001" / "000011.mp3").exists()
    assert all(CLIPS[name] == content for name, content in clips_in(tmp_path).items())
    (tmp_path / "half.zip").write_bytes(FILES["fma_small.zip"][:50_000])
    with pytest.raises(DownloadError, match="not a complete zip file"):
        unpack(str(tmp_path / "half.zip"), str(tmp_path), "fma_small")


def test_encrypted_members(tmp_path):
    content = bytearray(zipped({"000/000001.mp3": b"x" * 100}, compression=zipfile.ZIP_STORED))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    (tmp_path / "fma_small.zip").write_bytes(content)
    with pytest.raises(DownloadError, match="encrypted"):
        unpack(str(tmp_path / "fma_small.zip"), str(tmp_path), "fma_small")


def test_too_little_disk_space(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 500_000}))
    with pytest.raises(OSError, match=r"Downloading and unpacking needs \d+ KiB in .*, but only 488 KiB are free"):
        fma.download(tmp_path, base_url=server.url)
    assert server.requests == []


def test_a_disk_that_fills_up(server, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match=r"The disk of .* is full. Downloaded and unpacked files are kept"):
        fma.download(tmp_path, base_url=server.url)
    assert (tmp_path / "fma_metadata.zip").is_file()


def test_another_part_than_the_requested_one_is_refused(server, tmp_path):
    server.faults = ["break", "another part"]
    with pytest.raises(DownloadError, match="sends another part of the file than the requested part"):
        fma.download(tmp_path, base_url=server.url)
    fma.download(tmp_path, base_url=server.url)
    assert clips_in(tmp_path) == CLIPS


def test_a_server_that_does_not_answer_in_time(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_TIMEOUT", 0.5)
    server.faults = ["silence"]
    fma.download(tmp_path, base_url=server.url)
    assert "fma_small.zip: no response in time. Trying again" in capsys.readouterr().err
    assert clips_in(tmp_path) == CLIPS


def test_without_bz2_nothing_is_downloaded(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bz2", None)
    with pytest.raises(DownloadError, match="built without bz2"):
        fma.download(tmp_path, base_url=server.url)
    assert server.requests == []


def test_a_member_that_is_shorter_than_its_header_states(tmp_path):
    content = bytearray(zipped({"000/000001.mp3": b"x" * 100}, compression=zipfile.ZIP_DEFLATED))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        content[content.index(signature) + offset] = 200
    (tmp_path / "fma_small.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"damaged|shorter"):
        unpack(str(tmp_path / "fma_small.zip"), str(tmp_path), "fma_small")
    assert not list((tmp_path / "fma_small").rglob("*.mp3"))


def test_a_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "fma").write_text("in the way")
    with pytest.raises(OSError, match="fma"):
        fma.download(tmp_path / "fma", base_url=server.url)


def test_simultaneous_calls_download_once(server, tmp_path):
    threads = [
        threading.Thread(target=fma.download, args=(tmp_path,), kwargs={"base_url": server.url}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clips_in(tmp_path) == CLIPS and len(server.requests) == 2


def test_files_that_the_user_unpacked_are_not_downloaded(server, tmp_path):
    for name, content in CLIPS.items():
        path = tmp_path / "fma_small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    fma.download(tmp_path, parts=["audio"], base_url=server.url)
    assert server.requests == []


def test_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match="`subset` must be one of"):
        fma.download(tmp_path, subset="metadata")
    with pytest.raises(ValueError, match="`parts` must contain only"):
        fma.download(tmp_path, parts=["covers"])


def test_checksums_of_the_published_archives():
    assert module.ARCHIVES["small"].bytes == 7_679_594_875
    assert {key: archive.sha1[:8] for key, archive in module.ARCHIVES.items()} == {
        "metadata": "f0df49ff",
        "small": "ade154f7",
        "medium": "c67b69ea",
        "large": "497109f4",
        "full": "0f0ace23",
    }


def test_a_full_disk(server, small_disk):
    disk, enlarge = small_disk
    with pytest.raises(OSError, match="needs"):
        fma.download(disk, base_url=server.url)
    module.ARCHIVES["small"] = Archive("fma_small", 1000, module.ARCHIVES["small"].sha1, 40)  # the estimate is too low
    with pytest.raises(OSError, match=r"needs|is full"):
        fma.download(disk, base_url=server.url)
    enlarge("2m")
    server.requests.clear()
    fma.download(disk, base_url=server.url)
    assert clips_in(disk) == CLIPS and "fma_metadata.zip" not in dict(server.requests)
