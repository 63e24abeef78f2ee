"""The code of the README runs as written, and its commands and links are valid."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(CODE)))
def test_code(number, tmp_path, monkeypatch, capsys):
    """The first block is a script by itself; the others follow its imports."""
    monkeypatch.chdir(tmp_path)
    imports = "\n".join(line for line in CODE[0].splitlines() if line.startswith("import "))
    exec(compile(f"{imports}\n{CODE[number]}", f"README, block {number}", "exec"), {})
    if number == 0:
        assert (tmp_path / "genre.keras").is_file()
        printed = capsys.readouterr().out.splitlines()[-1].strip("[] ").split()
        assert len(printed) == 2 and sum(map(float, printed)) == pytest.approx(1, abs=1e-5)


def test_ci_runs_the_command_of_the_readme():
    commands = re.findall(r"```sh\n(.*?)\n```", README)
    assert commands[0].endswith("python experiments/efficientnet_dropout.py") and commands[1].endswith("&& pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_files_that_it_names_exist():
    names = re.findall(r"`((?:experiments|tests|genrekeras)/[\w/]+\.(?:py|md|jsonl|keras))`", README)
    names += re.findall(r"python (experiments/[\w/]+\.py)", README)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).is_file()] == []
