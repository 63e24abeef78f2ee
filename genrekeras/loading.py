"""Load a saved model from a file that need not be what it says."""

import io
import json
import math
import os
import stat
import zipfile
import zlib

import h5py
import keras
from genrekeras.classifier import GenreClassifier

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_NAMES = {"metadata.json", _CONFIG, _WEIGHTS}
_MOST_OF_A_LAYER = 1 << 28
_EXPANSION, _SMALL = 20, 1 << 20  # what is unpacked, and so many bytes more, may be so much larger than the file


class ModelFileError(ValueError):
    """A file that cannot be loaded as a `GenreClassifier`, with its name and the reason."""


def load_model(path):
    """A `GenreClassifier` from a `.keras` file; first of all the file is looked at, and one that is odd is refused.

    `keras.saving.load_model` loads the same models. This checks before: checksums of all that is in the file (Keras
    loads damaged weights without a word where it can), that nothing else is in it, that it does not unpack to far more
    than its size, and that the weights are plain numbers which lie in the file itself. No code in a file is run: a
    lambda, or a class or function that is neither Keras' nor registered (`keras.saving.register_keras_serializable`),
    is refused by Keras.

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
        model = keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # Keras raises whatever it meets on its way through a wrong config
        innermost = str(error).rpartition("Exception encountered: ")[2]
        reason = (innermost.strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"{path} cannot be loaded as a model: {reason[:300]}") from error
    if not isinstance(model, GenreClassifier):
        raise ModelFileError(f"{path} holds a {type(model).__name__}, not a GenreClassifier")
    return model


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
    config = json.loads(content[_CONFIG])["config"]
    _check_layers([config.get(name) for name in ("front_end", "waveform_augmentation", "image_augmentation")])
    with h5py.File(io.BytesIO(content[_WEIGHTS]), "r") as file:
        bytes_of_weights = sum(_bytes(file, name) for name in _names_below(file))
    if bytes_of_weights > len(content[_WEIGHTS]) + _SMALL:
        raise ValueError("its weights are larger than the file that they are in")


def _check_layers(config):
    """Refuse layers that are not ours and would make weights that no memory holds; ours look at their own sizes."""
    if isinstance(config, list):
        for value in config:
            _check_layers(value)
    elif isinstance(config, dict):
        sizes = config.get("config")
        if isinstance(sizes, dict) and not str(config.get("registered_name")).startswith("genrekeras>"):
            if math.prod(_integers([value for name, value in sizes.items() if name != "seed"])) > _MOST_OF_A_LAYER:
                raise ValueError(f"its {config.get('class_name')} is larger than any memory")
        _check_layers(list(config.values()))


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


def _bytes(file, name):
    dataset = file[name]
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"its weights lie in another file, by {name}")
    if dataset.dtype.kind not in "fiub":
        raise ValueError(f"its weight {name} is no array of numbers, but of {dataset.dtype}")
    return dataset.nbytes
