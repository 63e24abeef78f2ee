"""The code of README and docs runs as written, and what is recorded there has its date and commit.

- `python` and `sh` blocks of a page run in order in one folder. It contains `song.mp3`, `MUSIC` (folders of genres,
  artists, albums; files with tags), `FMA` (the synthetic corpus in FMA's layout), `model.keras`, `runs/example` and
  `experiments`.
  Python blocks of a page share their names. Experiments run with `--smoke`.
- A `console` block holds recorded output. Its title, or the line before it, states date and commit.
- A block whose title begins with "not executed by the tests" may only install something, need all of FMA or npm, or
  start a server.
"""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from functools import partial

import genrekeras as gk
import numpy as np
import pytest
import soundfile
from app_server import app_server
from click.testing import CliRunner
from conftest import EXPERIMENTS, add_all_genres, run_in_process, small_model, tones
from genrekeras import cli
from genrekeras.datasets.synthetic import SYNTHETIC_GENRES
from hub import local_hub
from mutagen.easyid3 import EasyID3

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
NOT_EXECUTED = re.compile(
    r"(pip|npm pack|python -m venv|\. \.venv/bin/activate|genrekeras (fma download|app)|genrekeras export \S+ --to web"
    r"|sudo apt|brew|git clone|mkdocs)\b|\.venv\\"
)
RECORDED = re.compile(r"[A-Z][a-z]+ \d{1,2}, 20\d\d.*commit [0-9a-f]{7}", re.DOTALL)
LANGUAGES = {"python", "sh", "console", "text"}
# page -> context manager around its code, called with a folder
SERVERS = {"docs/guide/integrations.md": local_hub, "docs/guide/app.md": partial(app_server, port=7860)}
SLOW = {  # pages that take more than 20 s
    "docs/guide/app.md",
    "docs/guide/backends.md",
    "docs/guide/evaluation.md",
    "docs/guide/experiments.md",
    "docs/guide/fma.md",
    "docs/guide/integrations.md",
    "docs/guide/own-music.md",
    "docs/guide/predict.md",
    "docs/guide/scale.md",
    "docs/quickstart.md",
}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """Yield (language, title, code, line before) of each code block of a page."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        language, _, title = fence["info"].strip().partition(" ")
        code = "\n".join(line.removeprefix(fence["indent"]) for line in fence["code"].splitlines())
        before = text[: fence.start()].rstrip().splitlines()
        yield language, title, code, before[-1] if before else ""


def commands(code):
    """Return the commands of a shell block, without comments and with continued lines joined."""
    lines = (line.strip() for line in code.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_executed_or_recorded(page):
    for language, title, code, before in blocks(page):
        assert language in LANGUAGES, f"{name_of(page)}: {language}"
        if language == "console":
            assert RECORDED.search(f"{title} {before}"), f"{name_of(page)}: no date and commit of\n{code}"
        if "not executed" in title:
            parts = [[part.strip() for part in line.split("&&")] for line in commands(code)]
            allowed = all(any(NOT_EXECUTED.match(part) for part in line) for line in parts)
            assert language == "sh" and allowed, f"{name_of(page)}: {code}"


@pytest.fixture(scope="session")
def materials(tmp_path_factory, synthetic_cache, finished_run):
    """A folder with the files that the pages use."""
    folder = tmp_path_factory.mktemp("materials")
    shutil.copytree(synthetic_cache / "synthetic-2", folder / "FMA", ignore=shutil.ignore_patterns("prepared"))
    table = folder / "FMA" / "fma_metadata" / "tracks.csv"
    text = table.read_text(encoding="utf-8")
    for synthetic, genre in zip(SYNTHETIC_GENRES, gk.GENRES, strict=True):  # FMA's commands accept its genres only
        text = text.replace(synthetic, genre)
    table.write_text(text, encoding="utf-8")
    add_all_genres(folder / "FMA", {2: [25]})
    shutil.copytree(finished_run.folder, folder / "runs" / "example")
    (folder / "experiments").symlink_to(EXPERIMENTS)
    clips = iter(tones(np.random.default_rng(0), 33, 4 * 22050))
    for genre in ("Folk", "Rock"):
        for artist in range(8):
            for track in range(2):
                path = folder / "MUSIC" / genre / f"{genre} Artist {artist}" / "Album" / f"{track:02d}.mp3"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, next(clips), 22050, format="MP3", subtype="MPEG_LAYER_III")
                tags = EasyID3()
                tags.update(artist=path.parts[-3], album="Album", genre=[genre, *["Live"] * (artist % 2)])
                tags.save(path)
    soundfile.write(folder / "song.mp3", next(clips), 22050, format="MP3", subtype="MPEG_LAYER_III")
    small_model(genres=["Folk", "Rock"]).save(folder / "model.keras")
    return folder


def execute(command, page):
    """Run one line of a shell block."""
    words = shlex.split(command, comments=True)
    if words[0] == "genrekeras":
        done = CliRunner().invoke(cli.main, words[1:], catch_exceptions=False)
        code, output = done.exit_code, done.output
    elif words[0] == "python" and words[1].startswith("experiments/"):
        run = run_in_process(EXPERIMENTS.parent / words[1], *words[2:], "--smoke")
        code, output = run.code, run.stdout + run.stderr
    else:
        done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True)
        code, output = done.returncode, done.stdout + done.stderr
    assert code == 0, f"{name_of(page)}: {command}\n{output}"


def executed(page):
    """Return (language, code) of the blocks of a page that the tests execute."""
    return [
        (language, code)
        for language, title, code, _ in blocks(page)
        if language in ("python", "sh") and "not executed" not in title
    ]


@pytest.mark.parametrize(
    "page",
    [pytest.param(x, marks=[pytest.mark.slow] * (name_of(x) in SLOW)) for x in PAGES if executed(x)],
    ids=name_of,
)
def test_code(page, materials, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    shutil.copytree(materials, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("GENREKERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    names = {}
    server = SERVERS.get(name_of(page), contextlib.nullcontext)
    with server(tmp_path / "hub"), warnings.catch_warnings():
        warnings.filterwarnings("default", module="genrekeras")  # not errors: users see them as warnings
        for number, (language, code) in enumerate(executed(page)):
            if language == "python":
                exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)
            else:
                for command in commands(code):
                    execute(command, page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"(?<![\w./])gk\.([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)", text)):
        value = gk
        for part in name.split("."):
            value = getattr(value, part)
    files = re.findall(r"`((?:experiments|tests|genrekeras|docs)/[\w/]+\.(?:py|md|jsonl|keras))`", text)
    files += re.findall(r"python ((?:experiments|docs)/[\w/]+\.py)", text)
    assert [name for name in files if not (ROOT / name).is_file()] == []
