"""The command `tag`, as a user calls it."""

import pytest
from click.testing import CliRunner
from conftest import small_model, write_sine
from genrekeras import tags
from genrekeras.cli import main
from genrekeras.library import plan
from genrekeras.models import saving
from tag_files import sha256


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["tag", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The state folder of the user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of a model that is not calibrated."""
    path = tmp_path_factory.mktemp("model") / "genre.keras"
    small_model(genres=["Hip-Hop", "Drum & Bass"]).save(path)
    return path


@pytest.fixture
def calibrated(tmp_path):
    """A file of a model whose predictions have low confidence."""
    path = tmp_path / "calibrated.keras"
    small_model(genres=["Low", "High"], thresholds={"min_confidence": 1.01, "better_than_chance": True}).save(path)
    return path


@pytest.fixture
def songs(tmp_path):
    """A folder with three songs. The second one has a genre."""
    folder = tmp_path / "my müsic"
    folder.mkdir()
    paths = [write_sine(folder / name, 440, seconds=1.2) for name in ("a.mp3", "b.flac", "c.wav")]
    tags.write_genres(paths[1], ["Jazz"])
    return paths


def test_dry_run_tag_and_undo(saved, songs, tmp_path):
    before = list(map(sha256, songs))
    command = [songs[0].parent, "-m", saved]
    dry = run(*command, "--dry-run").stdout
    assert list(map(sha256, songs)) == before and not (tmp_path / "state").exists()
    lines = dry.splitlines()
    assert lines[0] == str(songs[0]) and lines[1].startswith("  no genre -> ") and lines[1].endswith("%)")
    assert lines[2:4] == [str(songs[1]), "  Jazz: left alone, has a genre"]
    assert lines[6:9] == ["3 files:", "       2 would be tagged", "       1 left alone: has a genre"]
    assert lines[9:] == ["The model is not calibrated: all predictions are written.", "Dry run: nothing was written."]
    done = run(*command)
    assert "       2 tagged\n" in done.stdout and str(songs[1]) not in done.stdout
    assert [len(tags.read_genres(song)) for song in songs] == [1, 1, 1] and sha256(songs[1]) == before[1]
    [name] = (tmp_path / "state" / "genrekeras" / "tag").iterdir()
    assert f"To undo: genrekeras tag --undo {name}" in done.stdout and f"Old tags are stored in {name}" in done.stderr
    assert "3 left alone: has a genre" in run(*command).stdout
    undone = run("--undo", name)
    assert undone.stdout == "2 changes: 2 restored.\n" and list(map(sha256, songs)) == before
    assert run("--undo", name).stdout == "2 changes: 0 restored, 2 had their old tags already.\n"


def test_genres_are_replaced_or_added(saved, songs, tmp_path):
    before = sha256(songs[1])
    run(songs[1], "-m", saved, "--append", "--journal", tmp_path / "j")
    [old, new] = tags.read_genres(songs[1])
    assert old == "Jazz"
    run(songs[1], "-m", saved, "--overwrite", "--journal", tmp_path / "j")
    assert tags.read_genres(songs[1]) == [new]
    assert "1 left alone: has these genres" in run(songs[1], "-m", saved, "--overwrite").stdout
    assert run("--undo", tmp_path / "j").stdout == "2 changes: 2 restored.\n" and sha256(songs[1]) == before


def test_low_confidence(calibrated, songs):
    done = run(songs[0], "-m", calibrated)
    assert "1 left alone: low confidence: low probability" in done.stdout and tags.read_genres(songs[0]) == []
    assert "except at low confidence." in done.stdout and "undo" not in done.stdout


def iter_rows(*rows):
    """Yield rows of a plan."""
    yield from rows


def test_options_reach_the_plan(saved, songs, monkeypatch):
    received = []
    monkeypatch.setattr(plan, "plan_each", lambda model, paths, options: received.append(options) or iter_rows())
    run(songs[0], "-m", saved, "--max-genres", 2, "--min-probability", 0.3, "--album", "--append")
    assert received == [plan.TagOptions("append", 2, 0.3, None, True, None)]


def test_the_taxonomy(saved, songs, tmp_path, monkeypatch):
    (tmp_path / "my.toml").write_text("[merge]\nMusic = ['Hip-Hop', 'drum and bass']\n[parents]\nMusic = 'Sound'\n")
    run(songs[0], "-m", saved, "--taxonomy", tmp_path / "my.toml")
    assert tags.read_genres(songs[0]) == ["Music", "Sound"]
    (tmp_path / "my.toml").write_text("[rename]\nPolka = 'x'\n")
    done = run(songs[2], "-m", saved, "--taxonomy", tmp_path / "my.toml", code=2)
    assert f"{tmp_path / 'my.toml'}: rename.Polka: 'Polka' is not a label" in done.stderr
    assert "No such file" in run(songs[2], "-m", saved, "--taxonomy", tmp_path / "none.toml", code=1).stderr
    assert tags.read_genres(songs[2]) == []
    received = []
    monkeypatch.setattr(
        plan, "plan_each", lambda model, paths, options: received.append(options.taxonomy) or iter_rows()
    )
    run(songs[0], "-m", "musicnn_msd")
    assert received[0].genres(["rnb"]) == ["R&B"]
    run(songs[0], "-m", saved)
    assert received[1] is None


def test_precision_of_a_model_that_is_not_calibrated(saved, songs):
    done = run(songs[0], "-m", saved, "--precision", 0.9, code=2)
    assert "--precision" in done.stderr and "genrekeras calibrate MUSIC --model MODEL" in done.stderr


def test_files_that_cannot_be_tagged(saved, songs):
    (songs[0].parent / "text.mp3").write_text("no music")
    write_sine(songs[0].parent / "d.au", 440, seconds=1.2)
    write_sine(songs[0].parent / "short.wav", 440, seconds=0.1)
    done = run(songs[0].parent, "-m", saved, code=1)
    assert "       2 tagged" in done.stdout and "       3 could not be read or tagged" in done.stdout
    for name, error in (("text.mp3", "cannot be read"), ("d.au", "not supported"), ("short.wav", "too short")):
        assert [line for line in done.stderr.splitlines() if f"{name}: " in line and error in line]
    done = run(songs[0].parent / "text.mp3", "-m", saved, code=1)  # no file that can be tagged
    assert "1 file:\n       1 could not be read or tagged" in done.stdout and "undo" not in done.stdout


def test_undo_names_files_that_somebody_changed(saved, songs, tmp_path):
    run(*songs, "-m", saved, "--journal", tmp_path / "j")
    songs[0].write_bytes(songs[0].read_bytes() + b"x")
    done = run("--undo", tmp_path / "j", code=1)
    assert done.stdout == "2 changes: 1 restored, 1 left alone.\n"
    assert f"{songs[0]}: it was changed after its genres were written" in done.stderr
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + b"damaged\n" + lines[2])
    assert f"{tmp_path / 'j'}: line 2 is damaged" in run("--undo", tmp_path / "j", code=1).stderr
    assert "is not a journal" in run("--undo", songs[0], code=1).stderr
    assert "No such file" in run("--undo", tmp_path / "none", code=1).stderr


def test_a_file_that_is_not_a_journal_is_refused_before_the_prediction(saved, songs, monkeypatch):
    monkeypatch.setattr(saving, "load_model", None)
    before = sha256(songs[1])
    assert "is not a journal" in run(songs[0], "-m", saved, "--journal", songs[1], code=1).stderr
    assert sha256(songs[1]) == before


def test_a_state_folder_that_cannot_be_written(saved, songs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    before = sha256(songs[0])
    for options in ([], ["--journal", tmp_path / "j"]):
        lines = run(songs[0], "-m", saved, *options, code=1).stderr.splitlines()
        assert lines[-1].startswith(f"Error: The state folder {tmp_path / 'file' / 'genrekeras'} cannot be")
    assert sha256(songs[0]) == before and not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Missing argument 'FILES...'"),
        (["x.mp3", "--overwrite", "--append"], "--overwrite and --append exclude each other"),
        (["--undo", "j", "x.mp3"], "--undo takes no files and no other options"),
        (["--undo", "j", "--dry-run"], "--undo takes no files and no other options"),
        (["x.mp3", "--max-genres", "0"], "'--max-genres'"),
        (["x.mp3", "--min-probability", "1"], "'--min-probability'"),
        (["x.mp3", "--journal", "nowhere/j"], "does not exist"),
    ],
)
def test_arguments(arguments, message):
    assert message in run(*arguments, code=2).stderr


def test_lines_fit_a_terminal_of_80_columns(saved, songs, monkeypatch):
    genres = tuple(f"A Genre of Number {number}" for number in range(9))
    row = {"path": "a\x1b.mp3", "old": genres, "new": genres[::-1], "probability": 0.5, "reason": None, "error": None}
    monkeypatch.setattr(plan, "plan_each", lambda *arguments: iter_rows(row))
    lines = run(songs[0], "-m", saved, "--dry-run").stdout.splitlines()
    assert lines[0] == r"a\x1b.mp3" and max(map(len, lines)) <= 80 and lines[1].startswith("  A Genre of Number 0, A")
    assert " -> A Genre of Number 8, A Genre" in " ".join(line.strip() for line in lines)


def test_an_interruption_keeps_what_was_written(saved, songs, tmp_path, monkeypatch):
    plan_each = plan.plan_each

    def interrupted(*arguments):
        yield next(plan_each(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "plan_each", interrupted)
    before = sha256(songs[0])
    done = run(songs[0].parent, "-m", saved, "--journal", tmp_path / "j", code=1)
    assert "interrupted" in done.stderr and f"Old tags are stored in {tmp_path / 'j'}" in done.stderr
    assert len(tags.read_genres(songs[0])) == 1
    run("--undo", tmp_path / "j")
    assert sha256(songs[0]) == before


def test_a_real_song_with_a_preset(real_songs, tmp_path):
    """With a multi-label preset and its taxonomy."""
    [song] = [song for song in real_songs if song.name.startswith("Hip-Hop")]
    path = tmp_path / song.name
    path.write_bytes(song.read_bytes()[:600_000])
    before = sha256(path)
    done = run(path, "-m", "musicnn_msd", "--overwrite", "--journal", tmp_path / "j")
    assert "genres with a probability of at least 0.2 are" in done.stdout and "built-in taxonomy" in done.stdout
    assert tags.read_genres(path) == ["Hip-Hop"]
    run("--undo", tmp_path / "j")
    assert sha256(path) == before
