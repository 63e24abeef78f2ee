"""Models that come with the package, and how a model becomes small enough for it."""

import os
import shutil
import tempfile
import zipfile

import h5py
import numpy as np
from genrekeras.files import whole_file

PRESETS = ("fma_small",)
_LARGEST = float(np.finfo("float16").max)


def preset_file(name):
    """The path of a model that comes with the package.

    Args:
        name: str, of `PRESETS`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset of this name; there are {', '.join(PRESETS)}. Received: {name!r}")
    return os.path.join(os.path.dirname(__file__), f"{name}.keras")


def save_in_half(model, path):
    """Save a model with its weights in 16 bits, in half the room, without its optimizer. It still computes in 32.

    Args:
        model: `keras.Model`.
        path: str or path-like, .keras.
    """
    copy = type(model).from_config(model.get_config())  # not compiled
    copy.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        saved = os.path.join(folder, "model.keras")
        copy.save(saved)
        with zipfile.ZipFile(saved) as archive:
            archive.extractall(folder)
            names = archive.namelist()
        _halve(os.path.join(folder, "model.weights.h5"))
        with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(os.path.join(folder, name), name)


def _halve(path):
    """Each array of 32-bit floats in an HDF5 file as one of 16 bits."""
    shutil.move(path, f"{path}.whole")
    with h5py.File(f"{path}.whole") as whole, h5py.File(path, "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                target = half.require_group(name)
            else:
                values = item[()]
                fits = values.dtype == np.float32 and np.abs(values).max(initial=0.0) < _LARGEST
                target = half.create_dataset(name, data=values.astype("float16") if fits else values)
            target.attrs.update(item.attrs)

        whole.visititems(copy)
        half.attrs.update(whole.attrs)
