"""Download, verify and unpack the archives of FMA.

If a step is interrupted, the next call resumes it.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Sequence
from typing import Literal

import requests
from genrekeras.utils.io import (
    TEMPORARY,
    DiskSpaceError,
    StrPath,
    atomic_write,
    check_disk_space,
    format_size,
    process_lock,
)
from genrekeras.utils.progress import bar, print_message

BASE_URL = "https://os.unil.cloud.switch.ch/fma"
_MIB, _GIB = 1 << 20, 1 << 30
_BLOCK = 1 << 20  # bytes
_CHUNK = 1 << 16  # bytes; if a connection breaks, at most this number of received bytes is lost
_TIMEOUT = (10, 60)  # maximum time to connect, and maximum time between two chunks of a response, in seconds
_MAX_FAILURES = 6  # maximum number of consecutive requests that return no new bytes
_PAUSE = 1.0  # seconds between the first two of these requests; each further pause is twice as long
_WEB_PAGE = "a web page, perhaps from a login portal or a proxy"
# Size of the unpacked files divided by the size of the archive. The archives of clips are not compressed (1.0).
_EXPANSION = {"metadata": 4.0}


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive of FMA.

    Attributes:
        name: name of the file without `.zip`, and name of the folder that the archive contains.
        bytes: size of the archive. It is exact for fma_small and rounded for the other archives.
        sha1: checksum of the archive, 40 hexadecimal digits.
        clips: number of clips, or 0 for the metadata.
    """

    name: str
    bytes: int
    sha1: str
    clips: int = 0

    @property
    def file(self) -> str:
        return f"{self.name}.zip"


ARCHIVES = {
    "metadata": Archive("fma_metadata", 342 * _MIB, "f0df49ffe5f2a6008d7dc83c6915b31835dfe733"),
    "small": Archive("fma_small", 7_679_594_875, "ade154f733639d52e35e32f5593efe5be76c6d70", 8_000),
    "medium": Archive("fma_medium", 22 * _GIB, "c67b69ea232021025fca9231fc1c7c1a063ab50b", 25_000),
    "large": Archive("fma_large", 93 * _GIB, "497109f4dd721066b5ce5e5f250ec604dc78939e", 106_574),
    "full": Archive("fma_full", 879 * _GIB, "0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab", 106_574),
}


class DownloadError(OSError):
    """Exception for an archive that cannot be downloaded or has the wrong content."""


def download(
    data_dir: StrPath,
    subset: Literal["small", "medium", "large", "full"] = "small",
    parts: Sequence[Literal["metadata", "audio"]] = ("metadata", "audio"),
    base_url: str = BASE_URL,
    remove_archives: bool = False,
) -> None:
    """Download, verify and unpack the metadata and clips of FMA.

    First, the required disk space is printed and checked. After an interruption, call this function again. It resumes a
    download at the next byte, and it resumes unpacking at the next file. Complete files are not changed.

    Args:
        data_dir: folder in which `fma_metadata/` and `fma_small/` are written.
        subset: `"small"` (7.2 GiB), `"medium"` (22 GiB), `"large"` (93 GiB) or `"full"` (879 GiB).
        parts: `"metadata"` (342 MiB), `"audio"` or both.
        base_url: address of the folder that contains the archives.
        remove_archives: whether an archive is removed after its files are unpacked.

    Raises:
        DownloadError: an archive cannot be downloaded, its checksum is wrong, it is not a complete zip file, or one of
            its files is damaged or would be written outside of its folder.
        OSError: the disk has too little free space (`DiskSpaceError`), or `data_dir` cannot be written.
        ValueError: the subset or a part is unknown.
    """
    if subset not in ARCHIVES or subset == "metadata":
        raise ValueError(f"`subset` must be one of {tuple(ARCHIVES)[1:]}. Received: subset={subset!r}")
    if not parts or not set(parts) <= {"metadata", "audio"}:
        raise ValueError(f'`parts` must contain only "metadata", "audio" or both. Received: parts={parts!r}')
    try:
        import bz2  # noqa: F401 - checked before the download, which may take hours
    except ImportError as error:
        raise DownloadError("This Python was built without bz2, which the archives of FMA need.") from error
    data_dir = os.fspath(data_dir)
    keys = [key for key in ("metadata", subset) if ("metadata" if key == "metadata" else "audio") in parts]
    with process_lock(data_dir, "download"), _full_disk_errors(data_dir):
        todo = [key for key in keys if not _is_unpacked(data_dir, ARCHIVES[key])]
        for key in keys:
            if key not in todo:
                print_message(f"{os.path.join(data_dir, ARCHIVES[key].name)} is complete.")
        required = sum(_required_bytes(data_dir, key) for key in todo)
        if todo:
            print_message(
                f"Downloading and unpacking {', '.join(ARCHIVES[key].file for key in todo)} needs about "
                f"{format_size(required)} of disk space."
            )
            check_disk_space(data_dir, required, "Downloading and unpacking")
        for key in todo:
            archive = ARCHIVES[key]
            path = os.path.join(data_dir, archive.file)
            fetch(f"{base_url.rstrip('/')}/{archive.file}", path, archive.sha1, archive.bytes)
            _remove_temporary_files(data_dir, archive)
            unpack(path, data_dir, archive.name)
            with atomic_write(_marker(data_dir, archive)) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(f"{archive.sha1} {sum(1 for _ in _unpacked_files(data_dir, archive))}\n")
            if remove_archives:
                os.remove(path)


