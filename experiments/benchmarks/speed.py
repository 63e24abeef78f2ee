"""How fast is genrekeras beside what a user would otherwise pick?

    pip install -c constraints.txt -e ".[benchmark]"
    python experiments/benchmarks/speed.py                                   # all parts
    python experiments/benchmarks/speed.py decode --clips FMA/fma_small/000   # some, on clips of your own
    python experiments/benchmarks/speed.py --smoke                           # checks that it runs; its figures mean nothing

Both sides run in one process, in turns. A turn is calls for a quarter of a second that are not counted, while threads
of the other side still wait for work and caches are still theirs, and the median of three that are. A ratio is of two
times in the same turn: the median of all turns, with the lowest and the highest. Networks have random weights, inputs
are noise: neither changes the time.

Expected: 15 minutes on 2 cores. README shows what was seen.
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

import genrekeras as gk
import keras
import numpy as np
from genrekeras.utils.process import skip_tensorflow

SMOKE = "--smoke" in sys.argv  # of this process and of those that it starts
SECONDS = 1 if SMOKE else 10
BATCH, MELS, FRAMES, SAMPLES = 2 if SMOKE else 16, 128, 1 + SECONDS * 22050 // 512, SECONDS * 22050
SETTLE = 0.0 if SMOKE else 0.25  # seconds of each turn that are not counted
CLIPS = {"seconds": 2, "sounds": 2} if SMOKE else {"seconds": 30}  # to decode, made by `make_many`

skip_tensorflow()  # in the processes that it starts too


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--clips", type=pathlib.Path, help="folder with mp3 files of 30 s (default: made-up ones)")
    parser.add_argument("--rounds", type=int, default=1 if SMOKE else 9, help="turns of each side (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="only check that it runs: one turn on small inputs")
    flags = parser.parse_args()
    if unknown := set(flags.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    for part in flags.parts or PARTS:
        try:
            PARTS[part](flags)
        except ImportError as error:
            print(f"\n{part}: left out, since {error.name} is not installed")


def compare(title, sides, rounds, per=BATCH):
    """Time functions in turns; each is set against the first one.

    Args:
        title: str.
        sides: dict, name -> function without arguments.
        rounds: int > 0.
        per: int > 0, clips that a call works on.
    """
    print(f"\n| {title}, on {keras.backend.backend()} | ms a clip | its time / the first one's |\n|---|---|---|")
    times = {name: [] for name in sides}
    for work in sides.values():
        work()
    for _ in range(rounds):
        for name, work in sides.items():
            settled = time.perf_counter() + SETTLE
            while time.perf_counter() < settled:
                work()
            times[name].append(np.median(timeit.repeat(work, number=1, repeat=3)) * 1000 / per)
    for name, own in times.items():
        show(name, own, next(iter(times.values())))


def show(name, own, first):
    ratios = np.array(own) / first
    print(
        f"| {name} | {np.median(own):.3g} | {np.median(ratios):.3g} [{ratios.min():.3g}, {ratios.max():.3g}] |",
        flush=True,
    )


def decode(flags):
    import librosa
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        if flags.clips is None:
            gk.datasets.mini.make_many(folder, 8, **CLIPS)
        paths = sorted(pathlib.Path(flags.clips or folder).rglob("*.mp3"))[:16]

        def whole_then_crop(path):
            waveform, rate = librosa.load(path, sr=None)
            return librosa.resample(waveform[: 10 * rate], orig_sr=rate, target_sr=22050)

        def nothing_else(path):
            with soundfile.SoundFile(path) as file:
                return file.read(10 * file.samplerate, dtype="float32")

        ways = {
            "librosa: decode all, crop, resample": whole_then_crop,
            "`audio.load`, first 10 s": lambda path: gk.audio.load(path, duration=10),
            "its decoding alone": nothing_else,
        }
        sides = {name: lambda way=way: [way(path) for path in paths] for name, way in ways.items()}
        compare("decode", sides, flags.rounds, per=len(paths))


def front_end(flags):
    for backend in ("torch",) if SMOKE else ("torch", "jax", "tensorflow"):
        print(anew(f"front_end_here({flags.rounds})", {"KERAS_BACKEND": backend}).communicate()[0], end="", flush=True)


def front_end_here(rounds):
    import librosa

    waveforms = np.random.default_rng(0).normal(0, 0.1, (BATCH, SAMPLES)).astype("float32")

    def one_by_one():
        for waveform in waveforms:
            power = librosa.feature.melspectrogram(y=waveform, sr=22050, n_fft=2048, hop_length=512, n_mels=MELS)
            decibels = librosa.power_to_db(power, ref=np.max)
            (decibels - decibels.min()) * (255 / np.ptp(decibels))

    sides = {"librosa, clip by clip": one_by_one}
    for dft in ("fft", "matmul"):
        layers = [gk.layers.MelSpectrogram(dft=dft), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage()]
        model = keras.Sequential([keras.Input((SAMPLES,)), *layers])
        sides[f'`dft="{dft}"`'] = lambda model=model: model.predict_on_batch(waveforms)
    compare("waveform to image", sides, rounds)


def backbone(flags):
    images = np.random.default_rng(0).uniform(0, 255, (BATCH, MELS, FRAMES, 1)).astype("float32")
    names = ("efficientnet_b0", "mel_cnn", "mel_kernel") if SMOKE else gk.backbones.BACKBONES
    for name in names:
        row = gk.backbones.BACKBONES[name]
        ours = gk.backbones.FeatureExtractor(name, images.shape[1:])
        networks = {"`feature_extractor`": ours, "`folding.for_inference`": gk.folding.for_inference(ours)}
        if not isinstance(row, gk.backbones.MelBackbone):  # those are networks of ours only
            stock = row.constructor(include_top=False, weights=None, input_shape=images.shape[1:])
            networks = {"Keras, as it builds it": stock, **networks}
        sides = {key: lambda network=network: network.predict_on_batch(images) for key, network in networks.items()}
        compare(f"{name}, inference", {"ONNX Runtime": on_onnx_runtime(ours, images), **sides}, flags.rounds)


def on_onnx_runtime(model, images):
    import onnxruntime

    model(images[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.onnx")
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda: session.run(None, {given.name: images})


def step(flags):
    import torch
    from efficientnet_pytorch import EfficientNet

    images = np.random.default_rng(0).uniform(0, 255, (BATCH, MELS, FRAMES, 1)).astype("float32")
    labels = np.arange(BATCH) % 8

    def plain(memory_format):
        network = EfficientNet.from_name("efficientnet-b0", in_channels=1, num_classes=8).to(
            memory_format=memory_format
        )
        network.set_swish(memory_efficient=False)  # the faster one
        optimizer, loss = torch.optim.Adam(network.parameters(), 1e-3), torch.nn.CrossEntropyLoss()
        x = torch.from_numpy(images.transpose(0, 3, 1, 2) / 255).contiguous(memory_format=memory_format)

        def work():
            optimizer.zero_grad()
            loss(network(x), torch.from_numpy(labels)).backward()
            optimizer.step()

        return work

    def on_keras(model):
        model.compile("adam", "sparse_categorical_crossentropy")
        return lambda: model.train_on_batch(images, labels)

    stock = keras.applications.EfficientNetB0(weights=None, input_shape=images.shape[1:], classes=8)
    sides = {
        "efficientnet-pytorch": plain(torch.contiguous_format),
        "the same, channels last": plain(torch.channels_last),
        "Keras, as it builds it": on_keras(stock),
        "`model.image_model`": on_keras(classifier(fine_tune="all").image_model),
    }
    compare("EfficientNetB0, training step", sides, flags.rounds)


def classifier(fine_tune="head"):
    return gk.GenreClassifier(pretrained=None, fine_tune=fine_tune, clip_seconds=SECONDS)


def features(flags):
    whole, epochs = {}, {}  # ms a clip
    with tempfile.TemporaryDirectory() as folder:
        gk.datasets.mini.make_many(folder, 20 if SMOKE else 320, seconds=2 if SMOKE else 10, sounds=2 if SMOKE else 16)
        clips = gk.datasets.load_fma(folder).train
        for name in ("Keras, as it builds it", "`model.fit`", "`extract`, `fit_head`"):
            model = classifier() if whole else frozen_as_keras_builds_it()
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
            watch = Watch()
            options = {"epochs": 2 if SMOKE else 20, "callbacks": [watch], "verbose": 0}
            start = time.perf_counter()
            if "extract" in name:
                kept = gk.training.extract_features(model, clips, folder)
                gk.training.fit_head(model, kept, batch_size=BATCH, **options)
            else:
                model.fit(gk.datasets.batches(clips, BATCH, SECONDS, shuffle=True), **options)
            whole[name] = np.array([time.perf_counter() - start]) * 1000 / len(clips)
            epochs[name] = np.array(watch.seconds[1:]) * 1000 / len(clips)
    # With as many clips as fma_small trains on the cost of an epoch itself no longer counts.
    times = 1 if SMOKE else 6400 // len(clips)
    many = gk.training.feature_cache.Features(
        np.tile(kept.features, (times, 1)), np.tile(kept.labels, times), np.arange(times * len(clips))
    )
    watch.seconds.clear()
    gk.training.fit_head(model, many, batch_size=BATCH, **options)
    epochs[f"`fit_head`, {len(many.labels)} clips"] = np.array(watch.seconds[1:]) * 1000 / len(many.labels)
    titles = {f"{options['epochs']} epochs, frozen EfficientNetB0": whole, "an epoch after the first": epochs}
    for what, own in titles.items():
        print(
            f"\n| {what}, {len(clips)} clips of {SECONDS} s | ms a clip | its time / the first one's |\n|---|---|---|"
        )
        for name, milliseconds in own.items():
            show(name, milliseconds, np.median(next(iter(own.values()))))


def frozen_as_keras_builds_it():
    network = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(MELS, FRAMES, 1), pooling="avg"
    )
    network.trainable = False
    front = [gk.layers.MelSpectrogram(), gk.layers.PowerToDecibels(), gk.layers.SpectrogramToImage()]
    head = [keras.layers.Dropout(0.5), keras.layers.Dense(8, activation="softmax")]
    return keras.Sequential([keras.Input((SAMPLES,)), *front, network, *head])


class Watch(keras.callbacks.Callback):
    """The seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)


