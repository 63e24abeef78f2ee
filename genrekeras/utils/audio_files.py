"""Find audio files in folders."""

import os
import warnings
from collections.abc import Iterable

from genrekeras import audio
from genrekeras.utils.io import StrPath, files_below


def find_files(paths: StrPath | Iterable[StrPath]) -> list[str]:
    """Return the audio files in folders and their subfolders, sorted by folder and name.

    Subfolders and links that cannot be opened are skipped. Each folder in `paths` causes at most one warning about
    skipped subfolders and links.

    Args:
        paths: files and folders. A path that is not a folder is returned unchanged, even if it does not exist.

    Raises:
        ValueError: a folder contains no audio files, or `paths` is empty.
        OSError: no audio file was found, because a folder cannot be opened.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    files, skipped = [], []
    for path in (os.fspath(path) for path in paths):
        if not os.path.isdir(path):
            files.append(path)
            continue
        names, unreadable = files_below(path)
        audio_names = [name for name in names if os.path.splitext(name)[1].lower() in audio.EXTENSIONS]
        if unreadable:
            warnings.warn(
                f"{path}: {len(unreadable)} folders or links cannot be opened (the first: {unreadable[0]}). They are "
                "skipped.",
                stacklevel=2,
            )
        elif not audio_names:
            raise ValueError(f"{path} contains no audio files ({len(names)} other files).")
        files += [os.path.join(path, *name.split("/")) for name in audio_names]
        skipped += unreadable
    if skipped and not files:
        raise OSError(f"There is no audio file, because a folder or link cannot be opened: {skipped[0]}")
    if not files:
        raise ValueError(f"`paths` must contain at least one file or folder. Received: paths={paths!r}")
    return files
