"""FMA's archives: downloaded piece by piece, verified, unpacked; each step goes on where it was broken off."""

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

import requests
from genrekeras.utils.io import TEMPORARY, DiskSpaceError, atomic_write, check_disk_space, process_lock, size
from genrekeras.utils.progress import bar, print_message

BASE_URL = "https://os.unil.cloud.switch.ch/fma"
_MIB, _GIB = 1 << 20, 1 << 30
_BLOCK = 1 << 20
_PIECE = 1 << 16  # what a connection that breaks may take along
_TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces of an answer
_TRIES, _PAUSE = 6, 1.0  # tries in a row that bring nothing; seconds before the second one, doubled each time
_WEB_PAGE = "a web page, as a portal or proxy may send"
# Members of an archive may unpack to this many times its size (metadata are tables; clips do not shrink).
_UNPACKED = {"metadata": 4.0}


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive of FMA.

    Attributes:
        name: str, of the file without `.zip` and of the folder in it.
        bytes: int, its size; of all but fma_small to two or three digits.
        sha1: str.
        clips: int, how many it holds; 0 for the metadata.
    """

    name: str
    bytes: int
    sha1: str
    clips: int = 0

    @property
    def file(self):
        return f"{self.name}.zip"


ARCHIVES = {
    "metadata": Archive("fma_metadata", 342 * _MIB, "f0df49ffe5f2a6008d7dc83c6915b31835dfe733"),
    "small": Archive("fma_small", 7_679_594_875, "ade154f733639d52e35e32f5593efe5be76c6d70", 8_000),
    "medium": Archive("fma_medium", 22 * _GIB, "c67b69ea232021025fca9231fc1c7c1a063ab50b", 25_000),
    "large": Archive("fma_large", 93 * _GIB, "497109f4dd721066b5ce5e5f250ec604dc78939e", 106_574),
    "full": Archive("fma_full", 879 * _GIB, "0f0ace23fbe9ba30ecb7e95f763e435ea802b8ab", 106_574),
}


class DownloadError(OSError):
    """An archive that cannot be had, or is not what it should be. What was downloaded and unpacked is kept."""


def download(data_dir, subset="small", parts=("metadata", "audio"), base_url=BASE_URL, remove_archives=False):
    """Download FMA's metadata and clips, verify and unpack them.

    May be called again after any break: a download goes on at the byte where it stopped, unpacking at the file, and
    what is whole is left alone. Says first how much room it needs.

    Args:
        data_dir: str or path-like, the folder that will hold `fma_metadata/` and `fma_small/`.
        subset: `"small"` (7.2 GiB), `"medium"` (22 GiB), `"large"` (93 GiB) or `"full"` (879 GiB).
        parts: of `"metadata"` (342 MiB) and `"audio"`, which are wanted.
        base_url: str, where the archives lie.
        remove_archives: bool, remove each archive when all of it is unpacked.

    Raises:
        DownloadError: the server cannot be reached or has not the file; the file is not the one whose checksum is
            known; it is no whole zip file, or a member of it is damaged or would be written outside of the folder.
        OSError: too little room (`DiskSpaceError`), or `data_dir` cannot be written.
        ValueError: an unknown subset or part.
    """
    if subset not in ARCHIVES or subset == "metadata":
        raise ValueError(f"`subset` must be one of {tuple(ARCHIVES)[1:]}. Received: subset={subset!r}")
    if not parts or not set(parts) <= {"metadata", "audio"}:
        raise ValueError(f'`parts` must be of "metadata" and "audio". Received: parts={parts!r}')
    try:
        import bz2  # noqa: F401 - before hours of download
    except ImportError as error:
        raise DownloadError("This Python was built without bz2, and FMA's archives cannot be unpacked.") from error
    data_dir = os.fspath(data_dir)
    wanted = [key for key in ("metadata", subset) if ("metadata" if key == "metadata" else "audio") in parts]
    with process_lock(data_dir, "download"), _full_disk_named(data_dir):
        todo = [key for key in wanted if not _is_unpacked(data_dir, ARCHIVES[key])]
        for key in wanted:
            if key not in todo:
                print_message(f"{os.path.join(data_dir, ARCHIVES[key].name)} is there, whole.")
        room = sum(_room(data_dir, key) for key in todo)
        if todo:
            print_message(
                f"To do: {', '.join(ARCHIVES[key].file for key in todo)}. This needs about {size(room)} of disk."
            )
            check_disk_space(data_dir, room, "Downloading and unpacking")
        for key in todo:
            archive = ARCHIVES[key]
            path = os.path.join(data_dir, archive.file)
            fetch(f"{base_url.rstrip('/')}/{archive.file}", path, archive.sha1, archive.bytes)
            _sweep(data_dir, archive)
            unpack(path, data_dir, archive.name)
            with atomic_write(_mark(data_dir, archive)) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(f"{archive.sha1} {sum(1 for _ in _unpacked(data_dir, archive))}\n")
            if remove_archives:
                os.remove(path)


def fetch(url, path, sha1, about=None):
    """Download a file, by way of `path` + ".part", and verify it.

    Args:
        url: str.
        path: str, where the whole file goes. One that is there already is verified only; if it is another one, it is
            taken for the beginning.
        sha1: str, the checksum that it must have.
        about: int, its size in bytes, where the server does not tell it.

    Raises:
        DownloadError: the server cannot be reached or has not the file, or the file is another one.
    """
    part = f"{path}.part"
    if os.path.exists(path):
        found = _sha1(path)
        if found == sha1:
            return
        print_message(
            f"{path} is not whole, or not the right file (its sha1 is {found}): taken for the beginning of it."
        )
        if not os.path.exists(part) or os.path.getsize(part) < os.path.getsize(path):
            os.replace(path, part)
    resumed = os.path.exists(part)
    _receive(url, part, about)
    found = _sha1(part)
    if found != sha1 and resumed:
        print_message(f"{part} has the sha1 {found}, not {sha1}: its beginning was of another file. Downloading anew.")
        os.remove(part)
        _receive(url, part, about)
        found = _sha1(part)
    if found != sha1:
        what = _WEB_PAGE if _is_web_page(part) else "another file, or damaged"
        os.remove(part)
        raise DownloadError(f"{url} is {what}: its sha1 is {found}, and should be {sha1}. It was removed.")
    os.replace(part, path)


def unpack(path, folder, name):
    """Unpack a zip file into a folder; files that are there with their right size are left alone.

    Each file is written under another name first, so that one which is there is whole.

    Args:
        path: str, the zip file.
        folder: str.
        name: str, the folder within `folder` that all members must lie in.

    Raises:
        DownloadError: not a whole zip file, a damaged member, or one whose name leads elsewhere or that is a link.
        OSError: too little room, or a file cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            targets = {_target(path, member, folder, name): member for member in members}  # of two alike, the last
            todo = [(member, target) for target, member in targets.items() if not _has_size(target, member.file_size)]
            total = sum(member.file_size for member in targets.values())
            left = sum(member.file_size for member, _ in todo)
            if other := sum(os.path.exists(target) for _, target in todo):
                print_message(
                    f"{other} files have another size than in {os.path.basename(path)}, and are written anew."
                )
            check_disk_space(folder, left, f"Unpacking {os.path.basename(path)}")
            options = {"initial": total - left, "unit_scale": True, "unit_divisor": 1024}
            with bar(total, f"Unpacking {os.path.basename(path)}", "B", **options) as progress:
                _unpack_members(archive, todo, progress)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # the latter two: encrypted, unknown kind
        what = _WEB_PAGE if _is_web_page(path) else f"damaged, or not a whole zip file ({error})"
        raise DownloadError(f"{path} is {what}. Remove it and download it again.") from error