def start(flags):
    seconds = {"import keras": [], "import genrekeras": []}
    for _ in range(flags.rounds):
        for code, own in seconds.items():
            own.append(
                timeit.timeit(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True), number=1)
            )
    print("\n| start, a process each | ms | its time / the first one's |\n|---|---|---|")
    for code, own in seconds.items():
        show(f"`{code}`", np.array(own) * 1000, np.array(seconds["import keras"]) * 1000)

    with tempfile.TemporaryDirectory() as folder:
        gk.datasets.mini.make_many(folder, 1, **CLIPS)
        classifier().save(os.path.join(folder, "genre.keras"))
        script = "; ".join(
            f"mark = time.perf_counter(); {code}; print('| {name} |', round(1000 * (time.perf_counter() - mark)), '|')"
            for name, code in (
                ("import genrekeras, Keras and torch with it", "import genrekeras as gk, keras, numpy as np"),
                ("load the saved model", f"model = keras.saving.load_model({os.path.join(folder, 'genre.keras')!r})"),
                ("decode 30 s of mp3", f"y = gk.audio.load({next(map(str, pathlib.Path(folder).rglob('*.mp3')))!r})"),
                ("predict its three clips", f"x = np.resize(y, (3, {SAMPLES})); model.predict_on_batch(x)"),
                ("the same once more", "model.predict_on_batch(x)"),
            )
        )
        print("\n| from start to genre, one process | ms |\n|---|---|", flush=True)
        subprocess.run([sys.executable, "-W", "ignore", "-c", f"import time; {script}"], check=True)


