"""The command line, as a user calls it."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import write_fma, write_sine
from genrekeras.cli import main
from test_download import server  # noqa: F401 - a fixture


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def folder(tmp_path):
    return write_fma(
        tmp_path / "my fma", [(2, "Rock", "training"), (1001, "Pop", "validation"), (1002, "Folk", "test")]
    )


def test_download_check_build(server, tmp_path):  # noqa: F811
    """The first steps of README's "Get FMA", with archives of clips that are no music."""
    first = run("fma", "download", tmp_path / "my fma", "--base-url", server.url, "--only", "metadata")
    assert "fma_metadata is there, whole. Next: genrekeras fma check" in first.stdout
    assert not (tmp_path / "my fma" / "fma_small").exists()
    run("fma", "download", tmp_path / "my fma", "--base-url", server.url, "--remove-archives")
    assert not (tmp_path / "my fma" / "fma_small.zip").exists() and (tmp_path / "my fma" / "fma_small").is_dir()
    assert "is not FMA's tracks.csv" in run("fma", "check", tmp_path / "my fma", code=1).stderr
    server.files.clear()
    assert "Error: http://127.0.0.1" in run("fma", "download", tmp_path / "b", "--base-url", server.url, code=1).stderr


def test_check(folder, tmp_path):
    os.remove(folder / "fma_small" / "001" / "001001.mp3")
    write_sine(folder / "fma_small" / "000" / "000004.mp3", 440)
    result = run("fma", "check", folder, "--csv", tmp_path / "clips.csv", code=1)
    assert "NOT fma_small AS IT SHOULD BE: 1 clips are missing" in result.stdout
    assert "Note: " in result.stdout and "1 files have no row" in result.stdout
    table = pd.read_csv(tmp_path / "clips.csv", index_col="track_id")
    assert table["state"].to_dict() == {2: "ok", 1001: "missing", 1002: "ok"}
    assert table.loc[2, "seconds"] == pytest.approx(3, abs=0.1)


def test_build(folder, tmp_path):
    result = run("fma", "build", folder, "--sample-rate", 16000, "--prepared-dir", tmp_path / "p")
    assert "1 training, 1 validation, 1 test clips at 16000 Hz" in result.stdout
    assert "What the splits share" in result.stdout and (tmp_path / "p").is_dir()
    (tmp_path / "file").write_text("in the way")
    assert "Error: " in run("fma", "build", folder, "--prepared-dir", tmp_path / "file" / "p", code=1).stderr


def test_build_with_beam(folder, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam (extra `beam`) is not installed")
    result = run("fma", "build", folder, "--prepared-dir", tmp_path / "p", "--beam", "--runner=DirectRunner")
    assert "1 training, 1 validation, 1 test clips" in result.stdout


def test_warnings_are_notes(folder):
    (folder / "fma_small" / "001" / "001001.mp3").write_bytes(b"")
    result = run("fma", "build", folder)
    assert "Note: " in result.stderr and "1 cannot be read: fma_small/001/001001.mp3 (empty" in result.stderr


def test_an_interrupt(folder, monkeypatch):
    def broken_off(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("genrekeras.datasets.fma.check", broken_off)
    result = run("fma", "check", folder, code=1)
    assert "Error: broken off. What is whole is kept" in result.stderr


def test_help_and_version():
    assert "fma  Get FMA" in run("--help").stdout
    for command in ("download", "check", "build"):
        assert "FOLDER" in run("fma", command, "--help").stdout
    assert "genrekeras, version 0" in run("--version").stdout
    assert "No such command" in run("spoon", code=2).stderr


def test_as_a_module_in_a_process_of_its_own(tmp_path):
    """Exit code, and an error without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "genrekeras", "fma", "check", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: `data_dir` is not a folder")