def _receive(url, part, about):
    """Append to `part` what is missing of a file; a broken connection is tried again."""
    failures = 0
    while True:
        start = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            if _receive_some(url, part, start, about):
                return
            reason = "the connection was closed early"
        except requests.HTTPError as error:
            if error.response.status_code < 500 and error.response.status_code != 429:
                raise DownloadError(f"{url} cannot be had: {error}") from error
            reason = f"the server says {error.response.status_code} {error.response.reason}"
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError, ValueError) as error:
            # Trying again would not help. A ValueError is that of an address that is none.
            raise DownloadError(f"{url} cannot be had: {error}") from error
        except requests.RequestException as error:
            reason = _reason(error)
        there = os.path.getsize(part) if os.path.exists(part) else 0
        failures = 0 if there > start else failures + 1
        if failures == _TRIES:
            raise DownloadError(
                f"{url} cannot be had, after {_TRIES} tries: {reason}. What has come ({size(there)}) is kept in "
                f"{part}; the same call goes on from there."
            )
        pause = _PAUSE * 2**failures / 2
        print_message(f"{os.path.basename(url)}: {reason}. Trying again in {pause:g} s, from {size(there)} on.")
        time.sleep(pause)


def _reason(error):
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)


def _receive_some(url, part, start, about):
    """One request for the bytes behind `start`. Returns whether the file is whole now."""
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing lies behind `start`
            return True
        answer.raise_for_status()
        length = int(answer.headers.get("Content-Length", -1))
        if answer.status_code == 206:
            told = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not told or int(told[1]) != start:
                raise DownloadError(f"{url}: the server sends another part than it was asked for.")
            total = int(told[2]) if told[2] != "*" else start + length
            _save(answer, part, start, total)
            return os.path.getsize(part) >= total
        if not start:
            _save(answer, part, 0, length if length >= 0 else about)
            # Without a length, the next request tells whether more follows.
            return 0 <= length <= os.path.getsize(part)
        return _receive_beside(url, answer, part, length, about)


