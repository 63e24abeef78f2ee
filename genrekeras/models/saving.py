"""Load a model from a file that may be damaged or made to do harm."""

import concurrent.futures
import io
import json
import math
import os
import shutil
import stat
import tempfile
import zipfile
import zlib

import h5py
import keras
import numpy as np
from genrekeras import layers
from genrekeras.models.genre_classifier import GenreClassifier
from genrekeras.utils.io import atomic_write

_LARGEST_FLOAT16 = float(np.finfo("float16").max)
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_NAMES = {"metadata.json", _CONFIG, _WEIGHTS}
_EXPANSION, _SMALL = 20, 1 << 20  # what is unpacked, and so many bytes more, may be so much larger than the file
_DEEPEST, _MOST_OBJECTS, _LARGEST = 100, 1000, 1 << 28  # levels, objects and weights of a config
_LISTS = ("waveform_augmentation", "front_end", "image_augmentation")
_PLACES_OF_LAYERS = (*_LISTS, "layer", "layers", "backward_layer", "cell", "cells")
_CHECK_THEMSELVES = {f"genrekeras>{name}" for name in layers.__all__}  # layers that refuse to be too large


class ModelFileError(ValueError):
    """A file that cannot be loaded as a `GenreClassifier`; the message has its name and the reason."""


