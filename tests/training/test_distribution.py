"""What is built of the package: the sdist can be tested, the wheel holds what it should, metadata are complete."""

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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist and the wheel, made of a copy: building leaves files in the source folder."""
    folder = tmp_path_factory.mktemp("built")
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "wandb", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
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
        files = {path.name for path in (ROOT / folder).iterdir() if path.suffix in (".py", ".jsonl")}
        assert files == set(os.listdir(root / folder))
    assert {"constraints.txt", "LICENSE", "README.md", ".ci"} <= set(os.listdir(root))
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/test_splits.py"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_the_wheel_and_its_metadata(built):
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    [info] = [name for name in top if name.endswith(".dist-info")]
    assert top == {"genrekeras", info}
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "genrekeras").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("genrekeras/")} == {x for x in own if not x.endswith(".pyc")}

    metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, f"{info}/")).metadata
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-fma-small"
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSE-fma_small"]
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", "LICENSE-fma_small")} <= names
    assert metadata["Author"] == "genrekeras developers" and "genre" in metadata["Keywords"].split(",")
    assert metadata.get_all("Project-URL") == ["Dataset, https://github.com/mdeff/fma"]
    assert metadata["Requires-Python"] == ">=3.11" and metadata["Description-Content-Type"] == "text/markdown"
    assert any(line.startswith("keras") for line in metadata.get_all("Requires-Dist"))