def _receive_beside(url, answer, part, length, about):
    """All of a file, of a server that knows no ranges, beside what is there; the longer of the two stays."""
    other = f"{part}.new"
    before = os.path.getsize(part)
    try:
        _save(answer, other, 0, length if length >= 0 else about)
    finally:
        after = os.path.getsize(other) if os.path.exists(other) else 0
        shorter = after < before
        if shorter:
            what = _WEB_PAGE if after and _is_web_page(other) else "shorter than that"
            os.remove(other)
        else:
            os.replace(other, part)
    if shorter and after == length:
        raise DownloadError(
            f"{size(before)} of {url} have come and are kept in {part}; what the server sends now is {what}. "
            f"If that is right, remove {part}."
        )
    return after == length or (length < 0 and after == before)


def _save(answer, path, start, total):
    with open(path, "r+b" if start else "wb") as file:
        file.seek(start)
        options = {"initial": start, "unit_scale": True, "unit_divisor": 1024}
        with bar(total, f"Downloading {os.path.basename(answer.url)}", "B", **options) as progress:
            for piece in answer.iter_content(_PIECE):
                file.write(piece)
                progress.update(len(piece))


def _sha1(path):
    digest = hashlib.sha1()
    options = {"unit_scale": True, "unit_divisor": 1024, "leave": False}
    with open(path, "rb") as file, bar(os.path.getsize(path), "Verifying", "B", **options) as progress:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def _target(path, member, folder, name):
    """Where a member goes; a name that leads out of its folder is refused before anything is written."""
    parts = member.filename.split("/")
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if parts[0] != name or len(parts) < 2 or {"", ".", ".."} & set(parts) or is_link or "\\" in member.filename:
        raise DownloadError(
            f"{path} holds {member.filename!r}, {'a link' if is_link else f'which is not a file in {name}/'}. "
            "It is not FMA's; nothing was unpacked."
        )
    return os.path.join(folder, *parts)


def _unpack_members(archive, todo, progress):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            waiting = {pool.submit(_unpack_member, archive, *pair): pair[0].file_size for pair in todo}
            for done in concurrent.futures.as_completed(waiting):
                done.result()
                progress.update(waiting[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _unpack_member(archive, member, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with atomic_write(target) as temporary:
        with archive.open(member) as source, open(temporary, "wb") as file:
            shutil.copyfileobj(source, file, _BLOCK)
        if not _has_size(temporary, member.file_size):
            raise zipfile.BadZipFile(f"{member.filename} is shorter than it should be")


def _has_size(path, count):
    return os.path.isfile(path) and os.path.getsize(path) == count


def _is_web_page(path):
    with open(path, "rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _mark(data_dir, archive):
    return os.path.join(data_dir, archive.name, ".unpacked")


def _is_unpacked(data_dir, archive):
    """Whether all is there: by us, or by other hands if neither archive nor part of it is left."""
    path = os.path.join(data_dir, archive.file)
    names = [os.path.basename(name) for name in _unpacked(data_dir, archive)]
    with contextlib.suppress(FileNotFoundError), open(_mark(data_dir, archive), encoding="utf-8") as file:
        sha1, count = file.read().split()
        return sha1 == archive.sha1 and len(names) >= int(count)
    if os.path.exists(path) or os.path.exists(f"{path}.part"):
        return False
    return sum(name.endswith(".mp3") for name in names) >= archive.clips if archive.clips else "tracks.csv" in names


def _unpacked(data_dir, archive):
    """The files of an archive that are there, whole."""
    for parent, _, names in os.walk(os.path.join(data_dir, archive.name)):
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def _sweep(data_dir, archive):
    """Remove what an unpacking that was killed has left."""
    for parent, _, names in os.walk(os.path.join(data_dir, archive.name)):
        for name in names:
            if name.startswith(TEMPORARY):
                os.remove(os.path.join(parent, name))


@contextlib.contextmanager
def _full_disk_named(data_dir):
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC or isinstance(error, DiskSpaceError):
            raise
        raise OSError(
            errno.ENOSPC, f"the disk of {data_dir} is full. What was downloaded and unpacked is kept"
        ) from error


def _room(data_dir, key):
    """Bytes that downloading and unpacking an archive will still take."""
    archive = ARCHIVES[key]
    path = os.path.join(data_dir, archive.file)
    there = max((os.path.getsize(name) for name in (path, f"{path}.part") if os.path.exists(name)), default=0)
    unpacked = sum(map(os.path.getsize, _unpacked(data_dir, archive)))
    wanted = archive.bytes * (1 + _UNPACKED.get(key, 1.0))
    return max(0, int(wanted) - there - unpacked)
