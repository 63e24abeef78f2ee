"""Process-wide settings for programs, such as the command line and the experiments.

The import of the library does not change these settings.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

from genrekeras.audio import decoders
from genrekeras.utils import io

_MIN_CACHE_SPACE = 100 << 20  # in bytes


def configure(keras: bool = True) -> None:
    """Apply all settings of this module. Call it before PyTorch is imported.

    Args:
        keras: whether Keras will be used. If it is false, Keras is not imported.
    """
    shorten_spinning()
    keep_freed_memory()
    hide_codec_messages()
    quiet_wandb()
    skip_openvino_telemetry()
    if keras:
        skip_tensorflow()
        cache_jax_compilation()


def shorten_spinning() -> None:
    """Set the environment variable GOMP_SPINCOUNT, so idle OpenMP threads of PyTorch soon sleep.

    By default, an idle thread keeps its core busy while it waits. Two processes on the same cores then slow each other
    down many times. PyTorch reads the variable when PyTorch is imported. Nothing changes if the environment already
    contains OMP_WAIT_POLICY or GOMP_SPINCOUNT.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def keep_freed_memory() -> None:
    """Make glibc keep up to 1 GiB of freed memory in one arena for all threads.

    PyTorch allocates the same large blocks in each step. If glibc returned the blocks to the system, the system would
    clear their pages in each step. By default, each thread has its own arena, and large blocks are not reused between
    arenas. In a test with arrays of 100 MB in a thread, separate arenas needed 9 GB and 40 times as long.

    Nothing changes if the environment contains a variable of glibc (MALLOC_...).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        trim_threshold, mmap_threshold, arena_max, size = -1, -3, -8, 1 << 30
        mallopt(trim_threshold, size)
        mallopt(mmap_threshold, size)
        mallopt(arena_max, 1)


def hide_codec_messages() -> None:
    """Discard the messages that libmpg123 writes to standard error while it decodes a file.

    libmpg123 writes a line for each irregularity in a file. The line does not contain the name of the file. libsndfile
    has no option to disable these messages.
    """
    if not isinstance(decoders.codec_context, _NullStderr):
        decoders.codec_context = _NullStderr()


def quiet_wandb() -> None:
    """Disable the messages and the error reports of W&B.

    Without a network connection, the error reports delay the exit of a program.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def skip_openvino_telemetry() -> None:
    """Keep OpenVINO from sending usage statistics, by making its import of the package `openvino_telemetry` fail.

    OpenVINO works without this package. Nothing changes if the package is already imported.
    """
    # The annotation of `sys.modules` leaves out that a value may be `None`, which makes an import fail.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def skip_tensorflow() -> None:
    """Keep Keras from importing TensorFlow when the backend is not TensorFlow.

    When Keras saves, loads or seeds an object, Keras imports TensorFlow to check whether the object belongs to
    TensorFlow. This function makes the import fail once, and Keras does not try again. Other code can still import
    TensorFlow. Nothing changes if TensorFlow is already imported.
    """
    import keras  # imported here because the import is slow

    if keras.backend.backend() != "tensorflow" and "tensorflow" not in sys.modules:
        # An import of TensorFlow now fails.
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            keras.saving.serialize_keras_object(keras.initializers.Zeros())
        finally:
            del sys.modules["tensorflow"]


def cache_jax_compilation() -> None:
    """Make JAX store compiled code in the folder `jax` of `genrekeras.utils.io.cache_dir()`, for the next start.

    JAX checks that an entry was compiled by this version of JAX for this processor. It skips damaged entries with a
    warning. If the folder cannot be written, or if less than 100 MiB are free, this function issues a warning, and JAX
    compiles at each start. Nothing changes if the backend is not JAX, or if JAX already has a folder, for example from
    the environment variable JAX_COMPILATION_CACHE_DIR.
    """
    import keras

    if keras.backend.backend() != "jax":
        return
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = os.path.join(io.cache_dir(), "jax")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # JAX executes the code in this folder.
        with tempfile.TemporaryFile(dir=folder):
            io.check_disk_space(folder, _MIN_CACHE_SPACE, "Compiled code")
    except OSError as error:
        warnings.warn(
            f"Compiled code of JAX cannot be stored in {folder}: {error}. Each start compiles again. "
            "Set GENREKERAS_CACHE to another folder.",
            stacklevel=2,
        )
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def is_first_process() -> bool:
    """Return whether this process writes files. Of several processes that train together, only the first one does."""
    import keras  # imported here because the import is slow

    distribution = keras.distribution.distribution()
    return distribution is None or distribution.data_shard_id == 0


@contextlib.contextmanager
def without_distribution() -> Iterator[None]:
    """Context manager in which Keras distributes no new variables. It is needed to save a model in one process only.

    Keras creates variables when it saves a model. If they are distributed, Keras waits for the other processes.
    """
    import keras  # imported here because the import is slow

    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


class _NullStderr:
    """Context manager that discards all text that C code writes to standard error.

    The text that Python code writes is kept. Several threads may use the context at the same time.
    """

    def __init__(self):
        self._lock, self._users, self._stream = threading.Lock(), 0, None
        name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
        if name:
            library = ctypes.CDLL(None)
            library.fopen.restype, library.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
            with contextlib.suppress(ValueError):  # the C library has no stream of this name
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
