"""The built package: tests run from the sdist, the wheel is complete and is used in a fresh environment."""

import csv
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import genrekeras as gk
import pytest
from conftest import write_sine

ROOT = pathlib.Path(__file__).parents[1]
MAX_SIZE = 20_000_000  # bytes; three presets have 15 MB, the results of cross-validation 2 to 3
LICENSES = ["LICENSE", "LICENSE-fma_small", "LICENSE-musicnn", "NOTICE"]

pytestmark = pytest.mark.slow


def run(*command, **options):
    """Return the standard output of a command that must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and with the wheel built from it. Built from a copy, because a build writes into it."""
    folder = tmp_path_factory.mktemp("built")
    everywhere = shutil.ignore_patterns("*.egg-info", "__pycache__", ".*_cache", ".ipynb_checkpoints")
    at_root = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "site", "wandb")

    def ignored(path, names):
        return everywhere(path, names) | (at_root(path, names) if pathlib.Path(path) == ROOT else set())

    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "source")
    return folder


def test_checkers_find_nothing(built):
    files = [*built.glob("*.tar.gz"), *built.glob("*.whl")]
    assert len(files) == 2 and max(path.stat().st_size for path in files) < MAX_SIZE
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    run(sys.executable, "-m", "check_wheel_contents", files[1])


def test_the_tests_run_from_the_sdist(built, tmp_path):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    for folder in ("docs", "experiments", "tests"):
        files, included = (
            {path.relative_to(top) for path in (top / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
            for top in (built / "source", root)
        )
        assert files == included
    names = {".ci", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "constraints.txt", "mkdocs.yml"}
    assert {*names, *LICENSES} <= set(os.listdir(root))
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/datasets/test_splits.py"]
    assert " passed" in run(*command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


def test_the_wheel_and_its_metadata(built):
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    [info] = [name for name in top if name.endswith(".dist-info")]
    assert top == {"beetsplug", "genrekeras", info}
    files = {path for path in (ROOT / "genrekeras").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if name.startswith("genrekeras/")} == {str(path.relative_to(ROOT)) for path in files}
    assert "genrekeras/py.typed" in names

    metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, f"{info}/")).metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-fma-small AND ISC"
    assert metadata.get_all("License-File") == LICENSES
    assert {f"{info}/licenses/{name}" for name in LICENSES} <= names
    assert metadata["Author"] == "genrekeras developers" and "genre" in metadata["Keywords"].split(",")
    assert metadata.get_all("Project-URL") == ["Dataset, https://github.com/mdeff/fma"]
    assert metadata["Requires-Python"] == ">=3.11" and metadata["Description-Content-Type"] == "text/markdown"
    assert any(line.startswith("keras") for line in metadata.get_all("Requires-Dist"))


def test_the_wheel_in_a_fresh_environment(built, tmp_path):
    """The environment contains the wheel only. Its dependencies are those of the environment of the tests."""
    [wheel] = built.glob("*.whl")
    venv.create(tmp_path / "venv")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q", "--no-deps", "--no-index", wheel)
    [packages] = (tmp_path / "venv").rglob("site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    write_sine(tmp_path / "tone.wav", 440.0)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outside = {"cwd": tmp_path, "env": {**environment, "KERAS_HOME": str(tmp_path), "WANDB_MODE": "offline"}}
    file = run(scripts / "python", "-c", "import genrekeras; print(genrekeras.__file__)", **outside)
    assert pathlib.Path(file.strip()).is_relative_to(packages)
    assert gk.__version__ in run(scripts / "genrekeras", "--version", **outside)
    for preset, labels in (("musicnn_msd", 50), ("musicnn_mtt", 50), ("fma_small", 8)):
        command = (scripts / "genrekeras", "predict", "tone.wav", "--csv", "-m", preset)
        [row] = csv.DictReader(run(*command, **outside).splitlines())
        assert row["path"] == "tone.wav" and row["genre"] and row["seconds"] == "3.0"
        assert sum(name.startswith("probability_") for name in row) == labels
