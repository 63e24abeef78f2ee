"""What test_backends runs in a process on JAX or TensorFlow: parity with PyTorch, save, load, and a small fit.

    KERAS_BACKEND=jax python tests/backend_check.py FOLDER

FOLDER holds models that were saved on PyTorch, their inputs (`inputs.npz`) and their results there (`expected.npz`).
The process writes `result.json` and a model that it trained.
"""

import json
import sys

import genrekeras as gk
import keras
import numpy as np
from keras import ops


class NoTorch:
    """A finder that hides PyTorch: a file that was saved there must load where PyTorch is missing."""

    def find_spec(self, name, *arguments):
        if name == "torch" or name.startswith("torch."):
            raise ModuleNotFoundError(name, name=name)


def layers():
    """Return layers by name, with the name of their input."""
    mel = {"sample_rate": 22050, "n_mels": 64}
    return {
        "mel_fft": (gk.layers.MelSpectrogram(**mel), "waveform"),
        "mel_matmul": (gk.layers.MelSpectrogram(**mel, dft="matmul"), "waveform"),
        "mel_fft_not_centered": (gk.layers.MelSpectrogram(**mel, center=False), "waveform"),
        "mel_matmul_not_centered": (gk.layers.MelSpectrogram(**mel, center=False, dft="matmul"), "waveform"),
        "log_compression": (gk.layers.LogCompression(), "power"),
        "decibels": (gk.layers.PowerToDecibels(), "power"),
        "subsample": (gk.layers.UniformTemporalSubsample(20), "power"),
        "image": (gk.layers.SpectrogramToImage(), "power"),
        "image_decibels": (gk.layers.SpectrogramToImage(scale="decibels", flip=True), "negative"),
        "cepstral_statistics": (gk.layers.statistics.CepstralStatistics(), "image"),
    }


AUGMENTATION = {
    "gain": (lambda: gk.layers.RandomGain(seed=1), "waveform"),
    "noise": (lambda: gk.layers.RandomNoise(10.0, 20.0, seed=1), "waveform"),
    "shift": (lambda: gk.layers.RandomTimeShift(seed=1), "waveform"),
    "masks": (lambda: gk.layers.SpecAugment(frequency_width=8, time_width=8, seed=1), "image"),
    "channel": (lambda: gk.layers.RandomChannelEffects(seed=1), "image"),
}


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def layer_outputs(inputs):
    """Return the outputs of all layers, name -> array."""
    return {name: numpy(layer(inputs[source])) for name, (layer, source) in layers().items()}


def main(folder):
    inputs, expected = np.load(f"{folder}/inputs.npz"), np.load(f"{folder}/expected.npz")
    found = layer_outputs(inputs)
    result = {"layers": {}, "augmentation": {}, "models": {}}
    for name, output in found.items():
        scale = float(np.abs(expected[name]).max()) or 1.0
        result["layers"][name] = float(np.abs(output - expected[name]).max()) / scale
    for name, (make, source) in AUGMENTATION.items():
        layer, x = make(), inputs[source]
        first, second, inference = (numpy(layer(x, training=training)) for training in (True, True, False))
        result["augmentation"][name] = [
            bool(np.isfinite(first).all()) and first.shape == x.shape,
            bool((first != x).any() and (first != second).any()),
            bool((inference == x).all()),
        ]
    for name in ("plain", "image_model", "compiled"):
        model = keras.saving.load_model(f"{folder}/{name}.keras")
        x = inputs["image_of_model" if name == "image_model" else "clips"]
        probabilities = model.predict(x, verbose=0)
        steps = int(ops.convert_to_numpy(model.optimizer.iterations)) if model.compiled else None
        result["models"][name] = {
            "difference": float(np.abs(probabilities - expected[f"probabilities_{name}"]).max()),
            "alone": float(np.abs(model.predict(x[:1], verbose=0) - probabilities[:1]).max()),
            "steps": steps,
        }
    result["musicnn"] = {}
    for name in ("msd", "mtt"):
        if f"{name}_input" in inputs:  # inputs and outputs of the original TensorFlow graph
            images = inputs[f"{name}_input"].swapaxes(1, 2)[..., None]  # from (batch, frames, mels)
            outputs = gk.GenreClassifier.from_preset(f"musicnn_{name}").image_model.predict(images, verbose=0)
            result["musicnn"][name] = float(np.abs(outputs - expected[f"{name}_output"]).max())
    labels = np.arange(len(inputs["clips"])) % 8
    result["loss"] = model.fit(inputs["clips"], labels, batch_size=4, verbose=0).history["loss"]
    result["jit"] = model.jit_compile
    model.save(f"{folder}/{keras.backend.backend()}.keras")
    np.save(f"{folder}/{keras.backend.backend()}.npy", model.predict(inputs["clips"], verbose=0))
    with open(f"{folder}/result.json", "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    sys.meta_path.insert(0, NoTorch())
    main(sys.argv[1])
