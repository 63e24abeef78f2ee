"""How fast is genrekeras compared with the tools that it replaces?

    pip install -c constraints.txt -e ".[benchmark]"
    python experiments/benchmarks/speed.py                                    # all parts
    python experiments/benchmarks/speed.py decode --clips FMA/fma_small/000   # one part, with other clips
    python experiments/benchmarks/speed.py --smoke                            # only a test of the script

The alternatives of a part run in one process and take turns. In each turn, an alternative is first called for a quarter
of a second without timing. In this time, the threads of the previous alternative fall asleep, and the caches are
filled. Then the alternative is called three times, and the median of the three times is used. Ratios are computed
between times of the same round of turns. The tables contain the median, minimum and maximum of the ratios over all
rounds. Networks have random weights and inputs are noise, which does not change the times.

Expected: 15 minutes on 2 cores. docs/results/speed.md has the results.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import warnings

sys.path.append(str(pathlib.Path(__file__).parents[1]))

import process_settings  # noqa: F401

import genrekeras as gk
import keras
import numpy as np
from genrekeras.datasets.synthetic import make_many
from genrekeras.models import backbones, folding
from genrekeras.utils import process

SMOKE = "--smoke" in sys.argv  # Processes that this script starts also get this flag.
SECONDS = 1 if SMOKE else 10
BATCH, MELS, FRAMES, SAMPLES = 2 if SMOKE else 16, 128, 1 + SECONDS * 22050 // 512, SECONDS * 22050
WARM_UP = 0.0 if SMOKE else 0.25  # time at the start of each turn that is not measured, in s
CLIPS = {"seconds": 2, "sounds": 2} if SMOKE else {"seconds": 30}  # arguments of `make_many` for the clips to decode

process.configure()  # Processes that this script starts also execute this line.


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--clips", type=pathlib.Path, help="folder of mp3 files of 30 s (default: synthetic clips)")
    parser.add_argument("--rounds", type=int, default=1 if SMOKE else 9, help="turns of each alternative (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="check that the benchmark runs, with small inputs")
    flags = parser.parse_args()
    if unknown := set(flags.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    for part in flags.parts or PARTS:
        try:
            PARTS[part](flags)
        except ImportError as error:
            print(f"\n{part}: skipped, because {error.name} is not installed")


def compare(title, alternatives, rounds, clips=BATCH):
    """Measure the times of functions that take turns, and print a table that compares them with the first function.

    Args:
        title: str, title of the table.
        alternatives: dict, name -> function without arguments.
        rounds: int > 0, number of turns of each function.
        clips: int > 0, number of clips that a call processes.

    Returns:
        dict, name -> list of times in ms per clip.
    """
    print(f"\n| {title}, on {keras.backend.backend()} | ms/clip | relative to the first |\n|---|---|---|")
    times = {name: [] for name in alternatives}
    for work in alternatives.values():
        work()
    for _ in range(rounds):
        for name, work in alternatives.items():
            end_of_warm_up = time.perf_counter() + WARM_UP
            while time.perf_counter() < end_of_warm_up:
                work()
            times[name].append(np.median(timeit.repeat(work, number=1, repeat=3)) * 1000 / clips)
    for name, milliseconds in times.items():
        print_row(name, milliseconds, next(iter(times.values())))
    return times


def print_row(name, milliseconds, first):
    """Print the row of an alternative, with the ratios of its times to the times `first` of the first alternative."""
    ratios = np.array(milliseconds) / first
    print(
        f"| {name} | {np.median(milliseconds):.3g} | "
        f"{np.median(ratios):.3g} [{ratios.min():.3g}, {ratios.max():.3g}] |",
        flush=True,
    )


def decode(flags):
    """Compare the decoding of mp3 files with librosa."""
    import librosa
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        if flags.clips is None:
            make_many(folder, 8, **CLIPS)
        paths = sorted(pathlib.Path(flags.clips or folder).rglob("*.mp3"))[:16]

        def decode_all(path):
            waveform, rate = librosa.load(path, sr=None)
            return librosa.resample(waveform[: 10 * rate], orig_sr=rate, target_sr=22050)

        def decode_only(path):
            with soundfile.SoundFile(path) as file:
                return file.read(10 * file.samplerate, dtype="float32")

        functions = {
            "librosa: decode all, crop, resample": decode_all,
            "`audio.load`, first 10 s": lambda path: gk.audio.load(path, duration=10),
            "its decoding only": decode_only,
        }
        loops = {name: lambda load=load: [load(path) for path in paths] for name, load in functions.items()}
        compare("decode", loops, flags.rounds, clips=len(paths))


def front_end(flags):
    """Compare the front end with librosa, on each backend in its own process."""
    for backend in ("torch",) if SMOKE else ("torch", "jax", "tensorflow"):
        child = new_process(f"time_front_end({flags.rounds})", {"KERAS_BACKEND": backend})
        print(child.communicate()[0], end="", flush=True)


def time_front_end(rounds):
    """Compare the front end with librosa on the current backend."""
    import librosa

    waveforms = np.random.default_rng(0).normal(0, 0.1, (BATCH, SAMPLES)).astype("float32")

    def clip_by_clip():
        for waveform in waveforms:
            power = librosa.feature.melspectrogram(y=waveform, sr=22050, n_fft=2048, hop_length=512, n_mels=MELS)
            decibels = librosa.power_to_db(power, ref=np.max)
            (decibels - decibels.min()) * (255 / np.ptp(decibels))

    alternatives = {"librosa, clip by clip": clip_by_clip}
    for dft in ("fft", "matmul"):
        layers = [gk.layers.MelSpectrogram(dft=dft), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage()]
        model = keras.Sequential([keras.Input((SAMPLES,)), *layers])
        alternatives[f'`dft="{dft}"`'] = lambda model=model: model.predict_on_batch(waveforms)
    compare("waveform to image", alternatives, rounds)


def backbone(flags):
    """Compare the inference of the backbones with ONNX Runtime and `keras.applications`."""
    names = ("efficientnet_b0", "musicnn") if SMOKE else backbones.BACKBONES
    for name in names:
        definition, model = backbones.BACKBONES[name], classifier(name)
        extractor, images = model.feature_extractor, random_images(model)
        networks = {"`feature_extractor`": extractor, "`folding.for_inference`": folding.for_inference(extractor)}
        if not isinstance(definition, backbones.MelBackbone):  # `keras.applications` has no such networks.
            application = definition.constructor(include_top=False, weights=None, input_shape=images.shape[1:])
            networks = {"`keras.applications`": application, **networks}
        alternatives = {
            key: lambda network=network, images=images: network.predict_on_batch(images)
            for key, network in networks.items()
        }
        title = f"{name}, inference, clips of {model.clip_seconds:g} s"
        compare(title, {"ONNX Runtime": run_onnx(extractor, images), **alternatives}, flags.rounds)


def random_images(model):
    """Return a batch of random images for a `GenreClassifier`: `(BATCH, mels, frames, 1)`."""
    shape = (BATCH, *model.front_end.output_shape[1:])
    return np.random.default_rng(0).uniform(*model.image_range, shape).astype("float32")


def run_onnx(model, images):
    """Export a model to ONNX, and return a function that runs it on images in ONNX Runtime."""
    import onnxruntime

    model(images[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.onnx")
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [model_input] = session.get_inputs()
    return lambda: session.run(None, {model_input.name: images})


def step(flags):
    """Compare the training step of EfficientNetB0 with `efficientnet-pytorch` and `keras.applications`."""
    import torch

    images = np.random.default_rng(0).uniform(0, 255, (BATCH, MELS, FRAMES, 1)).astype("float32")
    application = keras.applications.EfficientNetB0(weights=None, input_shape=images.shape[1:], classes=8)
    alternatives = {
        "efficientnet-pytorch": step_in_torch(images, memory_format=torch.contiguous_format),
        "the same, channels last": step_in_torch(images),
        "`keras.applications`": step_in_keras(application, images),
        "`model.image_model`": step_in_keras(classifier(fine_tune="all").image_model, images),
    }
    compare("EfficientNetB0, training step", alternatives, flags.rounds)


def step_in_keras(model, images, jit_compile="auto"):
    """Return a function that trains a model on a batch of images."""
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    return lambda: model.train_on_batch(images, np.arange(BATCH) % 8)


def step_in_torch(images, **options):
    """Return a function that trains `efficientnet-pytorch` on a batch of images. See `torch_training`."""
    import torch

    train, x = torch_training(**options), torch.from_numpy(images.transpose(0, 3, 1, 2))
    return lambda: train(x, torch.arange(BATCH) % 8)


def torch_training(memory_format=None, precision="float32", jit_compile=False):
    """Return a function that trains an EfficientNetB0 of `efficientnet-pytorch` and returns the loss.

    Args:
        memory_format: of the network and the images, by default channels last.
        precision: str, `"float32"` or `"bfloat16"`.
        jit_compile: bool, whether the network is compiled.

    Returns:
        Function of images `(batch, 1, mels, frames)` in [0, 255] and labels `(batch,)`.
    """
    import torch

    network, memory_format = torch_efficientnet(), memory_format or torch.channels_last
    network = network.to(memory_format=memory_format)
    optimizer, loss = torch.optim.Adam(network.parameters(), 1e-3), torch.nn.CrossEntropyLoss()
    network = torch.compile(network) if jit_compile else network
    device = torch_device()

    def train(images, labels):
        optimizer.zero_grad()
        images = (images.to(device) / 255).contiguous(memory_format=memory_format)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            value = loss(network(images), labels.to(device))
        value.backward()
        optimizer.step()
        return value.item()

    return train


def torch_efficientnet():
    """Return an EfficientNetB0 of `efficientnet-pytorch` with random weights, on the device of Keras."""
    from efficientnet_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-b0", in_channels=1, num_classes=8)
    network.set_swish(memory_efficient=False)  # This implementation is faster.
    return network.to(torch_device())


def torch_device():
    """Return the device that Keras uses on PyTorch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def classifier(backbone="efficientnet_b0", fine_tune="head"):
    """Return a `GenreClassifier` with random weights."""
    seconds = min(SECONDS, backbones.get(backbone).front_end.clip_seconds)
    return gk.GenreClassifier(backbone, pretrained=None, fine_tune=fine_tune, clip_seconds=seconds)


