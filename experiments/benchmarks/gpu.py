"""How fast is genrekeras on a GPU compared with plain PyTorch?

    pip install -c constraints.txt -e ".[benchmark]"          # with a build of PyTorch for the GPU
    python experiments/benchmarks/gpu.py > gpu.md
    python experiments/benchmarks/gpu.py --smoke              # only a test of the script, on a CPU

`speed.py` describes how the alternatives take turns. Each call ends when the GPU has finished. Ratios below 1 mean that
genrekeras is faster. Compilation takes longest, so compiled training steps come last.

Expected: at most 8 minutes on one GPU, because the script ends after this time. It was not run on a GPU yet.
"""

import argparse
import contextlib
import signal
import tempfile
import warnings

import speed  # isort: skip  # configures the process before PyTorch is imported

import genrekeras as gk
import keras
import librosa
import numpy as np
import torch
from data import read
from genrekeras.datasets.synthetic import make_many
from genrekeras.models import folding
from speed import BATCH, SAMPLES, SMOKE

MAX_SECONDS = 480
DEVICE = speed.torch_device()
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # precision -> dtype policy of Keras
CLIPS, CLIP_SECONDS = (20, 2) if SMOKE else (128, 30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1 if SMOKE else 5, help="turns of each alternative (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="check that the benchmark runs, with small inputs")
    rounds = parser.parse_args().rounds
    if DEVICE == "cpu" and not SMOKE:
        parser.error("PyTorch has no GPU. Use speed.py on a CPU, or --smoke to test this script.")
    if SMOKE:
        torch.compiler.set_stance("force_eager")  # Compilation takes minutes.
    else:
        signal.alarm(MAX_SECONDS)
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    print(f"{card}, PyTorch {torch.__version__}, Keras {keras.__version__}, batches of {BATCH}")
    for part in (front_end, musicnn, efficientnet, step, epoch, compiled_step):
        try:
            part(rounds)
        except (ImportError, RuntimeError) as error:  # RuntimeError: too little memory, or no compiler
            print(f"\n{part.__name__}: skipped, {type(error).__name__}: {error}")


def compare(title, alternatives, rounds, **options):
    """Compare functions as `speed.compare` does. Each call ends when the GPU has finished."""

    def synchronized(work):
        def run():
            work()
            if DEVICE == "cuda":
                torch.cuda.synchronize()

        return run

    return speed.compare(title, {name: synchronized(work) for name, work in alternatives.items()}, rounds, **options)


@contextlib.contextmanager
def dtype_policy(precision):
    """Context manager in which Keras' layers are created for a precision."""
    keras.config.set_dtype_policy(PRECISIONS[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def front_end(rounds):
    """Compare the front end with the same operations in PyTorch."""
    waveforms = np.random.default_rng(0).normal(0, 0.1, (BATCH, SAMPLES)).astype("float32")
    plain, model = torch_front_end(), speed.classifier().front_end
    alternatives = {
        "plain PyTorch": lambda: plain(torch.from_numpy(waveforms)).cpu().numpy(),
        "`model.front_end`": lambda: model.predict_on_batch(waveforms),
    }
    compare("waveform to image", alternatives, rounds)


def torch_front_end():
    """Return a function of waveforms `(batch, samples)`. It returns images `(batch, 1, mels, frames)` on the GPU."""
    window = torch.hann_window(2048, device=DEVICE)
    filters = torch.from_numpy(librosa.filters.mel(sr=22050, n_fft=2048, n_mels=speed.MELS)).to(DEVICE)

    def compute(waveforms):
        spectrum = torch.stft(waveforms.to(DEVICE), 2048, 512, window=window, pad_mode="constant", return_complex=True)
        decibels = 10 * torch.log10(torch.clamp(filters @ spectrum.abs().square(), min=1e-10))
        decibels = torch.maximum(decibels, decibels.amax((1, 2), keepdim=True) - 80)
        low, high = decibels.amin((1, 2), keepdim=True), decibels.amax((1, 2), keepdim=True)
        return ((decibels - low) * (255 / (high - low)))[:, None]

    return compute


def musicnn(rounds):
    """Compare the inference of musicnn with the same network in PyTorch."""
    compare_inference("musicnn", Musicnn(), rounds)


def efficientnet(rounds):
    """Compare the inference of EfficientNetB0 with `efficientnet-pytorch`."""
    compare_inference("efficientnet_b0", speed.torch_efficientnet(), rounds)


def compare_inference(name, network, rounds):
    """Compare the inference of a backbone with a network of PyTorch, in each precision."""
    network = network.to(DEVICE, memory_format=torch.channels_last).eval()
    for precision in PRECISIONS:
        with dtype_policy(precision):
            model = speed.classifier(name)
            networks = {
                "`feature_extractor`": model.feature_extractor,
                "`folding.for_inference`": folding.for_inference(model.feature_extractor),
            }
        images = speed.random_images(model)

        def infer(images=images, precision=precision):
            x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(DEVICE, memory_format=torch.channels_last)
            with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bfloat16"):
                return network(x).float().cpu().numpy()

        alternatives = {
            key: lambda part=part, images=images: part.predict_on_batch(images) for key, part in networks.items()
        }
        compare(f"{name}, inference, {precision}", {"plain PyTorch": infer, **alternatives}, rounds)


class Musicnn(torch.nn.Module):
    """The backbone `"musicnn"` in PyTorch: `(batch, 1, mels, frames)` -> `(batch, 200)`."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)
        sizes = ((204, (38, 7)), (204, (67, 7)), (51, (1, 128)), (51, (1, 64)), (51, (1, 32)))
        self.first = torch.nn.ModuleList(self._convolution(1, *size) for size in sizes)
        self.others = torch.nn.ModuleList(self._convolution(channels, 64, (1, 7)) for channels in (561, 64, 64))
        self.dense = torch.nn.Sequential(
            torch.nn.BatchNorm1d(1506),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(1506, 200),
            torch.nn.ReLU(),
            torch.nn.BatchNorm1d(200),
        )

    def _convolution(self, channels, filters, size):
        frames = size[1] - 1
        return torch.nn.Sequential(
            torch.nn.ZeroPad2d((frames // 2, frames - frames // 2, 0, 0)),
            torch.nn.Conv2d(channels, filters, size),
            torch.nn.ReLU(),
            torch.nn.BatchNorm2d(filters),
        )

    def forward(self, image):
        image = self.norm(image)
        x = torch.cat([convolution(image).amax(2, keepdim=True) for convolution in self.first], 1)
        outputs = [x, self.others[0](x)]
        for convolution in self.others[1:]:
            outputs.append(convolution(outputs[-1]) + outputs[-1])
        x = torch.cat(outputs, 1)
        return self.dense(torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))


def step(rounds, jit_compile=False):
    """Compare the training step of EfficientNetB0 with `efficientnet-pytorch`, in each precision."""
    for precision in PRECISIONS:
        with dtype_policy(precision):
            model = speed.classifier(fine_tune="all")
        images = speed.random_images(model)
        alternatives = {
            "plain PyTorch": speed.step_in_torch(images, precision=precision, jit_compile=jit_compile),
            "`model.image_model`": speed.step_in_keras(model.image_model, images, jit_compile),
        }
        title = f"EfficientNetB0, training step, {precision}{', compiled' if jit_compile else ''}"
        compare(title, alternatives, rounds)


def compiled_step(rounds):
    """Compare compiled training steps."""
    step(rounds, jit_compile=True)


def epoch(rounds):
    """Compare an epoch on audio, in which all layers are trained, with the same in PyTorch, and with reading alone."""
    with tempfile.TemporaryDirectory() as folder:
        make_many(folder, CLIPS, CLIP_SECONDS, sounds=2 if SMOKE else 16)
        clips = gk.datasets.load_fma(folder).train
        batches = gk.datasets.batches(clips, BATCH, CLIP_SECONDS, shuffle=True)
        model = gk.GenreClassifier(pretrained=None, fine_tune="all", clip_seconds=CLIP_SECONDS)
        model.compile("adam", "sparse_categorical_crossentropy")
        plain, train = torch_front_end(), speed.torch_training()

        def fit_in_torch():
            for i in range(len(batches)):
                waveforms, labels = map(torch.from_numpy, batches[i])
                train(plain(waveforms), labels.long())
            batches.on_epoch_end()

        alternatives = {
            "plain PyTorch": fit_in_torch,
            "`model.fit`": lambda: model.fit(batches, verbose=0),
            "reading only": lambda: read(batches),
        }
        title = f"1 epoch of EfficientNetB0, {len(clips)} clips of {CLIP_SECONDS} s"
        times = compare(title, alternatives, min(rounds, 3), clips=len(clips))
        share = np.array(times["reading only"]) / times["`model.fit`"]
        print(f"\nInput pipeline: {np.median(share):.0%} [{share.min():.0%}, {share.max():.0%}] of `model.fit`")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
