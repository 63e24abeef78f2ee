"""Imports between the folders of the package run one way, and importing the library changes nothing in the process."""

import ast
import os
import pathlib
import subprocess
import sys

import genrekeras
import pytest
from genrekeras.models import presets
from processes import python

PACKAGE = pathlib.Path(__file__).parents[1] / "genrekeras"
# A module imports only from its own folder, and from those above it in this list.
FOLDERS = (
    "version",
    "genres",
    "audio",
    "utils",
    "layers",
    "models",
    "callbacks",
    "tags",
    "datasets",
    "training",
    "visualization",
    "evaluation",
    "inference",
    "export",
    "reports",
    "runs",
    "library",
    "app",
    "cli",
    "__main__",
)
# The methods of models that users type, such as `predict_files`, call a function of a later folder.
EXCEPTIONS = {("models/track_classifier.py", "inference")}


def imports_of(path):
    """Yield the folders that a module imports, lazy imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "genrekeras" and rest:
                yield rest.split(".")[0]


def test_imports_run_one_way():
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        folder = place.split("/")[0].removesuffix(".py")
        if folder == "__init__":
            continue
        for target in imports_of(path):
            checked += 1
            allowed = FOLDERS.index(target) <= FOLDERS.index(folder) or (place, target) in EXCEPTIONS
            assert allowed, f"{place} imports {target}, which comes after {folder}"
    assert checked > 100


IMPORT_EVERYTHING = """
import importlib, json, logging, os, pkgutil, signal, socket, sys, threading, warnings

def snapshot(keras=None):
    seen = {
        "environment": dict(os.environ),
        "streams": [id(getattr(sys, name)) for name in ("stdin", "stdout", "stderr", "__stdout__", "__stderr__")],
        "descriptors": [os.path.realpath(f"/proc/self/fd/{number}") for number in range(3)],
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "timeout": socket.getdefaulttimeout(),
        "hidden": sorted(name for name, module in sys.modules.items() if module is None),
        "threads": threading.active_count(),
        "filters": len(warnings.filters),
        "log_level": logging.getLogger().level,
    }
    if keras:
        seen["keras"] = [
            keras.config.image_data_format(),
            keras.config.floatx(),
            keras.config.epsilon(),
            keras.config.dtype_policy().name,
            keras.config.is_interactive_logging_enabled(),
            keras.config.is_traceback_filtering_enabled(),
            keras.config.is_nnx_enabled(),
        ]
    return seen

# Packages that the library uses; what their own imports change is not the question here.
import keras
for name in NAMES:
    importlib.import_module(name)
before = snapshot(keras)
import genrekeras
for module in pkgutil.walk_packages(genrekeras.__path__, "genrekeras."):
    if module.name != "genrekeras.__main__":
        importlib.import_module(module.name)
after = snapshot(keras)
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""
USED = ("absl.logging", "grain", "h5py", "librosa", "matplotlib.figure", "pandas", "scipy.optimize", "sklearn.metrics")
USED += ("soundfile", "soxr", "tensorflow_datasets", "tqdm", "mutagen", "click", "jinja2", "filelock", "requests")


def test_importing_everything_changes_nothing_in_the_process(tmp_path):
    """Keras is imported before with the backend that the library would choose, so that nothing is left to set."""
    script = IMPORT_EVERYTHING.replace("NAMES", str(USED))
    assert python(script, KERAS_BACKEND="torch", KERAS_HOME=str(tmp_path)) == {}


IMPORT = """
import json, os, sys
before = dict(os.environ)
import genrekeras as gk
changed = {key: value for key, value in os.environ.items() if before.get(key) != value}
heavy = [name for name in ("keras", "torch", *HEAVY) if name in sys.modules]
import keras
print(json.dumps({
    "changed": {key: value for key, value in changed.items() if not key.startswith("TF2_BEHAVIOR")},
    "backend": keras.backend.backend(),
    "heavy": heavy,
    "lazy": [gk.GENRES[0], gk.audio.__name__, "soundfile" in sys.modules],
}))
"""
HEAVY = ("tensorflow_datasets", "librosa", "soundfile", "soxr", "wandb", "sklearn", "grain", "pandas", "matplotlib")
IMPORT = IMPORT.replace("HEAVY", str(HEAVY))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for the config file of Keras."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first_import(home):
    """The library is imported where no backend is chosen. Keras then writes a config file with "tensorflow"."""
    return python(IMPORT, KERAS_HOME=str(home))