def features(flags):
    """Compare the training of the last layer on cached features with `model.fit` on audio."""
    total, epochs = {}, {}  # ms per clip
    with tempfile.TemporaryDirectory() as folder:
        make_many(folder, 20 if SMOKE else 320, seconds=2 if SMOKE else 10, sounds=2 if SMOKE else 16)
        clips = gk.datasets.load_fma(folder).train
        for name in ("`keras.applications`, `model.fit`", "`model.fit`", "`extract_features`, `fit_head`"):
            model = classifier() if total else frozen_keras_model()
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
            timer = EpochTimer()
            options = {"epochs": 2 if SMOKE else 20, "callbacks": [timer], "verbose": 0}
            start = time.perf_counter()
            if "extract" in name:
                cached = gk.training.extract_features(model, clips, folder)
                gk.training.fit_head(model, cached, batch_size=BATCH, **options)
            else:
                model.fit(gk.datasets.batches(clips, BATCH, SECONDS, shuffle=True), **options)
            total[name] = np.array([time.perf_counter() - start]) * 1000 / len(clips)
            epochs[name] = np.array(timer.seconds[1:]) * 1000 / len(clips)
    # Repeat the clips up to the size of the training split of fma_small. The fixed cost of an epoch is then negligible.
    times = 1 if SMOKE else 6400 // len(clips)
    many = gk.training.Features(
        np.tile(cached.features, (times, 1)), np.tile(cached.labels, times), np.arange(times * len(clips))
    )
    timer.seconds.clear()
    gk.training.fit_head(model, many, batch_size=BATCH, **options)
    epochs[f"`fit_head`, {len(many.labels)} clips"] = np.array(timer.seconds[1:]) * 1000 / len(many.labels)
    titles = {f"{options['epochs']} epochs, frozen EfficientNetB0": total, "an epoch after the first": epochs}
    for title, times in titles.items():
        print(f"\n| {title}, {len(clips)} clips of {SECONDS} s | ms/clip | relative to the first |\n|---|---|---|")
        for name, milliseconds in times.items():
            print_row(name, milliseconds, np.median(next(iter(times.values()))))


