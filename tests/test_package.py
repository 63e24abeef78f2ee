"""Code style, dependencies, examples in docstrings, and the start of the command line."""

import ast
import configparser
import doctest
import functools
import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import genrekeras as gk
import pytest
from genrekeras import cli, export
from genrekeras.cli import collection, common, models
from genrekeras.datasets import fma, splits
from genrekeras.export import loading
from genrekeras.models import backbones, presets
from processes import python

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("genrekeras", "experiments", "tests") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff(arguments):
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Keras calls these methods, with arguments that its documentation describes.
HOOKS = {"build", "build_from_config", "call", "compile", "compute_mask", "compute_output_shape", "compute_output_spec"}
HOOKS |= {"fit", "from_config", "get_build_config", "get_config", "load_own_variables", "save_own_variables"}


def is_public_api(function):
    """Return whether a function is neither private, nor a hook of Keras, nor a command."""
    calls = (decorator.func for decorator in function.decorator_list if isinstance(decorator, ast.Call))
    is_command = any(getattr(call, "attr", None) in ("command", "group") for call in calls)
    is_hook = function.name in HOOKS or function.name.startswith("on_")
    return (function.name == "__init__" or not function.name.startswith("_")) and not is_hook and not is_command


def test_public_functions_are_annotated():
    bare = []
    for path in sorted((ROOT / "genrekeras").rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        for owner in (module, *classes):
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and is_public_api(node):
                    every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                    every += filter(None, (node.args.vararg, node.args.kwarg))
                    missing = [x.arg for x in every if x.annotation is None and x.arg not in ("self", "cls")]
                    missing += ["return"] * (node.returns is None and node.name != "__init__")
                    bare += [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {name}" for name in missing]
    assert not bare, "\n".join(bare)


@functools.cache
def declared():
    """Return the requirements in setup.cfg: the dependencies, and those of all extras."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")

    def requirements(text):
        return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]

    extras = config["options.extras_require"].values()
    return requirements(config["options"]["install_requires"]), [one for text in extras for one in requirements(text)]


def test_deptry(tmp_path):
    """The package imports what it declares, and declares what it imports. Exceptions are in pyproject.toml."""
    files = [tmp_path / "dependencies.txt", tmp_path / "extras.txt"]
    for file, requirements in zip(files, declared(), strict=True):
        file.write_text("\n".join(requirements), encoding="utf-8")
    flags = ["--requirements-files", files[0], "--requirements-files-dev", files[1], "--no-ansi"]
    command = [sys.executable, "-m", "deptry", "genrekeras", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_packages_that_scripts_and_tests_import_are_declared():
    names = {re.split(r"[^\w.-]", one)[0].lower().replace("-", "_") for group in declared() for one in group}
    distributions = importlib.metadata.packages_distributions()
    own = {"genrekeras", *(path.stem for path in SOURCES)}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [node.module] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for top in {name.split(".")[0] for name in imported} - own - set(sys.stdlib_module_names):
                found = {name.lower().replace("-", "_") for name in distributions.get(top, ())}
                assert not found or found & names, f"{path.name} imports {top}, of {found}"


def test_readme_fits_on_a_page():
    readme = (ROOT / "README.md").read_bytes()
    assert readme.count(b"\n") <= 150 and len(readme) <= 8192


def test_pre_commit_uses_the_same_ruff():
    [version] = re.findall(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert f"rev: v{version} " in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


def test_the_version_to_cite():
    assert f"\nversion: {gk.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_files_that_pages_name_exist(page):
    text = (ROOT / page).read_text("utf-8").partition("## Old and new names")[0]
    names = re.findall(r"(?<![\w./])(?:docs|experiments|genrekeras|tests)/[\w./]*\w", text)
    assert names and [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("module", ["genrekeras.layers.spectrogram", "genrekeras.models.genre_classifier"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted >= 2 and result.failed == 0


SLOW_IMPORTS = ("keras", "torch", "tensorflow", "pandas", "tensorflow_datasets", "librosa", "matplotlib", "soundfile")
CALLS = [
    ["--help"],
    ["--version"],
    ["spoon"],
    *([*name.split(), "--help"] for name in ("predict", "timeline", "app", "info", "evaluate", "export", "fma build")),
    ["predict"],
    ["predict", "x.mp3", "--spoon"],
    ["tag"],
    ["tag", "x.mp3", "--overwrite", "--append"],
    ["predict", "x.mp3", "--csv", "--json"],
    ["predict", "x.mp3", "-o", "x.txt"],
    ["predict", "x.mp3", "-m", "nowhere.keras"],
    ["timeline", "x.mp3", "-o", "x.txt"],
    ["spectrogram", "x.mp3", "-o", "x.txt"],
    ["export", "--to", "onnx", "-o", "x.txt"],
    ["calibrate", ".", "-m", "fma_small", "-o", "x.txt"],
]


def test_help_and_usage_errors_import_nothing_slow():
    script = (
        "import json, sys; sys.argv = ['/usr/bin/genrekeras']; from click.testing import CliRunner; "
        "from genrekeras.cli import main; "
        f"done = [CliRunner().invoke(main, call) for call in {CALLS}]; "
        f"slow = [name for name in {SLOW_IMPORTS} if name in sys.modules]; "
        "import genrekeras as gk; classes = gk.GenreClassifier.__name__, gk.layers.__name__, gk.GENRES[0]; "
        "print(json.dumps([slow, [d.exit_code for d in done], [d.output for d in done], classes]))"
    )
    slow, codes, outputs, classes = python(script)
    assert slow == []
    assert codes == [2 * (call[-1] not in ("--help", "--version")) for call in CALLS]
    for call, output in zip(CALLS, outputs, strict=True):
        if call[-1] == "x.txt":
            assert "Invalid value for '-o' / '--output'" in output and "must end in ." in output
    assert classes == ["GenreClassifier", "genrekeras.layers", "Hip-Hop"]  # imported when they are used


def test_python_m_genrekeras_imports_nothing_slow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "genrekeras", "--help"], capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "genrekeras.cli" in imported and not imported & set(SLOW_IMPORTS)


def test_choices_of_the_command_line():
    """The command line holds copies, so that its help need not import the modules that define the choices."""
    assert cli.main.commands.keys() >= {"predict", "evaluate", "export", "fma"}
    assert common.SUBSETS == tuple(fma.SUBSETS) and common.PROTOCOLS == splits.PROTOCOLS
    assert common.PRESETS == presets.PRESETS and common.EXPORTED == tuple(loading.ENDINGS)
    pretrained = {name for name, row in backbones.BACKBONES.items() if getattr(row, "presets", True)}
    assert set(collection.BACKBONES) == pretrained
    assert models.EXPORTS == {name: form.ending for name, form in export.FORMATS.items()}
    assert models.QUANTIZE == export.FORMATS["litert"].quantize
