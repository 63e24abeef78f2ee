"""The built package: tests run from the sdist, and the wheel has all files and complete metadata."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BUILD = "import setuptools.build_meta as b; b.build_sdist('..'); b.build_wheel('..')"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist and the wheel, built from a copy, because the build writes into the source folder."""
    folder = tmp_path_factory.mktemp("built")
    everywhere = shutil.ignore_patterns("*.egg-info", "__pycache__")
    at_root = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "wandb")

    def ignored(path, names):
        return everywhere(path, names) | (at_root(path, names) if pathlib.Path(path) == ROOT else set())

    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=folder / "source", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_tests_run_from_the_sdist(built, tmp_path):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    for folder in ("experiments", "tests"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".jsonl")}
        included = (path for path in (root / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
        assert files == {path.relative_to(root) for path in included}
    assert {"constraints.txt", "LICENSE", "README.md", ".ci"} <= set(os.listdir(root))
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/datasets/test_splits.py"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_the_wheel_and_its_metadata(built):
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    [info] = [name for name in top if name.endswith(".dist-info")]
    assert top == {"genrekeras", info}
    files = {path for path in (ROOT / "genrekeras").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if name.startswith("genrekeras/")} == {str(path.relative_to(ROOT)) for path in files}

    metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, f"{info}/")).metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-fma-small"
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSE-fma_small"]
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", "LICENSE-fma_small")} <= names
    assert metadata["Author"] == "genrekeras developers" and "genre" in metadata["Keywords"].split(",")
    assert metadata.get_all("Project-URL") == ["Dataset, https://github.com/mdeff/fma"]
    assert metadata["Requires-Python"] == ">=3.11" and metadata["Description-Content-Type"] == "text/markdown"
    assert any(line.startswith("keras") for line in metadata.get_all("Requires-Dist"))