def load_model(path):
    """Load a `GenreClassifier` from a `.keras` file, and refuse a file that is damaged or may do harm.

    `keras.saving.load_model` loads the same models. This function checks before that: the checksums of all content
    (Keras loads damaged weights silently where it can); that the file holds nothing else and does not unpack to far
    more than its size; that the model is a `GenreClassifier`, whose layers have no more weights than the file; and that
    the weights are plain numbers in the file itself. No code in a file is run: Keras refuses a lambda, and a class or
    function that is neither Keras' own nor registered (`keras.saving.register_keras_serializable`).

    Args:
        path: str or path-like.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: it cannot be loaded as a `GenreClassifier`.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {path}")
    try:
        _check(path)
        return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # Keras raises whatever it meets on its way through a wrong config
        innermost = str(error).rpartition("Exception encountered: ")[2]
        reason = (innermost.strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"{path} cannot be loaded as a model: {reason[:300]}") from error


def _check(path):
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != len(_NAMES) or {member.filename for member in members} != _NAMES:
            names = sorted(member.filename for member in members)
            raise ValueError(
                f"it must hold {', '.join(sorted(_NAMES))}, and holds {', '.join(names[:10]) or 'nothing'}"
            )
        if any(stat.S_ISLNK(member.external_attr >> 16) for member in members):
            raise ValueError("it holds a link")
        limit = _EXPANSION * os.path.getsize(path) + _SMALL
        if sum(member.file_size for member in members) > limit:
            raise ValueError("it says that it unpacks to far more than its size")
        try:
            content = {member.filename: archive.read(member) for member in members}  # no more than it says
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"it is damaged ({error})") from error
    config = _read_config(content[_CONFIG])
    with h5py.File(io.BytesIO(content[_WEIGHTS]), "r") as file:
        weights = [_weight(file, name) for name in _names_below(file)]
        stored, stored_bytes = sum(weight.size for weight in weights), sum(weight.nbytes for weight in weights)
    if stored_bytes > len(content[_WEIGHTS]) + _SMALL:
        raise ValueError("its weights are larger than the file that they are in")
    others = [made for _, made in _objects({name: config[name] for name in _LISTS}) if not _checks_itself(made)]
    if not all(map(_is_policy, others)):
        _check_number_of_weights(config, stored)


def _read_config(content):
    """Return the config of the model; refuse one that is of another class, too large or too deeply nested."""
    try:
        saved = json.loads(content)
    except RecursionError as error:
        raise ValueError("its config is nested too deeply") from error
    if saved["registered_name"] != "genrekeras>GenreClassifier":
        raise ValueError(f"it holds a {saved['class_name']}, not a GenreClassifier")
    config = saved["config"]
    objects = list(_objects({**saved, "config": [{**config, "card": None}]}))  # all within the model
    others = [made for _, made in objects if not _checks_itself(made)]
    if sum(map(_size, others)) > _LARGEST:
        raise ValueError(f"its {max(others, key=_size)['class_name']} is larger than any memory")
    ours = [name for _, made in objects if (name := str(made.get("registered_name"))).startswith("genrekeras>")]
    if ours.count("genrekeras>MelSpectrogram") > 1 or not _CHECK_THEMSELVES.issuperset(ours):
        raise ValueError(f"it must hold one MelSpectrogram and layers of genrekeras.layers, and holds {sorted(ours)}")
    for key, made in objects:  # a layer or a model in another place would not be counted
        if ("build_config" in made or "layers" in made["config"]) and key not in _PLACES_OF_LAYERS:
            raise ValueError(f"its {key} is a {made['class_name']}, which is a layer")
    return config


def _objects(config):
    """Yield each object in a config with the key where it is; refuse too many, or too deeply nested ones."""
    pending, count = [(None, config, 1)], 0
    while pending:
        key, value, depth = pending.pop()
        if depth > _DEEPEST:
            raise ValueError("its config is nested too deeply")
        if isinstance(value, dict):
            if "class_name" in value and isinstance(value.get("config"), dict):
                count += 1
                if count > _MOST_OBJECTS:
                    raise ValueError(f"its config holds more than {_MOST_OBJECTS} layers and other objects")
                yield key, value
            pending += [(name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            pending += [(key, inner, depth + 1) for inner in value]


def _checks_itself(made):
    return made.get("registered_name") in _CHECK_THEMSELVES


def _is_policy(made):
    """Whether an object is the dtype policy that Keras saves with each layer."""
    return (made.get("module"), made["class_name"], made.get("registered_name")) == ("keras", "DTypePolicy", None)


def _size(made):
    """The product of all sizes in the config of an object; a metric holds the square of `num_classes` numbers."""
    sizes = [value for name, value in made["config"].items() if name != "seed"]
    return math.prod(_integers([*sizes, made["config"].get("num_classes", 1)]))


def _check_number_of_weights(config, stored):
    """Build the model without memory for its weights, and refuse it if it has more of them than the file.

    Keras keeps a list of variables without memory for each thread: it ends with the thread.
    """

    def count():
        with keras.StatelessScope(initialize_variables=False):
            return sum(math.prod(weight.shape) for weight in GenreClassifier.from_config(config).weights)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        needed = pool.submit(count).result()
    if needed > stored:
        raise ValueError(f"its layers have {needed} weights, and the file holds {stored}")


def _integers(values):
    """The positive ones, also in short lists such as those of a kernel's size."""
    for value in values:
        if isinstance(value, list) and len(value) <= 4:
            yield from _integers(value)
        elif isinstance(value, int) and value > 0:
            yield value


def _names_below(group, prefix=""):
    """Of all datasets below a group; a link to elsewhere is refused before it is followed."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"its weights lie in another file, behind the link {prefix}{name}")
        if isinstance(group[name], h5py.Group):
            yield from _names_below(group[name], f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}"


def _weight(file, name):
    dataset = file[name]
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"its weights lie in another file, by {name}")
    if dataset.dtype.kind not in "fiub":
        raise ValueError(f"its weight {name} is no array of numbers, but of {dataset.dtype}")
    return dataset


def save_float16(model, path):
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
        with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
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
                fits = values.dtype == np.float32 and np.abs(values).max(initial=0.0) < _LARGEST_FLOAT16
                target = half.create_dataset(name, data=values.astype("float16") if fits else values)
            target.attrs.update(item.attrs)

        whole.visititems(copy)
        half.attrs.update(whole.attrs)