def fetch(url: str, path: str, sha1: str, expected_bytes: int | None = None) -> None:
    """Download a file and verify its checksum.

    The name of the incomplete file ends with ".part".

    Args:
        url: address of the file.
        path: path of the complete file. An existing file with the correct checksum is kept. An existing file with
            another checksum is treated as an incomplete download.
        sha1: the expected checksum.
        expected_bytes: approximate size of the file. The progress bar uses it if the server sends no size.

    Raises:
        DownloadError: the file cannot be downloaded, or its checksum is wrong.
    """
    part = f"{path}.part"
    if os.path.exists(path):
        actual = _sha1(path)
        if actual == sha1:
            return
        print_message(f"{path} has the sha1 {actual} instead of {sha1}. Trying to complete the file.")
        if not os.path.exists(part) or os.path.getsize(part) < os.path.getsize(path):
            os.replace(path, part)
    resumed = os.path.exists(part)
    _receive(url, part, expected_bytes)
    actual = _sha1(part)
    if actual != sha1 and resumed:
        print_message(f"{part} has the sha1 {actual} instead of {sha1}. Downloading the file again from its start.")
        os.remove(part)
        _receive(url, part, expected_bytes)
        actual = _sha1(part)
    if actual != sha1:
        content = _WEB_PAGE if _is_web_page(part) else "damaged or another file"
        os.remove(part)
        raise DownloadError(
            f"{url} is {content}: its sha1 is {actual} instead of {sha1}. The downloaded file was removed."
        )
    os.replace(part, path)


