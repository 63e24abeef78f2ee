"""Process-wide settings for programs, such as the command line and the experiments.

Importing the library changes none of these settings.
"""

import contextlib
import ctypes
import os
import sys
import threading

from genrekeras.audio import decoders


def configure():
    """Apply all settings of this module. Call it before PyTorch is imported."""
    shorten_spinning()
    keep_freed_memory()
    hide_codec_messages()
    quiet_wandb()
    skip_tensorflow()


def shorten_spinning():
    """Let idle OpenMP threads of PyTorch sleep early instead of spinning.

    If two processes spin on the same cores, they mostly wait for each other, and each is many times slower. PyTorch
    reads the environment variable when it is imported. Nothing changes if the environment already sets OMP_WAIT_POLICY
    or GOMP_SPINCOUNT.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def keep_freed_memory():
    """Let glibc keep up to 1 GiB of freed memory, in one arena for all threads.

    PyTorch allocates the same large blocks in each step; otherwise the system would clear their pages each time. A
    separate arena for each thread cannot reuse large blocks: arrays of 100 MB in a thread took 9 GB, and 40 times as
    long. Nothing changes if the environment sets a variable of glibc (MALLOC_...).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        trim_threshold, mmap_threshold, arena_max, size = -1, -3, -8, 1 << 30
        mallopt(trim_threshold, size)
        mallopt(mmap_threshold, size)
        mallopt(arena_max, 1)


def hide_codec_messages():
    """Discard messages that libmpg123 writes to standard error while a file is decoded.

    It writes a line for each irregularity of a file, without the name of the file, and libsndfile has no option to
    disable this.
    """
    if not isinstance(decoders.codec_context, _NullStderr):
        decoders.codec_context = _NullStderr()


def quiet_wandb():
    """Disable messages of W&B, and its error reports, which delay the exit of a program without a connection."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def skip_tensorflow():
    """Keep Keras from importing TensorFlow when the backend is PyTorch.

    Keras imports TensorFlow to check whether an object that it saves, loads or seeds is a TensorFlow object. It caches
    the failed import; other code can import TensorFlow afterwards. Nothing changes if TensorFlow is already imported.
    """
    import keras  # slow, so not at the top

    if keras.backend.backend() == "torch" and "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # an import of TensorFlow now fails
        try:
            keras.saving.serialize_keras_object(keras.initializers.Zeros())
        finally:
            del sys.modules["tensorflow"]


class _NullStderr:
    """Context that discards what C code writes to standard error, and keeps what Python writes.

    Several threads may be inside the context at the same time.
    """

    def __init__(self):
        self._lock, self._users, self._stream = threading.Lock(), 0, None
        name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
        if name:
            library = ctypes.CDLL(None)
            library.fopen.restype, library.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
            with contextlib.suppress(ValueError):  # the C library names the stream differently
                self._stream = ctypes.c_void_p.in_dll(library, name)
                self._stderr, self._null = self._stream.value, library.fopen(os.devnull.encode(), b"w")

    def __enter__(self):
        with self._lock:
            self._users += 1
            self._redirect()

    def __exit__(self, *error):
        with self._lock:
            self._users -= 1
            self._redirect()

    def _redirect(self):
        if self._stream is not None and self._null:
            self._stream.value = self._null if self._users else self._stderr
