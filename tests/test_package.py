"""The package as a whole: which way imports run, what an import brings with it, which backend is chosen."""

import ast
import configparser
import doctest
import importlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import keras
import pytest
from genrekeras import export
from genrekeras.cli import common, models
from genrekeras.datasets import fma, splits
from genrekeras.models import presets
from genrekeras.utils import progress
from genrekeras.utils.process import skip_tensorflow

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "genrekeras"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Each module may import those before it: the way of the data.
ORDER = (
    "version",
    "genres",
    "progress",
    "files",
    "journal",
    "programs",
    "audio.mpeg",
    "audio.decoders",
    "audio.waveform",
    "audio",
    "layers.base",
    "layers.spectrogram",
    "layers.augmentation",
    "layers",
    "data_format",
    "efficientnet_lite",
    "statistics",
    "mel_networks",
    "backbones",
    "folding",
    "ood_score",
    "presets",
    "inference",
    "embeddings",
    "classifier",
    "ensemble",
    "loading",
    "callbacks",
    "datasets.quiet",
    "datasets.splits",
    "datasets.batches",
    "datasets.store",
    "datasets.collection",
    "datasets.folder",
    "datasets.fma.archives",
    "datasets.fma.tracks",
    "datasets.fma.inspection",
    "datasets.fma.builder",
    "datasets.fma.load",
    "datasets.fma",
    "datasets.mini",
    "datasets.frames",
    "datasets",
    "identity",
    "training",
    "features",
    "kernel_machine",
    "report.pictures",
    "report.listening",
    "evaluation",
    "comparison",
    "report.card",
    "report.page",
    "report",
    "export",
    "tags",
    "cli.common",
    "cli.files",
    "cli.models",
    "cli.runs",
    "cli.fma",
    "cli",
    "__main__",
)


def name_of(path):
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__") if name != "__init__" else ""


def imports_of(tree):
    """(module, names) of each import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, tuple(alias.name for alias in node.names)


def test_imports_run_one_way():
    checked = 0
    for path in MODULES:
        name = name_of(path)
        if not name:
            continue  # the top imports whom it likes
        assert name in ORDER, f"{name} has no place in the way of the data"
        for module, names in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            if not module.startswith("genrekeras"):
                continue
            inner = module.removeprefix("genrekeras").lstrip(".")
            modules = [f"{inner}.{n}".lstrip(".") for n in names]
            for target in {m if m in ORDER or inner not in ORDER else inner for m in modules or [inner]} - {""}:
                checked += 1
                assert ORDER.index(target) < ORDER.index(name), f"{name} imports {target}, against the way of the data"
    assert checked > 20


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_imports_no_backend_and_nothing_private_of_keras(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # a function that exists for one backend says so in its name, and may import it
        if isinstance(node, ast.FunctionDef):
            node.body = [x for x in node.body if not (isinstance(x, ast.Import) and x.names[0].name in node.name)]
    for module, _ in imports_of(tree):
        assert module.split(".")[0] not in ("torch", "jax", "tensorflow"), module
        assert not module.startswith("keras." + "src"), module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_does_not_print(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def python(script, unset=(), **environment):
    """The last line that a script printed, as JSON, in a process of its own."""
    unset = {"KERAS_BACKEND", "KERAS_HOME", *unset}
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# What an import brought and chose. Each process costs seconds, so that one serves several tests.
SEEN = """
import json, os, sys
import genrekeras as gk, keras, numpy as np
seen = {"backend": keras.backend.backend(), "spin": os.environ.get("GOMP_SPINCOUNT")}
seen["heavy"] = [name for name in HEAVY if name in sys.modules]
seen["registered"] = keras.saving.get_registered_object("genrekeras>GenreClassifier") is not None
seen["lazy"] = [gk.GENRES[0], gk.audio.__name__, "soundfile" in sys.modules]
if sys.platform == "linux":
    x = np.ones(300_000_000, "uint8")
    del x
    seen["MB"] = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1000
print(json.dumps(seen))
"""
HEAVY = ("tensorflow_datasets", "librosa", "soundfile", "soxr", "wandb", "sklearn", "grain", "jax", "tensorflow")
SEEN = SEEN.replace("HEAVY", str(HEAVY))
# The names in README and docstrings that cannot be had after `import genrekeras as gk` alone.
UNKNOWN = """
def known(name):
    try:
        return functools.reduce(getattr, name.split("."), gk) is not None
    except AttributeError:
        return False

