"""The README is true: its code runs as written, its commands are those of CI, what it names is there."""

import os
import pathlib
import re
import subprocess
import sys

import processes
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(CODE)))
def test_the_code_runs_as_written(number, tmp_path):
    script = CODE[0].splitlines()[:3] if number else []
    (tmp_path / "script.py").write_text("\n".join(script) + "\n" + CODE[number])
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    if number == 0:
        assert (tmp_path / "genre.keras").is_file()
        printed = done.stdout.splitlines()[-1].strip("[] ").split()
        assert len(printed) == 2 and sum(map(float, printed)) == pytest.approx(1, abs=1e-5)


def test_the_first_script_has_ten_lines_or_so():
    assert len(CODE[0].strip().splitlines()) <= 11


def test_ci_runs_the_command_of_the_readme():
    commands = re.findall(r"```sh\n(.*?)\n```", README)
    assert commands[0].endswith("python experiments/efficientnet_dropout.py") and commands[1].endswith("&& pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_what_it_names_is_there():
    for script in re.findall(r"`(\w+\.py)`", README) + re.findall(r"experiments/(\w+\.py)", README):
        assert (ROOT / "experiments" / script).is_file(), script
    for test in re.findall(r"`tests/(\w+\.py)`", README):
        assert (ROOT / "tests" / test).is_file(), test
    modules = re.findall(r"^\| (`[^|]+`) \|", README[README.index("## Design") :], re.MULTILINE)
    assert len(modules) >= 8
    for module in re.findall(r"`([^`]+)`", " ".join(modules)):
        place = ROOT / "genrekeras" / module
        assert place.is_dir() or place.with_suffix(".py").is_file(), module


def test_its_tables_of_choices_are_those_of_the_runs():
    done = processes.run(ROOT / "experiments" / "choices_table.py")
    tables = re.findall(r"(?:^\|.*\n)+", done.stdout, re.MULTILINE)
    assert len(tables) == 2 and min(map(len, tables)) > 500
    for table in tables:
        assert f"\n\n{table}\n" in README, table  # and no row more


def test_nothing_is_left_to_be_filled_in():
    assert not re.search(r"^(TIMING|TIMES|SYNTHETIC|EXPECTED)|\. (TIMING|TIMES)$", README, re.MULTILINE)
