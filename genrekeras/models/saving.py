"""Load models from files that may be damaged or malicious, and save models in half precision."""

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
from genrekeras.utils.io import StrPath, atomic_write

_MAX_FLOAT16 = float(np.finfo("float16").max)
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {"metadata.json", _CONFIG, _WEIGHTS}
# A file may unpack to at most `_MAX_EXPANSION` times its size plus `_SLACK` bytes.
_MAX_EXPANSION, _SLACK = 20, 1 << 20
# Limits of a config: depth of nesting, number of objects, number of weights of one object.
_MAX_DEPTH, _MAX_OBJECTS, _MAX_SIZE = 100, 1000, 1 << 28
_LAYER_LISTS = ("waveform_augmentation", "front_end", "image_augmentation")
_LAYER_KEYS = (*_LAYER_LISTS, "layer", "layers", "backward_layer", "cell", "cells")
_SIZE_LIMITED = {f"genrekeras>{name}" for name in layers.__all__}  # classes that limit their own size


class ModelFileError(ValueError):
    """Raised if a file cannot be loaded as a `GenreClassifier`. The message contains the path and the reason."""


def load_model(path: StrPath) -> GenreClassifier:
    """Load a `GenreClassifier` from a `.keras` file, and reject damaged and malicious files.

    The model is loaded by `keras.saving.load_model`. Before that, this function checks:

    - the checksums of all contents, since Keras may load damaged weights without an error;
    - that the file contains the parts of a model and nothing else, and does not unpack to far more than its size;
    - that the model is a `GenreClassifier`, and that its layers do not have more weights than the file;
    - that the weights are arrays of numbers, and that they are stored in the file itself.

    No code from the file is executed. Keras rejects lambdas. Keras also rejects classes and functions, unless they are
    part of Keras or registered (`keras.saving.register_keras_serializable`).

    Raises:
        FileNotFoundError: the file does not exist.
        ModelFileError: the file cannot be loaded as a `GenreClassifier`.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        hint = ". Download the file, and pass its path" if "://" in path else ""
        raise FileNotFoundError(f"Model file not found: {path}{hint}")
    try:
        _check_file(path)
        return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # For a wrong config, Keras may raise an exception of any class.
        innermost = str(error).rpartition("Exception encountered: ")[2]
        reason = (innermost.strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"{path} cannot be loaded as a model: {reason[:300]}") from error


def _check_file(path):
    """Raise an exception if a file is damaged or may be malicious. See `load_model`."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != len(_MEMBERS) or {member.filename for member in members} != _MEMBERS:
            names = sorted(member.filename for member in members)
            raise ValueError(
                f"it must contain {', '.join(sorted(_MEMBERS))}, but contains {', '.join(names[:10]) or 'nothing'}"
            )
        if any(stat.S_ISLNK(member.external_attr >> 16) for member in members):
            raise ValueError("it contains a link")
        limit = _MAX_EXPANSION * os.path.getsize(path) + _SLACK
        if sum(member.file_size for member in members) > limit:
            raise ValueError("it unpacks to far more than its size")
        try:
            content = {member.filename: archive.read(member) for member in members}  # at most `file_size` bytes each
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"it is damaged ({error})") from error
    config = _read_config(content[_CONFIG])
    with h5py.File(io.BytesIO(content[_WEIGHTS]), "r") as file:
        weights = [_checked_dataset(file, name) for name in _dataset_names(file)]
        stored, stored_bytes = sum(weight.size for weight in weights), sum(weight.nbytes for weight in weights)
    if stored_bytes > len(content[_WEIGHTS]) + _SLACK:
        raise ValueError("its weights are larger than the file that contains them")
    objects = _objects({name: config[name] for name in _LAYER_LISTS})
    if not all(_is_size_limited(item) or _is_dtype_policy(item) for _, item in objects):
        _check_number_of_weights(config, stored)


def _read_config(content):
    """Return the config of the model.

    Raises:
        ValueError: the model is of another class, or the config is too large or nested too deeply.
    """
    try:
        saved = json.loads(content)
    except RecursionError as error:
        raise ValueError("its config is nested too deeply") from error
    if saved["registered_name"] != "genrekeras>GenreClassifier":
        raise ValueError(f"it contains a {saved['class_name']}, not a GenreClassifier")
    config = saved["config"]
    objects = list(_objects({**saved, "config": [{**config, "card": None}]}))  # all objects except the model itself
    others = [item for _, item in objects if not _is_size_limited(item)]
    if sum(map(_size, others)) > _MAX_SIZE:
        raise ValueError(f"its {max(others, key=_size)['class_name']} is too large")
    names = [name for _, item in objects if (name := str(item.get("registered_name"))).startswith("genrekeras>")]
    if names.count("genrekeras>MelSpectrogram") > 1 or not _SIZE_LIMITED.issuperset(names):
        raise ValueError(
            f"it must contain one MelSpectrogram and layers of genrekeras.layers, but contains {sorted(names)}"
        )
    for key, item in objects:  # `_check_number_of_weights` does not count the weights of layers at other keys
        if ("build_config" in item or "layers" in item["config"]) and key not in _LAYER_KEYS:
            raise ValueError(f"its {key} must not be a layer, but is a {item['class_name']}")
    return config