import functools
print(json.dumps({**seen, "unknown": [name for name in NAMES if not known(name)]}))
"""
CHOICES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", *(name for name in os.environ if name.startswith("MALLOC_"))}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def unchosen(home):
    """Nobody chose anything. Keras writes its config file then, which says tensorflow."""
    return python(SEEN, CHOICES, KERAS_HOME=str(home))


@pytest.fixture(scope="module")
def again(home, unchosen):
    """The second time, where TensorFlow is not installed; idle threads are to spin."""
    assert json.loads((home / "keras.json").read_text())["backend"] == "tensorflow"
    script = "import sys; sys.modules['tensorflow'] = None; " + SEEN
    return python(script, CHOICES, KERAS_HOME=str(home), OMP_WAIT_POLICY="ACTIVE")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """With a config file that cannot be read, a time to spin, and a way to keep memory."""
    home = tmp_path_factory.mktemp("chosen")
    (home / "keras.json").write_text("{not json")
    script = SEEN + UNKNOWN.replace("NAMES", str(named_in_docs()))
    return python(script, CHOICES, KERAS_HOME=str(home), GOMP_SPINCOUNT="7", MALLOC_ARENA_MAX="4")


def named_in_docs():
    """The names below `gk` or `genrekeras` in README and docstrings, without these."""
    texts = [(ROOT / "README.md").read_text(encoding="utf-8")]
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts += [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    names = re.findall(r"(?<![\w./])(?:gk|genrekeras)\.([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)", "\n".join(texts))
    return sorted(set(names))


def test_importing_is_light(home, unchosen, again):
    by_keras = f"import json, sys, keras; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert unchosen["heavy"] == python(by_keras, KERAS_BACKEND="torch", KERAS_HOME=str(home))
    assert "soundfile" not in unchosen["heavy"] and "tensorflow_datasets" not in unchosen["heavy"]
    assert unchosen["lazy"] == again["lazy"] == ["Hip-Hop", "genrekeras.audio", True]
    assert unchosen["registered"]  # `keras.saving.load_model` finds the class


def test_names_in_readme_and_docstrings_are_there(chosen):
    assert {"GenreClassifier", "datasets.SpectrogramSplit", "comparison.compare"} <= set(named_in_docs())
    assert chosen["unknown"] == []


def test_what_is_imported_is_declared():
    """By the package, the tests and the experiments; as a requirement or in an extra."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = {
        re.split(r"[^\w.-]", line.strip())[0].lower().replace("-", "_")
        for text in (config["options"]["install_requires"], *config["options.extras_require"].values())
        for line in text.splitlines()
        if line.strip() and not line.strip().startswith("#")
    }
    distributions = importlib.metadata.packages_distributions()
    here = {path.stem for folder in ("tests", "experiments") for path in (ROOT / folder).glob("*.py")}
    for path in (*MODULES, *(ROOT / "tests").glob("*.py"), *(ROOT / "experiments").glob("*.py")):
        for module, _ in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in here or top == "genrekeras" or top not in distributions:
                continue
            names = {name.lower().replace("-", "_") for name in distributions[top]}
            assert names & declared, f"{path.name} imports {module}, of {names}"


def test_torch_where_nobody_chose(unchosen, again, chosen):
    assert unchosen["backend"] == again["backend"] == chosen["backend"] == "torch"


def test_a_choice_is_kept(tmp_path):
    pytest.importorskip("jax", reason="jax is not installed")
    backend = "import json, genrekeras, keras; print(json.dumps(keras.backend.backend()))"
    assert python(backend, KERAS_HOME=str(tmp_path / "a"), KERAS_BACKEND="jax") == "jax"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "keras.json").write_text('{"backend": "jax"}')
    assert python(backend, KERAS_HOME=str(tmp_path / "b")) == "jax"
    imported = "import os; os.environ['KERAS_BACKEND'] = 'jax'; import keras; del os.environ['KERAS_BACKEND']; "
    assert python(imported + backend, KERAS_HOME=str(tmp_path / "a")) == "jax"


def test_idle_threads_sleep_unless_someone_chose(unchosen, again, chosen):
    assert (unchosen["spin"], again["spin"], chosen["spin"]) == ("1000", None, "7")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_unless_someone_chose(unchosen, chosen):
    assert unchosen["MB"] - chosen["MB"] > 200


