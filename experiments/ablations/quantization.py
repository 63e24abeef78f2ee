"""How much accuracy do float16 and int8 weights cost, and how much space and time do they save?

    KERAS_BACKEND=tensorflow python experiments/ablations/quantization.py --spectrograms fma_small.npz --clips CLIPS

The model is EfficientNet-Lite0 with ImageNet weights. Its last layer is trained on spectrograms of fma_small for 20
epochs. The epoch with the best validation accuracy is kept. This accuracy is slightly too high, but the comparison is
fair. The model is exported to LiteRT twice. An export with images as input gives the accuracy on the validation split.
An export with waveforms as input gives size and time.

Expected: 2 minutes on 2 cores. The accuracy on 800 validation tracks is 47.6 % with float32 and float16 weights, and
46.6 % with int8 weights.
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
        "--spectrograms",
        required=True,
        metavar="FILE",
        help=".npz file of spectrograms that `genrekeras fma spectrograms` wrote",
    )
    parser.add_argument(
        "--clips", required=True, metavar="FOLDER", help="audio files on which the exported models are compared"
    )
    flags = parser.parse_args()
    keras.utils.set_random_seed(0)
    data = load_spectrograms(flags.spectrograms)
    model = train(data)
    with tempfile.TemporaryDirectory() as folder:
        image_models = {
            name: export_image_model(model, os.path.join(folder, f"{name}.tflite"), name) for name in WEIGHTS
        }
        probabilities = {name: predict(run, data.validation) for name, run in image_models.items()}
        exported, waveforms = {}, load_clips(flags.clips, model)
        for name in WEIGHTS:
            path = os.path.join(folder, f"waveform-{name}.tflite")
            exported[name] = path, gk.export.export(model, path, "litert", waveforms, quantize=name)
        times = {(name, threads): [] for name in WEIGHTS for threads in (1, 2)}
        for _ in range(ROUNDS):  # The measurements alternate, so that other processes slow all models alike.
            for (name, threads), seconds in times.items():
                seconds.append(time_of_clip(exported[name][0], threads, waveforms[:1]))
        print("| weights | MB | accuracy | as float32 | difference: median, most | clips, most | ms, 1 / 2 threads |")
        print("|---|---|---|---|---|---|---|")
        reference, labels = probabilities[None], data.validation.labels
        for name in WEIGHTS:
            differences = np.abs(probabilities[name] - reference).max(axis=1)
            predictions = probabilities[name].argmax(axis=1)
            path, most = exported[name]
            ms = " / ".join(f"{1000 * np.median(times[name, threads]):.0f}" for threads in (1, 2))
            print(
                f"| {name or 'float32'} | {os.path.getsize(path) / 1e6:.1f} | {(predictions == labels).mean():.1%} | "
                f"{(predictions == reference.argmax(axis=1)).mean():.1%} | {np.median(differences):.2g}, "
                f"{differences.max():.2g} | {most:.1g} | {ms} |"
            )


def train(data):
    """Train the last layer of a model on the features of the frozen backbone, and return the model."""
    model = gk.GenreClassifier("efficientnet_lite0", clip_seconds=30.0, front_end=sampled_logmel_front_end())
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, validation = (gk.training.extract_features(model, split) for split in (data.train, data.validation))
    with tempfile.TemporaryDirectory() as folder:
        best = gk.callbacks.BestCheckpoint(os.path.join(folder, "best.keras"), model=model)
        gk.training.fit_head(model, train, validation, batch_size=16, epochs=20, callbacks=[best], verbose=2)
        return keras.saving.load_model(best.path)


def export_image_model(model, path, quantize):
    """Export the image model to LiteRT, and return a function that runs the exported model on images."""
    litert, options = export.FORMATS["litert"], {"quantize": quantize} if quantize else {}
    image = model.image_model.input
    features = model.feature_extractor(image)
    outputs = [model.head(features), features, model.ood_score(features)]
    litert.write(keras.Model(image, outputs), path, {}, None, **options)
    run, _ = litert.load(path)
    return lambda images: run(images)["probabilities"]


def predict(run, split):
    """Return the probabilities of the images of a split, `(tracks, genres)`."""
    return np.concatenate([run(image[None].astype("float32")) for image in split.images])


def load_clips(folder, model):
    """Return the first clip of each file in a folder, `(files, samples)`."""
    samples = model.input_shape[1]
    return np.stack([audio.to_length(audio.load(p, model.sample_rate), samples) for p in find_files(folder)])


def time_of_clip(path, threads, waveform):
    """Return the time in s that an exported model takes for a clip."""
    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], waveform)
    interpreter.invoke()  # The first call packs the weights, so it is not measured.
    start = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
