"""What the experiments share, in this process: flags, what is resumed and what breaks a run off."""

import json
import os
import signal
import sys
import types

import genrekeras as gk
import pytest
from conftest import EXPERIMENTS
from genrekeras.models import presets


@pytest.fixture
def experiment(monkeypatch, synthetic_cache, tmp_path):
    """Calls `common.start` with flags and a main function, as the script x.py in a folder of its own."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setenv("GENREKERAS_CACHE", str(synthetic_cache))
    monkeypatch.chdir(tmp_path)
    import common

    def start(main, *flags, script="x.py", **options):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            common.start(main, "What is it?", **options)
        finally:
            signal.signal(signal.SIGTERM, before)

    return start


def nothing(run):
    pass


def broken_off(run):
    raise KeyboardInterrupt


def killed(run):
    os.kill(os.getpid(), signal.SIGTERM)


def diverged(run):
    raise gk.training.NonFiniteLossError("The loss is not finite", 3, 1, [17, 19])


def disk_full(run):
    raise OSError(28, "No space left on device", "model.keras")


def model_made(run):
    run.classifier("efficientnet_b0", dropout=0.2)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data-dir", "/no/such/folder"], "`data_dir` is not a folder"),
        (["--data-dir", ""], "`data_dir` is not a folder"),  # an unset variable of the shell
        (["--protocol", "best"], "invalid choice: 'best'"),
        (["--epochs", "0"], "must be > 0"),
        (["--stem", "new", "--fine-tune", "head", "--smoke"], "must be trained"),
        (["--pretrained", "weights.h5", "--smoke"], "`pretrained` must be"),
        (["--output", str(EXPERIMENTS)], "must be a new or empty folder"),
    ],
)
def test_bad_flags_are_named_without_a_traceback(experiment, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment(model_made, *flags, *([] if "--output" in flags else ["--output", "r"]))
    assert stopped.value.code and message in f"{stopped.value.code} {capsys.readouterr().err}"


@pytest.mark.parametrize("main, code, said", [(broken_off, 130, "SIGINT"), (killed, 143, "SIGTERM")])
def test_signals_end_with_the_line_that_goes_on(experiment, capsys, main, code, said):
    with pytest.raises(SystemExit) as stopped:
        experiment(main, "--smoke", "--output", "r")
    assert stopped.value.code == code
    assert capsys.readouterr().err.endswith(f"\nStopped by {said}. To go on: python x.py --resume r\n")


def test_what_breaks_a_run_off_is_said(experiment):
    with pytest.raises(SystemExit, match=r"^\nStopped: .*epoch 4.*batch 2.*17, 19"):
        experiment(diverged, "--smoke", "--output", "r")
    with pytest.raises(SystemExit, match=r"^\nStopped: .*No space left.* When that is mended: python x.py --resume s$"):
        experiment(disk_full, "--smoke", "--output", "s")


def test_only_a_run_that_is_there_and_is_not_finished_is_resumed(experiment, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"There is no run that can be resumed in r: .*config\.json.*FileNotFound"):
        experiment(nothing, "--resume", "r")
    with pytest.raises(SystemExit):
        experiment(broken_off, "--smoke", "--output", "r")
    with pytest.raises(SystemExit, match=r"r is a run of x\.py: resume it with that script"):
        experiment(nothing, "--resume", "r", script="y.py")
    with pytest.raises(SystemExit) as wrong:
        experiment(nothing, "--resume", "r", "--seed", "3")
    assert wrong.value.code == 2 and "--resume takes no other flag" in capsys.readouterr().err
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    config["versions"]["keras"] = "3.0.0"
    del config["processor"]  # as in a run of an older version
    (tmp_path / "r" / "config.json").write_text(json.dumps(config))
    experiment(nothing, "--resume=r")
    printed = capsys.readouterr().out
    assert "NOTE:    the run began with {" in printed and "began with None" not in printed
    with pytest.raises(SystemExit, match="r is finished: there is nothing to resume"):
        experiment(nothing, "--resume", "r")
    del config["flags"]["seed"]  # else the default would be taken for it
    damaged = ("", "{", "null", "[1]", "\0", json.dumps({**config, "flags": []}), json.dumps(config))
    for text in damaged:
        (tmp_path / "r" / "config.json").write_text(text)
        with pytest.raises(SystemExit, match=r"There is no run that can be resumed in r: r.config\.json: "):
            experiment(nothing, "--resume", "r")


def test_files_are_found_from_another_folder(experiment, tmp_path, monkeypatch):
    """What a flag named in relation to the folder of that time."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.weights.h5").write_bytes(b"weights")
    with pytest.raises(SystemExit):
        experiment(broken_off, "--smoke", "--pretrained", "own.weights.h5", "--output", "r")
    monkeypatch.chdir(tmp_path / "elsewhere")
    seen = []
    experiment(lambda run: seen.append(run.flags.pretrained), "--resume", "../r")
    assert seen == [str(tmp_path / "own.weights.h5")]


def test_two_sets_of_data_are_refused(experiment):
    with pytest.raises(SystemExit, match="--spectrograms and --data-dir name two sets of data"):
        experiment(nothing, "--spectrograms", "f.npz", "--data-dir", "FMA", spectrograms=True)


def test_the_random_protocol_is_not_praised(experiment, capsys):
    experiment(nothing, "--smoke", "--protocol", "random", "--output", "r")
    assert "artists on both sides, and validation is the test: scores are too good" in capsys.readouterr().out


def test_a_model_that_was_scored_is_not_scored_again(experiment):
    """A run that was killed between its last write and its end."""
    import scoring

    preset = os.path.join(os.path.dirname(presets.__file__), "fma_small.keras")
    assert scoring.evaluate(types.SimpleNamespace(model_file=preset)) is None


def test_a_package_that_is_not_there_has_no_version(experiment):
    import common

    assert common._version("no-such-package") is None and common._version("keras")
