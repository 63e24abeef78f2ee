"""JAX and TensorFlow: layers, models, files that were saved on another backend, and a fit."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import backend_check
import keras
import numpy as np
import pytest
from conftest import SHARED_DATA, calibrate, small_model, tones

TESTS = pathlib.Path(__file__).parent
MUSICNN = SHARED_DATA / "musicnn_reference.npz"  # inputs and outputs of the original TensorFlow graphs
pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="the comparison starts on PyTorch")
FAST_COMPILATION = "--xla_backend_optimization_level=0"  # of JAX, in two thirds of the time
# Relative to the largest value. Waveforms of float32 give 1e-6; logarithms and roots of near-zero values give more.
TOLERANCES = {"mel_fft": 1e-5, "mel_matmul": 1e-5, "decibels": 1e-4, "image": 1e-4, "image_decibels": 1e-6}
TOLERANCES |= {"mel_fft_not_centered": 1e-5, "mel_matmul_not_centered": 1e-5, "log_compression": 1e-6}
TOLERANCES |= {"subsample": 0.0, "cepstral_statistics": 1e-3}


def environment(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    return {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images):
    """A folder with inputs, models that were saved on PyTorch, and their results there."""
    folder, rng = tmp_path_factory.mktemp("backends"), np.random.default_rng(20231122)
    keras.utils.set_random_seed(20231122)
    clips = tones(rng, 8, 22050)
    inputs = {"clips": clips, "waveform": clips[:3], "image": images}
    inputs["power"] = rng.gamma(0.3, 1.0, (3, 64, 40)).astype("float32")
    inputs["negative"] = -90 * rng.random((3, 64, 40)).astype("float32")
    model = calibrate(small_model(), clips)
    expected = backend_check.layer_outputs(inputs)
    model.save(folder / "plain.keras")
    model.image_model.save(folder / "image_model.keras")
    inputs["image_of_model"] = model.front_end.predict(clips, verbose=0)
    expected["probabilities_plain"] = expected["probabilities_image_model"] = model.predict(clips, verbose=0)
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(clips, np.arange(8), batch_size=8, verbose=0)
    model.save(folder / "compiled.keras")
    expected["probabilities_compiled"] = model.predict(clips, verbose=0)
    if MUSICNN.is_file():  # tests/models/test_musicnn.py says so where it is missing
        with np.load(MUSICNN) as reference:
            inputs |= {name: reference[name] for name in ("msd_input", "mtt_input")}
            expected |= {name: reference[name] for name in ("msd_output", "mtt_output")}
    np.savez(folder / "inputs.npz", **inputs)
    np.savez(folder / "expected.npz", **expected)
    return folder


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_another_backend(backend, folder):
    """One process: parity of the layers with PyTorch and of musicnn with the original, augmentation, models that were
    saved on PyTorch, a fit."""
    command = [sys.executable, TESTS / "backend_check.py", folder]
    surroundings = {**environment(backend), "XLA_FLAGS": FAST_COMPILATION}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    result = json.loads((folder / "result.json").read_text())
    assert result["layers"].keys() == TOLERANCES.keys()
    for name, difference in result["layers"].items():
        assert difference <= TOLERANCES[name], name
    assert result["musicnn"].keys() == ({"msd", "mtt"} if MUSICNN.is_file() else set())
    assert all(difference < 1e-5 for difference in result["musicnn"].values())
    assert result["augmentation"] == {name: [True, True, True] for name in backend_check.AUGMENTATION}
    spread = np.ptp(np.load(folder / "expected.npz")["probabilities_plain"], axis=0).max()
    assert spread > 1e-2
    for name, steps in {"plain": None, "image_model": None, "compiled": 1}.items():
        model = result["models"][name]
        assert max(model["difference"], model["alone"]) <= 1e-4 and model["steps"] == steps, (name, model)
    assert np.isfinite(result["loss"]).all()
    assert result["jit"] == (backend == "jax")  # the model is compiled as by default on this backend
    # The file that the other backend saved loads here, with the same results, and training continues.
    inputs = np.load(folder / "inputs.npz")
    model = keras.saving.load_model(folder / f"{backend}.keras")
    probabilities = model.predict(inputs["clips"], verbose=0)
    np.testing.assert_allclose(probabilities, np.load(folder / f"{backend}.npy"), atol=1e-4)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3 and not model.jit_compile
    history = model.fit(inputs["clips"], np.arange(8), batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all()


JAX_MODELS = ("models/test_genre_classifier.py", "models/test_musicnn.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, places",
    [
        ("tensorflow", ["."]),
        # JAX compiles each network, which takes a quarter of an hour. `KERAS_BACKEND=jax pytest -m backends` runs all.
        ("jax", ["layers", "training", "test_callbacks.py", *JAX_MODELS]),
    ],
)
def test_the_tests_marked_backends(backend, places):
    """The tests that depend on the backend, in a process on the other one."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "backends and not slow"]
    command += [TESTS / place for place in places]  # With FAST_COMPILATION, JAX gets gradients of musicnn that are NaN.
    done = subprocess.run(command, env=environment(backend), capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