def test_importing_sets_the_backend_only(first_import):
    assert first_import["backend"] == "torch" and first_import["changed"] == {"KERAS_BACKEND": "torch"}


def test_importing_is_light(first_import):
    assert first_import["heavy"] == []  # not even Keras
    assert first_import["lazy"] == ["Hip-Hop", "genrekeras.audio", True]


IN_A_THREAD = """
import genrekeras, threading
thread = threading.Thread(target=exec, args=["from keras import saving"])
thread.start()
thread.join()
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import genrekeras",
        "import keras, genrekeras",
        "from genrekeras.layers import MelSpectrogram",
        IN_A_THREAD,
    ],
    ids=["library first", "keras first", "module of the library", "in a thread"],
)
def test_keras_loads_models_after_an_import_of_the_library(imports):
    """The classes are registered, whichever module is imported first. The finder of genrekeras removes itself."""
    script = f"""{imports}
from keras.saving import load_model
import sys
sys.modules["tensorflow"] = None  # not needed, and its import takes seconds
load_model({presets.preset_file("musicnn_msd")!r})
print(sum("genrekeras" in type(finder).__module__ for finder in sys.meta_path))
"""
    assert python(script, KERAS_BACKEND="numpy") == 0  # the fastest import


def test_an_error_of_keras_is_raised(tmp_path):
    (tmp_path / "keras.py").write_text("raise OSError('libtorch is damaged')")
    script = f"""
import genrekeras, json, sys
sys.path.insert(0, {str(tmp_path)!r})
errors = []
for _ in range(2):
    try:
        import keras
    except OSError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""
    assert python(script) == ["libtorch is damaged"] * 2


@pytest.mark.parametrize(
    "chosen, config, expected",
    [
        (None, None, "torch"),
        ("", '{"backend": "tensorflow"}', "torch"),  # Keras writes this by itself
        (None, '{"backend": "jax"}', None),
        (None, "{not json", "torch"),
        (None, "[]", "torch"),
        ("jax", '{"backend": "tensorflow"}', "jax"),
    ],
)
def test_the_choice_of_the_backend(chosen, config, expected, tmp_path, monkeypatch):
    """`KERAS_BACKEND` after the choice; `None` leaves the choice to the config file."""
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if chosen is not None:
        monkeypatch.setenv("KERAS_BACKEND", chosen)
    if config is not None:
        (tmp_path / "keras.json").write_text(config)
    genrekeras._choose_backend()
    assert os.environ.get("KERAS_BACKEND") == expected


def test_the_backend_of_an_imported_keras_stays(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    genrekeras._choose_backend()
    assert "KERAS_BACKEND" not in os.environ


@pytest.mark.parametrize(
    "command, prefix",
    [
        (["-c", "import genrekeras, keras"], "ImportError: "),
        (["-c", "import genrekeras as gk; gk.load_model('missing.keras')"], "ImportError: "),
        (["-m", "genrekeras", "predict", "missing.mp3"], "Error: "),
    ],
)
def test_a_backend_that_computes_in_16_bits_is_refused(command, prefix):
    pytest.importorskip("openvino", reason="openvino is not installed")
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"{prefix}genrekeras does not support the Keras backend openvino")
    assert "KERAS_BACKEND" in lines[-1] and '"numpy"' in lines[-1]
    assert prefix != "Error: " or len(lines) == 1


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="nonsense"):
        genrekeras.nonsense  # noqa: B018
    assert {"audio", "datasets", "evaluation", "layers", "GENRES"} <= set(dir(genrekeras))