def _objects(config):
    """Yield (key, serialized object) for each object in a config.

    Raises:
        ValueError: there are too many objects, or the config is nested too deeply.
    """
    pending, count = [(None, config, 1)], 0
    while pending:
        key, value, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise ValueError("its config is nested too deeply")
        if isinstance(value, dict):
            if "class_name" in value and isinstance(value.get("config"), dict):
                count += 1
                if count > _MAX_OBJECTS:
                    raise ValueError(f"its config contains more than {_MAX_OBJECTS} layers and other objects")
                yield key, value
            pending += [(name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            pending += [(key, inner, depth + 1) for inner in value]


def _is_size_limited(item):
    return item.get("registered_name") in _SIZE_LIMITED


def _is_dtype_policy(item):
    """Return whether an object is the dtype policy that Keras saves with each layer."""
    return (item.get("module"), item["class_name"], item.get("registered_name")) == ("keras", "DTypePolicy", None)


def _size(item):
    """Return an upper bound of the size of an object: the product of all positive integers in its config.

    `num_classes` is a factor twice, because a confusion matrix has `num_classes ** 2` elements.
    """
    sizes = [value for name, value in item["config"].items() if name != "seed"]
    return math.prod(_positive_integers([*sizes, item["config"].get("num_classes", 1)]))


def _check_number_of_weights(config, stored):
    """Raise `ValueError` if the weights of a model hold more numbers than its file. No memory is allocated for them.

    Keras adds the variables of the model to a list that exists until the thread ends. Therefore the model is built in
    a short-lived thread.
    """

    def count():
        with keras.StatelessScope(initialize_variables=False):
            return sum(math.prod(weight.shape) for weight in GenreClassifier.from_config(config).weights)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        needed = pool.submit(count).result()
    if needed > stored:
        raise ValueError(f"its layers have {needed} weights, but the file contains {stored}")


def _positive_integers(values):
    """Yield the positive integers in a list, and in the short lists within it, such as a kernel size."""
    for value in values:
        if isinstance(value, list) and len(value) <= 4:
            yield from _positive_integers(value)
        elif isinstance(value, int) and value > 0:
            yield value


def _dataset_names(group, prefix=""):
    """Yield the names of all datasets in a group. Raise `ValueError` for a link, without following the link."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"its weights are in another file, behind the link {prefix}{name}")
        if isinstance(group[name], h5py.Group):
            yield from _dataset_names(group[name], f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}"


def _checked_dataset(file, name):
    """Return a dataset. Raise `ValueError` if it is stored in another file or does not contain numbers."""
    dataset = file[name]
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"its weights are in another file, referred to by {name}")
    if dataset.dtype.kind not in "fiub":
        raise ValueError(f"its weight {name} is not an array of numbers, but of the type {dataset.dtype}")
    return dataset


def save_float16(model: keras.Model, path: StrPath) -> None:
    """Save a model with float16 weights and without its optimizer. The file has half the size.

    A model that is loaded from the file computes in the precision of `model`. Arrays with values outside the range of
    float16 are saved unchanged.

    Args:
        model: model to save, such as a `GenreClassifier`.
        path: path of the file, ends in `.keras`.
    """
    copy = type(model).from_config(model.get_config())  # not compiled
    copy.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        saved = os.path.join(folder, "model.keras")
        copy.save(saved)
        with zipfile.ZipFile(saved) as archive:
            archive.extractall(folder)
            names = archive.namelist()
        _convert_to_float16(os.path.join(folder, _WEIGHTS))
        with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(os.path.join(folder, name), name)


def _convert_to_float16(path):
    """Convert the float32 arrays of an HDF5 file to float16, in place."""
    shutil.move(path, f"{path}.float32")
    with h5py.File(f"{path}.float32") as source, h5py.File(path, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                copied = target.require_group(name)
            else:
                values = item[()]
                fits = values.dtype == np.float32 and np.abs(values).max(initial=0.0) < _MAX_FLOAT16
                copied = target.create_dataset(name, data=values.astype("float16") if fits else values)
            copied.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