def frozen_keras_model():
    """Return a model with the network of `keras.applications` that corresponds to `classifier()`."""
    network = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(MELS, FRAMES, 1), pooling="avg"
    )
    network.trainable = False
    front = [gk.layers.MelSpectrogram(), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage()]
    head = [keras.layers.Dropout(0.5), keras.layers.Dense(8, activation="softmax")]
    return keras.Sequential([keras.Input((SAMPLES,)), *front, network, *head])


class EpochTimer(keras.callbacks.Callback):
    """Callback that measures the time of each epoch in s."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def start(flags):
    """Measure the imports, and the steps from the start of a process to a prediction."""
    seconds = {"import keras": [], "import genrekeras": []}
    for _ in range(flags.rounds):
        for code, times in seconds.items():
            command = [sys.executable, "-c", code]
            times.append(timeit.timeit(lambda command=command: subprocess.run(command, check=True), number=1))
    print("\n| start of a process | ms | relative to the first |\n|---|---|---|")
    for code, times in seconds.items():
        print_row(f"`{code}`", np.array(times) * 1000, np.array(seconds["import keras"]) * 1000)

    with tempfile.TemporaryDirectory() as folder:
        make_many(folder, 1, **CLIPS)
        classifier().save(os.path.join(folder, "genre.keras"))
        script = "; ".join(
            f"mark = time.perf_counter(); {code}; print('| {name} |', round(1000 * (time.perf_counter() - mark)), '|')"
            for name, code in (
                ("import genrekeras, with Keras and torch", "import genrekeras as gk, keras, numpy as np"),
                ("load the saved model", f"model = keras.saving.load_model({os.path.join(folder, 'genre.keras')!r})"),
                ("decode 30 s of mp3", f"y = gk.audio.load({next(map(str, pathlib.Path(folder).rglob('*.mp3')))!r})"),
                ("predict three clips", f"x = np.resize(y, (3, {SAMPLES})); model.predict_on_batch(x)"),
                ("predict them again", "model.predict_on_batch(x)"),
            )
        )
        print("\n| from start to prediction, one process | ms |\n|---|---|", flush=True)
        subprocess.run([sys.executable, "-W", "ignore", "-c", f"import time; {script}"], check=True)


def threads(flags):
    """Compare settings of threads, for one process and for two processes that run at the same time."""
    settings = {
        "default of torch": {"GOMP_SPINCOUNT": "300000"},
        "settings of genrekeras' programs": {},
        "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    }
    if SMOKE:
        settings = {"OMP_NUM_THREADS=1": settings["OMP_NUM_THREADS=1"]}
    for count, processes in ((1, "one process"), (2, "two at once"))[: 1 if SMOKE else 2]:
        print(f"\n| threads, {processes} | ms/clip | relative to the first |\n|---|---|---|")
        first = None
        for name, setting in settings.items():
            runs = [new_process("time_inference()", setting) for _ in range(count)]
            for run in runs:
                run.stdout.readline()  # Wait until the process is ready.
            for run in runs:
                run.stdin.write("go\n")
                run.stdin.flush()
            times = [float(run.communicate()[0]) for run in runs]
            first = first or np.mean(times)
            print_row(name, times, first)


def time_inference():
    """Wait for a line on standard input, measure the time of a network, and print the time in ms per clip."""
    network = folding.for_inference(backbones.FeatureExtractor("efficientnet_b0", (MELS, FRAMES, 1)))
    images = np.random.default_rng(0).uniform(0, 255, (BATCH, MELS, FRAMES, 1)).astype("float32")
    network.predict_on_batch(images)
    print("ready", flush=True)
    sys.stdin.readline()
    times = 1 if SMOKE else 20
    print(timeit.timeit(lambda: network.predict_on_batch(images), number=times) / times * 1000 / BATCH)


def memory(flags):
    """Measure the peak memory of two kinds of training."""
    print("\n| memory beyond the model, one crop of 1 s of each clip | MB |\n|---|---|")
    for count in (40,) if SMOKE else (2000, 8000):
        with tempfile.TemporaryDirectory() as folder:
            make_many(folder, count, seconds=2, sounds=2 if SMOKE else 16)
            for name in ("fit_features", "fit_clips")[: 1 if SMOKE else 2]:
                child = new_process(f"print_peak_memory(speed.{name}, {folder!r})", {})
                print(f"| {count} clips: {name} | {child.communicate()[0].split()[-1]} |", flush=True)


def print_peak_memory(work, folder):
    """Print the peak memory of a function in MB, minus the memory of the process after the first training batch."""
    import psutil

    model = gk.GenreClassifier(pretrained=None, fine_tune="head" if work is fit_features else "all", clip_seconds=1.0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.train_on_batch(np.zeros((BATCH, 22050)), np.zeros(BATCH))
    resident = psutil.Process().memory_info
    sizes = [resident().rss]
    thread = threading.Thread(target=work, args=[model, gk.datasets.load_fma(folder), folder])
    thread.start()
    while thread.is_alive():
        sizes.append(resident().rss)
        time.sleep(0.01)
    print(round((max(sizes) - sizes[0]) / 1e6))


def fit_features(model, data, folder):
    """Train and evaluate the last layer on cached features."""
    train, validation = (gk.training.extract_features(model, split, folder) for split in (data.train, data.validation))
    gk.training.fit_head(model, train, validation, epochs=3, verbose=0)
    gk.evaluation.evaluate(model, data.train)


def fit_clips(model, data, folder):
    """Train all layers on clips for one epoch."""
    validation = gk.datasets.batches(data.validation, BATCH, 1.0)
    model.fit(gk.datasets.batches(data.train, BATCH, 1.0, shuffle=True), validation_data=validation, verbose=0)


def new_process(call, environment):
    """Start a process that calls a function of this file, and return the process. Its output can be read."""
    command = [sys.executable, "-W", "ignore", "-c", f"import speed; speed.{call}"]
    command += ["--smoke"] if SMOKE else []
    folder = os.path.dirname(os.path.abspath(__file__))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    inherited = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    return subprocess.Popen(command, cwd=folder, env={**inherited, **environment}, **pipes)


PARTS = {
    "decode": decode,
    "front_end": front_end,
    "backbone": backbone,
    "step": step,
    "features": features,
    "start": start,
    "threads": threads,
    "memory": memory,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