def test_programs_leave_tensorflow_out_on_torch(monkeypatch, thorough):
    """Keras imports it to save a layer; in a program of ours it does not, and others may."""
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    script = (
        "import json, sys, genrekeras, keras; from genrekeras.utils.process import skip_tensorflow; {}; "
        "keras.saving.serialize_keras_object(keras.layers.Dense(1)); keras.utils.set_random_seed(0); "
        "keras.layers.Rescaling(1.0)(keras.ops.ones((1, 2))); print(json.dumps('tensorflow' in sys.modules)); {}"
    )
    if thorough:  # Keras still does
        assert python(script.format("pass", ""), KERAS_BACKEND="torch")
    assert not python(script.format("skip_tensorflow()", "import tensorflow"), KERAS_BACKEND="torch")
    monkeypatch.setitem(sys.modules, "tensorflow", "imported by others")
    skip_tensorflow()
    assert sys.modules["tensorflow"] == "imported by others"
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(keras.saving, "serialize_keras_object", lambda what: pytest.fail("asked"))
    skip_tensorflow()


def test_the_command_line_leaves_tensorflow_out():
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    script = (
        "import json, sys; sys.argv = ['genrekeras', 'info']; from genrekeras.cli import main; "
        "main(standalone_mode=False); print(json.dumps('tensorflow' in sys.modules))"
    )
    assert not python(script, KERAS_BACKEND="torch")


SLOW = ("keras", "torch", "tensorflow", "jax", "pandas", "tensorflow_datasets", "librosa", "matplotlib", "soundfile")
CALLS = [
    ["--help"],
    ["--version"],
    ["spoon"],
    *([*command.split(), "--help"] for command in ("predict", "timeline", "info", "evaluate", "export", "fma build")),
    ["predict"],
    ["predict", "x.mp3", "--spoon"],
    ["predict", "x.mp3", "--csv", "--json"],
    ["predict", "x.mp3", "-o", "x.txt"],
    ["predict", "x.mp3", "-m", "nowhere.keras"],
    ["timeline", "x.mp3", "-o", "x.txt"],
    ["spectrogram", "x.mp3", "-o", "x.txt"],
    ["export", "--to", "onnx", "-o", "x.txt"],
    ["calibrate", ".", "-o", "x.txt"],
]


def test_help_and_wrong_calls_import_nothing_slow():
    """Which would take seconds; wrong endings are refused with the name of the option."""
    script = (
        "import json, sys; sys.argv = ['/usr/bin/genrekeras']; from click.testing import CliRunner; "
        "from genrekeras.cli import main; "
        f"done = [CliRunner().invoke(main, call) for call in {CALLS}]; "
        f"slow = [name for name in {SLOW} if name in sys.modules]; "
        "import genrekeras as gk; classes = gk.GenreClassifier.__name__, gk.layers.__name__, gk.GENRES[0]; "
        "print(json.dumps([slow, [d.exit_code for d in done], [d.output for d in done], classes]))"
    )
    slow, codes, outputs, classes = python(script)
    assert slow == []
    assert codes == [2 * (call[-1] not in ("--help", "--version")) for call in CALLS]
    for call, output in zip(CALLS, outputs, strict=True):
        if call[-1] == "x.txt":
            assert "Invalid value for '-o' / '--output'" in output and "must end in ." in output
    assert classes == ["GenreClassifier", "genrekeras.layers", "Hip-Hop"]  # when they are used


def test_the_module_as_a_program_imports_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "genrekeras", "--help"], capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "genrekeras.cli" in imported and not imported & set(SLOW)


def test_choices_of_the_command_line():
    """They are written out there, so that help need not import what defines them."""
    assert common.SUBSETS == tuple(fma.SUBSETS) and common.PROTOCOLS == splits.PROTOCOLS
    assert common.DEFAULT_MODEL in presets.PRESETS
    assert models.EXPORTS == {name: form.ending for name, form in export.FORMATS.items()}
    assert models.QUANTIZE == export.FORMATS["litert"].quantize


@pytest.mark.parametrize("closed", [None, "closed"])
def test_messages_without_standard_error(monkeypatch, closed):
    """As in a service, or under pythonw."""
    stream = None if closed is None else io.StringIO()
    if stream:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    progress.print_message("nobody reads this")
    with progress.bar(2, "Working", "file") as bar:
        bar.update()


def test_control_characters_are_escaped(capsys):
    assert progress.printable("a\x1b[31m\r\n\x9b\u2028 é音 \udce9\ud800") == r"a\x1b[31m\r\n\x9b\u2028 é音 \xe9\ud800"
    progress.print_message("two\nlines\x07")
    assert capsys.readouterr().err == "two\nlines\\x07\n"


@pytest.mark.parametrize("module", ["genrekeras.layers.spectrogram", "genrekeras.models.genre_classifier"])
def test_the_examples_of_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted >= 2 and result.failed == 0


def test_an_unknown_name():
    import genrekeras

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        genrekeras.nonsense  # noqa: B018
    assert {"audio", "datasets", "evaluation", "layers", "GENRES"} <= set(dir(genrekeras))


def test_lint():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
