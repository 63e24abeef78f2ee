"""Flags, resumption and messages of runs, in this process."""

import json
import os
import signal
import sys
import types

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import EXPERIMENTS, small_model
from genrekeras.models.backbones import PretrainedWeightsError
from genrekeras.runs import options, recipe, runner, scoring


@pytest.fixture
def experiment(monkeypatch, synthetic_cache, tmp_path):
    """A function that calls `runner.start` with flags and a main function, in a separate folder."""
    monkeypatch.setenv("GENREKERAS_CACHE", str(synthetic_cache))
    monkeypatch.chdir(tmp_path)

    def start(main, *flags, script="x.py", **arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            runner.start(main, "What is the result?", **arguments)
        finally:
            signal.signal(signal.SIGTERM, handler)

    return start


def nothing(run):
    pass


def interrupted(run):
    raise KeyboardInterrupt


def killed(run):
    os.kill(os.getpid(), signal.SIGTERM)


def diverged(run):
    raise gk.training.NonFiniteLossError("The loss is not finite", 3, 1, [17, 19])


def disk_full(run):
    raise OSError(28, "No space left on device", "model.keras")


def build_model(run):
    run.classifier("mel_cnn", dropout=0.2)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data-dir", "/no/such/folder"], "`data_dir` is not a folder"),
        (["--data-dir", ""], "`data_dir` is not a folder"),  # an unset variable of the shell
        (["--protocol", "best"], "invalid choice: 'best'"),
        (["--epochs", "0"], "must be > 0"),
        (["--seed", "-1"], "--seed: must be >= 0, not -1"),
        (["--stem", "new", "--fine-tune", "head", "--smoke"], "must be trained"),
        (["--pretrained", "weights.h5", "--smoke"], "Received: pretrained='weights.h5'"),
        (["--output", str(EXPERIMENTS)], "must be a new or empty folder"),
    ],
)
def test_invalid_flags_give_a_message_without_a_traceback(experiment, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        experiment(build_model, *flags, *([] if "--output" in flags else ["--output", "r"]))
    assert stopped.value.code and message in f"{stopped.value.code} {capsys.readouterr().err}"
    assert not os.path.exists("r") or not os.listdir("r")


@pytest.mark.parametrize("main, code, name", [(interrupted, 130, "SIGINT"), (killed, 143, "SIGTERM")])
def test_a_signal_ends_the_run_with_the_command_that_resumes_it(experiment, capsys, main, code, name):
    with pytest.raises(SystemExit) as stopped:
        experiment(main, "--smoke", "--output", "r")
    assert stopped.value.code == code
    assert capsys.readouterr().err.endswith(f"\nStopped by {name}. To resume: python x.py --resume r\n")


def test_errors_that_stop_a_run(experiment):
    with pytest.raises(SystemExit, match=r"^\nStopped: .*epoch 4.*batch 2.*17, 19"):
        experiment(diverged, "--smoke", "--output", "r")
    fixed = r"^\nStopped: .*No space left.* To resume, after the error is fixed: python x.py --resume s$"
    with pytest.raises(SystemExit, match=fixed):
        experiment(disk_full, "--smoke", "--output", "s")


def test_only_an_unfinished_run_is_resumed(experiment, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"There is no run that can be resumed in r\. .*config\.json.*FileNotFound"):
        experiment(nothing, "--resume", "r")
    with pytest.raises(SystemExit):
        experiment(interrupted, "--smoke", "--output", "r")
    with pytest.raises(SystemExit, match=r"r is a run of x\.py\. Resume it with that script"):
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
    assert "NOTE:    versions when the run was started: {" in printed and "processor when" not in printed
    with pytest.raises(SystemExit, match=r"r is a finished run\. There is nothing to resume"):
        experiment(nothing, "--resume", "r")
    del config["flags"]["seed"]  # the default must not replace it
    damaged = ("", "{", "null", "[1]", "\0", json.dumps({**config, "flags": []}), json.dumps(config))
    for text in damaged:
        (tmp_path / "r" / "config.json").write_text(text)
        with pytest.raises(SystemExit, match=r"There is no run that can be resumed in r\. r.config\.json: "):
            experiment(nothing, "--resume", "r")


def test_relative_paths_are_found_from_another_folder(experiment, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.weights.h5").write_bytes(b"weights")
    with pytest.raises(SystemExit):
        experiment(interrupted, "--smoke", "--pretrained", "own.weights.h5", "--output", "r")
    monkeypatch.chdir(tmp_path / "elsewhere")
    paths = []
    experiment(lambda run: paths.append(run.flags.pretrained), "--resume", "../r")
    assert paths == [str(tmp_path / "own.weights.h5")]


def test_spectrograms_of_another_size_and_of_other_genres(experiment, rng):
    labels, models = np.arange(12) % 3, []
    content = {"decibels": rng.integers(0, 256, (12, 64, 50), "uint8"), "split": np.arange(12) // 8}
    content |= {"track_id": np.arange(12), "label": labels, "genres": ["jazz", "metal", "choral"]}
    np.savez("f.npz", **content, sample_rate=16000)
    flags = ["--spectrograms", "f.npz", "--output"]
    network = recipe.Network("mel_cnn")
    experiment(lambda run: models.append(recipe.make_model(network, run.data.train, 0)), *flags, "r", spectrograms=True)
    [model] = models
    assert model.image_model.input_shape == (None, 64, 50, 1) and model.sample_rate == 16000
    assert model.genres == ("jazz", "metal", "choral")
    for change in ({"split": np.ones(12, int)}, {"genres": ["jazz"], "label": np.zeros(12, int)}):
        np.savez("f.npz", **{**content, **change})
        with pytest.raises(SystemExit, match="at least two genres and two training tracks are required"):
            experiment(nothing, *flags, "s", spectrograms=True)
        assert not os.listdir("s")


def test_random_protocol_prints_a_note(experiment, capsys):
    experiment(nothing, "--smoke", "--protocol", "random", "--output", "r")
    assert "the test split is the validation split. Scores are too high" in capsys.readouterr().out


def test_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--help"])
    for network, spectrograms, present, absent in (
        (True, False, "--data-dir --protocol --epochs --pretrained --stem --fine-tune --wandb", "--spectrograms"),
        (True, True, "--spectrograms --vggish --seed --output --smoke", "--data-dir"),
        (False, False, "--data-dir --resume --save-every", "--epochs"),
    ):
        with pytest.raises(SystemExit):
            options.parse_flags("What is the result?", network, spectrograms)
        printed = capsys.readouterr().out
        assert "What is the result?" in printed and absent not in printed
        assert all(flag in printed for flag in present.split())


def test_a_scored_model_is_not_scored_again(tmp_path):
    """A run may be killed after its last file is written."""
    model_file = str(tmp_path / "model.keras")
    small_model(card={"scores": []}).save(model_file)
    assert scoring.evaluate(types.SimpleNamespace(model_file=model_file)) is None


def test_a_missing_package_has_no_version():
    assert runner._version("no-such-package") is None and runner._version("keras") == keras.__version__


@pytest.mark.parametrize("pretrained", [[], ["--pretrained", "imagenet"]])
def test_weights_that_cannot_be_loaded(experiment, pretrained, monkeypatch, capsys):
    """Without the flag, the model is trained from random weights; with the flag, the run stops."""

    def classifier(**arguments):
        if arguments["pretrained"] == "imagenet":
            raise PretrainedWeightsError("The weights cannot be loaded.")
        return types.SimpleNamespace(**arguments)

    monkeypatch.setattr(gk, "GenreClassifier", classifier)
    models = []
    arguments = ["--smoke", *pretrained, "--output", "r"]
    if pretrained:
        with pytest.raises(SystemExit, match="The weights cannot be loaded"):
            experiment(build_model, *arguments)
        return
    experiment(lambda run: models.append(run.classifier("resnet50", dropout=0.1)), *arguments)
    assert models[0].pretrained is None and models[0].fine_tune == "all"
    printed = capsys.readouterr().out
    assert "WITHOUT PRETRAINED WEIGHTS: all layers of resnet50 are trained from random weights" in printed


@pytest.mark.parametrize(
    "flags, fine_tune",
    [
        ([], "head"),
        (["--stem", "new"], "stem"),
        (["--pretrained", "none"], "all"),
        (["--pretrained", "none", "--fine-tune", "head"], "head"),
    ],
)
def test_default_of_fine_tune(experiment, flags, fine_tune, monkeypatch):
    monkeypatch.setattr(gk, "GenreClassifier", lambda **arguments: types.SimpleNamespace(**arguments))
    models = []
    main = lambda run: models.append(run.classifier("resnet50", dropout=0.1))  # noqa: E731
    experiment(main, *flags, "--smoke", "--output", "r")
    assert models[0].fine_tune == fine_tune and models[0].dropout == 0.1


def test_output_folder_in_use(experiment, tmp_path):
    flags = types.SimpleNamespace(output="r", resume=None)
    with options.folder_of_run(flags):
        with pytest.raises(SystemExit, match="Another process is using the run in r"):
            experiment(nothing, "--smoke", "--output", "r")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SystemExit, match=r"The output folder cannot be used: .*file"):
        experiment(nothing, "--smoke", "--output", "file/r")


def test_temporary_files_of_a_killed_run_are_removed(experiment, tmp_path):
    with pytest.raises(SystemExit):
        experiment(interrupted, "--smoke", "--output", "r")
    (tmp_path / "r" / ".tmp-0123abcd-model.keras").write_bytes(b"incomplete")
    experiment(nothing, "--resume", "r")
    assert os.listdir(tmp_path / "r") == ["config.json"]