def unpack(path: str, folder: str, name: str) -> None:
    """Unpack a zip file into a folder.

    Existing files of the correct size are kept. Each file is written completely or not at all.

    Args:
        path: path of the zip file.
        folder: folder in which the files are written.
        name: name of the only folder that the zip file may contain.

    Raises:
        DownloadError: the zip file is incomplete, a member is damaged, or a member is a link or not in the folder
            `name`.
        OSError: the disk has too little free space, or a file cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            # If several members have the same name, the last one is unpacked.
            targets = {_target(path, member, folder, name): member for member in members}
            todo = [(member, target) for target, member in targets.items() if not _has_size(target, member.file_size)]
            total = sum(member.file_size for member in targets.values())
            remaining = sum(member.file_size for member, _ in todo)
            if replaced := sum(os.path.exists(target) for _, target in todo):
                print_message(f"Replacing {replaced} files that have other sizes in {os.path.basename(path)}.")
            check_disk_space(folder, remaining, f"Unpacking {os.path.basename(path)}")
            options = {"initial": total - remaining, "unit_scale": True, "unit_divisor": 1024}
            with bar(total, f"Unpacking {os.path.basename(path)}", "B", **options) as progress:
                _unpack_members(archive, todo, progress)
    except (zipfile.BadZipFile, RuntimeError) as error:  # zipfile raises RuntimeError for encrypted files
        content = _WEB_PAGE if _is_web_page(path) else f"damaged, or not a complete zip file ({error})"
        raise DownloadError(f"{path} is {content}. Remove it and download it again.") from error


def _receive(url, part, expected_bytes):
    """Download the missing rest of a file and append it to the file `part`.

    If the connection breaks, the download is tried again after a pause.
    """
    failures = 0
    while True:
        start = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            if _request(url, part, start, expected_bytes):
                return
            reason = "the connection was closed early"
        except requests.HTTPError as error:
            if error.response.status_code < 500 and error.response.status_code != 429:
                raise DownloadError(f"{url} cannot be downloaded: {error}") from error
            reason = f"the server reports {error.response.status_code} {error.response.reason}"
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError, ValueError) as error:
            # These errors would occur again. A ValueError is raised for an invalid address.
            raise DownloadError(f"{url} cannot be downloaded: {error}") from error
        except requests.RequestException as error:
            reason = _reason(error)
        received = os.path.getsize(part) if os.path.exists(part) else 0
        failures = 0 if received > start else failures + 1
        if failures == _MAX_FAILURES:
            raise DownloadError(
                f"{url} cannot be downloaded after {_MAX_FAILURES} tries: {reason}. The first {format_size(received)} "
                f"are kept in {part}. Run the same command or call again to resume the download."
            )
        pause = _PAUSE * 2**failures / 2
        print_message(
            f"{os.path.basename(url)}: {reason}. Trying again in {pause:g} s. {format_size(received)} are complete."
        )
        time.sleep(pause)


def _reason(error):
    """Return the reason of a `requests.RequestException` as text."""
    if isinstance(error, requests.Timeout):
        return "no response in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)


def _request(url, part, start, expected_bytes):
    """Request the bytes of a file from the position `start` on, and save them. Return whether the file is complete."""
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # the file has no more bytes
            return True
        response.raise_for_status()
        length = int(response.headers.get("Content-Length", -1))
        if response.status_code == 206:
            match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not match or int(match[1]) != start:
                raise DownloadError(f"{url}: the server sends another part of the file than the requested part.")
            total = int(match[2]) if match[2] != "*" else start + length
            _save(response, part, start, total)
            return os.path.getsize(part) >= total
        if not start:
            _save(response, part, 0, length if length >= 0 else expected_bytes)
            # If the server sends no length, the next request shows whether the file is complete.
            return 0 <= length <= os.path.getsize(part)
        return _restart(url, response, part, length, expected_bytes)


def _restart(url, response, part, length, expected_bytes):
    """Download a file from its start, because the server does not support range requests.

    The new file is saved beside the incomplete file. Then the longer file is kept, and the other file is removed.
    Return whether the kept file is complete.
    """
    new = f"{part}.new"
    old_size = os.path.getsize(part)
    try:
        _save(response, new, 0, length if length >= 0 else expected_bytes)
    finally:
        new_size = os.path.getsize(new) if os.path.exists(new) else 0
        is_shorter = new_size < old_size
        if is_shorter:
            content = _WEB_PAGE if new_size and _is_web_page(new) else "shorter"
            os.remove(new)
        else:
            os.replace(new, part)
    if is_shorter and new_size == length:
        raise DownloadError(
            f"{url}: the server now sends a file that is {content}. The {format_size(old_size)} that were received "
            f"before are kept in {part}. If the file of the server is the right one, remove {part} and start the "
            "download again."
        )
    return new_size == length or (length < 0 and new_size == old_size)


def _save(response, path, start, total):
    """Write the content of a response to a file, and show a progress bar.

    Args:
        response: `requests.Response`.
        path: str.
        start: int, position in the file where the content is written.
        total: int, final size of the file in bytes, or `None` if it is unknown.
    """
    with open(path, "r+b" if start else "wb") as file:
        file.seek(start)
        options = {"initial": start, "unit_scale": True, "unit_divisor": 1024}
        with bar(total, f"Downloading {os.path.basename(response.url)}", "B", **options) as progress:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                progress.update(len(chunk))


def _sha1(path):
    digest = hashlib.sha1()
    options = {"unit_scale": True, "unit_divisor": 1024, "leave": False}
    with open(path, "rb") as file, bar(os.path.getsize(path), "Verifying", "B", **options) as progress:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def _target(path, member, folder, name):
    """Return the path to which a member of a zip file is unpacked.

    Raises:
        DownloadError: the member is a link, or not in the folder `name`.
    """
    parts = member.filename.split("/")
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if parts[0] != name or len(parts) < 2 or {"", ".", ".."} & set(parts) or is_link or "\\" in member.filename:
        raise DownloadError(
            f"{path} contains {member.filename!r}, which is {'a link' if is_link else f'not a file in {name}/'}. "
            f"Therefore, {path} is not an archive of FMA. Nothing was unpacked."
        )
    return os.path.join(folder, *parts)


def _unpack_members(archive, todo, progress):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            sizes = {pool.submit(_unpack_member, archive, *pair): pair[0].file_size for pair in todo}
            for future in concurrent.futures.as_completed(sizes):
                future.result()
                progress.update(sizes[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _unpack_member(archive, member, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with atomic_write(target) as temporary:
        with archive.open(member) as source, open(temporary, "wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
        if not _has_size(temporary, member.file_size):
            raise zipfile.BadZipFile(f"{member.filename} is shorter than its header states")


def _has_size(path, count):
    return os.path.isfile(path) and os.path.getsize(path) == count


def _is_web_page(path):
    with open(path, "rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _marker(data_dir, archive):
    """Return the path of the file that marks an archive as completely unpacked."""
    return os.path.join(data_dir, archive.name, ".unpacked")


def _is_unpacked(data_dir, archive):
    """Return whether an archive is completely unpacked.

    A marker file contains the checksum of the archive and the number of its files. If there is neither a marker file
    nor an archive, the user may have unpacked the archive. Then the files in the folder are counted.
    """
    path = os.path.join(data_dir, archive.file)
    names = [os.path.basename(name) for name in _unpacked_files(data_dir, archive)]
    with contextlib.suppress(FileNotFoundError), open(_marker(data_dir, archive), encoding="utf-8") as file:
        sha1, count = file.read().split()
        return sha1 == archive.sha1 and len(names) >= int(count)
    if os.path.exists(path) or os.path.exists(f"{path}.part"):
        return False
    return sum(name.endswith(".mp3") for name in names) >= archive.clips if archive.clips else "tracks.csv" in names


def _unpacked_files(data_dir, archive):
    """Yield the paths of the complete files of an archive."""
    for parent, _, names in os.walk(os.path.join(data_dir, archive.name)):
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def _remove_temporary_files(data_dir, archive):
    """Remove the temporary files of a process that was killed while it unpacked an archive."""
    for parent, _, names in os.walk(os.path.join(data_dir, archive.name)):
        for name in names:
            if name.startswith(TEMPORARY):
                os.remove(os.path.join(parent, name))


@contextlib.contextmanager
def _full_disk_errors(data_dir):
    """Context manager that adds the name of the folder to the exception for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or isinstance(error, DiskSpaceError):
            raise
        raise OSError(
            errno.ENOSPC, f"The disk of {data_dir} is full. Downloaded and unpacked files are kept."
        ) from error


def _required_bytes(data_dir, key):
    """Estimate the disk space in bytes that is still required to download and unpack an archive."""
    archive = ARCHIVES[key]
    path = os.path.join(data_dir, archive.file)
    received = max((os.path.getsize(name) for name in (path, f"{path}.part") if os.path.exists(name)), default=0)
    unpacked = sum(map(os.path.getsize, _unpacked_files(data_dir, archive)))
    total = archive.bytes * (1 + _EXPANSION.get(key, 1.0))
    return max(0, int(total) - received - unpacked)