def threads(flags):
    settings = {
        "as torch has them": {"GOMP_SPINCOUNT": "300000"},
        "as genrekeras has them": {},
        "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    }
    if SMOKE:
        settings = {"OMP_NUM_THREADS=1": settings["OMP_NUM_THREADS=1"]}
    for count, processes in ((1, "one process"), (2, "two at once"))[: 1 if SMOKE else 2]:
        print(f"\n| threads, {processes} | ms a clip | its time / the first one's |\n|---|---|---|")
        first = None
        for name, setting in settings.items():
            runs = [anew("infer()", setting) for _ in range(count)]
            for run in runs:
                run.stdout.readline()  # it is ready
            for run in runs:
                run.stdin.write("go\n")
                run.stdin.flush()
            own = [float(run.communicate()[0]) for run in runs]
            first = first or np.mean(own)
            show(name, own, first)


def infer():
    network = gk.folding.for_inference(gk.backbones.FeatureExtractor("efficientnet_b0", (MELS, FRAMES, 1)))
    images = np.random.default_rng(0).uniform(0, 255, (BATCH, MELS, FRAMES, 1)).astype("float32")
    network.predict_on_batch(images)
    print("ready", flush=True)
    sys.stdin.readline()
    times = 1 if SMOKE else 20
    print(timeit.timeit(lambda: network.predict_on_batch(images), number=times) / times * 1000 / BATCH)


def memory(flags):
    print("\n| memory beyond the model, clips of 2 s, of which it hears 1 s | MB |\n|---|---|")
    for count in (40,) if SMOKE else (2000, 8000):
        with tempfile.TemporaryDirectory() as folder:
            gk.datasets.mini.make_many(folder, count, seconds=2, sounds=2 if SMOKE else 16)
            for name in ("fit_features", "fit_clips")[: 1 if SMOKE else 2]:
                megabytes = anew(f"most_memory(benchmark.{name}, {folder!r})", {}).communicate()[0].split()[-1]
                print(f"| {count}: {name} | {megabytes} |", flush=True)


def most_memory(work, folder):
    """Print the MB that a function takes at the most beyond a model that has seen a batch."""
    import psutil

    model = gk.GenreClassifier(pretrained=None, fine_tune="head" if work is fit_features else "all", clip_seconds=1.0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.train_on_batch(np.zeros((BATCH, 22050)), np.zeros(BATCH))
    resident = psutil.Process().memory_info
    most = [resident().rss]
    thread = threading.Thread(target=work, args=[model, gk.datasets.load_fma(folder), folder])
    thread.start()
    while thread.is_alive():
        most.append(resident().rss)
        time.sleep(0.01)
    print(round((max(most) - most[0]) / 1e6))


def fit_features(model, data, folder):
    train, validation = (gk.training.extract_features(model, split, folder) for split in (data.train, data.validation))
    gk.training.fit_head(model, train, validation, epochs=3, verbose=0)
    gk.evaluation.evaluate(model, data.train)


def fit_clips(model, data, folder):
    held_out = gk.datasets.batches(data.validation, BATCH, 1.0)
    model.fit(gk.datasets.batches(data.train, BATCH, 1.0, shuffle=True), validation_data=held_out, verbose=0)


def anew(call, setting):
    """A function of this file in a new process; what it prints can be read."""
    command = [sys.executable, "-W", "ignore", "-c", f"import benchmark; benchmark.{call}"]
    command += ["--smoke"] if SMOKE else []
    folder = os.path.dirname(os.path.abspath(__file__))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    return subprocess.Popen(command, cwd=folder, env={**environment, **setting}, **pipes)


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
