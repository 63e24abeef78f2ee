"""What does a model lose when its weights are kept in 16 or in 8 bits, and how small and fast is it then?

    KERAS_BACKEND=tensorflow python experiments/ablations/quantization.py --spectrograms fma_small_frames.npz --clips CLIPS

EfficientNet-Lite0 with ImageNet's weights; its last layer is trained on spectrograms of fma_small (20 epochs; the one
that is best on validation is kept, so that its accuracy flatters a little, and the comparison does not). Exported to
LiteRT twice: from the image, for the accuracy on validation, and from the waveform, for size and time.

Expected: 2 minutes on 2 cores; 47.6 % of 800 validation tracks right in 32 bits and in 16, 46.6 % in 8.
"""

import argparse
import os
import tempfile
import time

import genrekeras as gk
import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from genrekeras import audio, export
from genrekeras.datasets import load_spectrograms, sampled_logmel_front_end
from genrekeras.inference import find_files

WEIGHTS = (None, "float16", "int8")
ROUNDS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--spectrograms", required=True, help="npz file of spectrograms, as gk.datasets.load_spectrograms reads it"
    )
    parser.add_argument("--clips", required=True, help="folder of music to compare waveform models on")
    flags = parser.parse_args()
    keras.utils.set_random_seed(0)
    data = load_spectrograms(flags.spectrograms)
    model = trained(data)
    with tempfile.TemporaryDirectory() as folder:
        images_in = {name: image_model(model, os.path.join(folder, f"{name}.tflite"), name) for name in WEIGHTS}
        shares = {name: probabilities(run, data.validation) for name, run in images_in.items()}
        waves, waveforms = {}, clips(flags.clips, model)
        for name in WEIGHTS:
            path = os.path.join(folder, f"waveform-{name}.tflite")
            waves[name] = path, gk.export.export(model, path, "litert", waveforms, quantize=name)
        times = {(name, threads): [] for name in WEIGHTS for threads in (1, 2)}
        for _ in range(ROUNDS):  # in turns
            for (name, threads), seen in times.items():
                seen.append(seconds(waves[name][0], threads, waveforms[:1]))
        print("| weights | MB | right | as float32 | differs: median, most | clips, most | ms a clip, 1 / 2 threads |")
        print("|---|---|---|---|---|---|---|")
        exact, right = shares[None], data.validation.labels
        for name in WEIGHTS:
            off = np.abs(shares[name] - exact).max(axis=1)
            found, same = shares[name].argmax(axis=1), exact.argmax(axis=1)
            path, most = waves[name]
            ms = " / ".join(f"{1000 * np.median(times[name, threads]):.0f}" for threads in (1, 2))
            print(
                f"| {name or 'float32'} | {os.path.getsize(path) / 1e6:.1f} | {(found == right).mean():.1%} | "
                f"{(found == same).mean():.1%} | {np.median(off):.2g}, {off.max():.2g} | {most:.1g} | {ms} |"
            )


def trained(data):
    """The last layer on the features of a backbone that stands still."""
    model = gk.GenreClassifier("efficientnet_lite0", clip_seconds=30.0, front_end=sampled_logmel_front_end())
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, validation = (gk.training.extract_features(model, split) for split in (data.train, data.validation))
    with tempfile.TemporaryDirectory() as folder:
        best = gk.callbacks.BestCheckpoint(os.path.join(folder, "best.keras"), model=model)
        gk.training.fit_head(model, train, validation, batch_size=16, epochs=20, callbacks=[best], verbose=2)
        return keras.saving.load_model(best.path)


def image_model(model, path, quantize):
    """The part behind the front end by LiteRT: a function of images."""
    row, options = export.FORMATS["litert"], {"quantize": quantize} if quantize else {}
    row.write(keras.Model(model.image_model.input, model.image_model.output), path, {}, None, **options)
    return row.run(path)


def probabilities(run, split):
    return np.concatenate([run(image[None].astype("float32")) for image in split.images])


def clips(folder, model):
    samples = model.input_shape[1]
    return np.stack([audio.to_length(audio.load(p, model.sample_rate), samples) for p in find_files(folder)])


def seconds(path, threads, waveform):
    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], waveform)
    interpreter.invoke()  # the first call packs weights
    began = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
