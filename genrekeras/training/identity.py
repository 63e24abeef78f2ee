"""Describe a training run, to check whether a saved state belongs to the run."""

import collections
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from genrekeras.datasets.batches import Batches

# Attributes of Keras' callbacks that change the training. Custom callbacks list theirs in `compared_attributes`.
_CALLBACK_SETTINGS = {
    keras.callbacks.EarlyStopping: ("monitor", "mode", "min_delta", "patience", "baseline", "start_from_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("monitor", "mode", "min_delta", "patience", "factor", "cooldown", "min_lr"),
    keras.callbacks.LearningRateScheduler: ("schedule",),
}
_COMPILE_ARGUMENTS = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
# Parts of a serialized object that depend on the backend or the process.
_NOT_COMPARED = ("module", "registered_name", "build_config", "shared_object_id")


def describe_run(
    model: keras.Model,
    data: Batches,
    validation_data: Any,
    callbacks: Sequence[tuple[keras.callbacks.Callback, list[str]]],
    initial_epoch: int,
) -> dict[str, Any]:
    """Describe a run before its first epoch.

    The description contains no path, object id or automatic counter, so it is the same in a later process.

    Args:
        model: as in `genrekeras.training.fit`.
        data: as in `genrekeras.training.fit`.
        validation_data: as in `genrekeras.training.fit`.
        callbacks: pairs of a callback and the names of its attributes that `fit` saves.
        initial_epoch: as in `genrekeras.training.fit`.

    Returns:
        JSON-serializable description.
    """
    compiled = model.get_compile_config() or {}
    seeds, weights = _seeds_and_norms(model) if _is_seeded() else (None, None)
    identity = {
        "backend": keras.backend.backend(),
        "device": str(getattr(model.variables[0].value, "device", "")) if model.variables else "",
        "model": _config_of_model(model),
        "seeds": seeds,
        "initial_weights": weights,
        "compile": _normalized({key: compiled.get(key) for key in _COMPILE_ARGUMENTS}),
        "data": {**(data.fingerprint or {}), "batches": len(data), "first_tracks": data.track_ids(0, 0)[:8]},
        "validation_data": _describe_validation_data(validation_data),
        "callbacks": [
            {"class": type(callback).__name__, **settings, "saved": saved}
            for callback, saved in callbacks
            if (settings := _settings(callback)) or saved
        ],
        "initial_epoch": initial_epoch,
    }
    return json.loads(json.dumps(identity, default=_to_json_value))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two descriptions from `describe_run`.

    If the backend differs, the config, the seeds and the initial weights of the model are not compared. If only the
    device differs, the initial weights are not compared. The same code produces other values on another backend or
    device.

    Returns:
        Name of a differing entry -> (old value, new value). Initial weights are the last entries.
    """
    skipped = {"backend", "device"}
    if old.get("backend") != new["backend"]:
        skipped |= {"model", "seeds", "initial_weights"}
    elif old.get("device") != new["device"] or _are_close(old.get("initial_weights"), new["initial_weights"]):
        skipped |= {"initial_weights"}
    old, new = (
        {".".join(map(str, path)): value for path, value in keras.tree.flatten_with_path(run) if path[0] not in skipped}
        for run in (old, new)
    )
    names = sorted({**old, **new}, key=lambda name: name.startswith("initial_weights"))
    values = {name: (old.get(name, "nothing"), new.get(name, "nothing")) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def class_and_config(layer: keras.layers.Layer) -> tuple[str, Any]:
    """Return the class name and the config of a layer or model. The result is the same for equally configured layers.

    Counters in automatic names are reset: "dense_7" and "dense_9" become "dense" and "dense_1". The modules of classes
    are omitted, because they differ between backends.
    """
    return type(layer).__name__, _normalized(layer.get_config(), include_bytecode=True)


def digest(*arrays: np.ndarray) -> str:
    """Return a hash of the content, dtype and shape of arrays."""
    content = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        content.update(f"{array.dtype}{array.shape}".encode())
        content.update(array.view("uint8").data)
    return content.hexdigest()[:32]


def _config_of_model(model):
    try:
        config = _normalized(model.get_config())
    except NotImplementedError:  # The model is of a subclass of keras.Model that does not define `get_config`.
        config = {}
    config = {key: value for key, value in config.items() if key not in ("name", "card")}
    return {"class": type(model).__name__, **config}


def _normalized(config, include_bytecode=False):
    """Return a serialized config without the parts that differ between equally configured objects.

    The counters of automatic names are reset. The bytecode of lambdas is omitted, unless `include_bytecode` is true.
    """
    names, counts = {}, collections.Counter()

    def collect_names(value):
        if isinstance(value, dict):
            name = value.get("name")
            if isinstance(name, str) and name not in names:
                base = re.sub(r"_\d+$", "", name)
                names[name] = f"{base}_{counts[base]}" if counts[base] else base
                counts[base] += 1
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for part in value:
                collect_names(part)

    def normalize(value):
        if isinstance(value, dict):
            if value.get("class_name") == "__lambda__" and not include_bytecode:
                return "lambda"
            omitted = _NOT_COMPARED if "class_name" in value else ()
            return {key: normalize(part) for key, part in value.items() if key not in omitted}
        if isinstance(value, (list, tuple)):
            return [normalize(part) for part in value]
        return names.get(value, value) if isinstance(value, str) else value

    config = keras.saving.serialize_keras_object(config)
    collect_names(config)
    return normalize(config)


def _settings(callback):
    """Return the settings of a callback that change the training: dict, attribute -> value."""
    names = getattr(callback, "compared_attributes", None)
    if names is None:
        names = next((names for kind, names in _CALLBACK_SETTINGS.items() if isinstance(callback, kind)), ())
    settings = {name: getattr(callback, name) for name in names}
    if "min_delta" in settings:
        settings["min_delta"] = abs(settings["min_delta"])  # Keras may change the sign when the training begins.
    return settings


def _describe_validation_data(data):
    """Return the fingerprint of batches, a hash of arrays, or the class name of other validation data."""
    if hasattr(data, "fingerprint"):
        return data.fingerprint
    if isinstance(data, (tuple, list)):
        return digest(*(keras.ops.convert_to_numpy(part) for part in keras.tree.flatten(data) if part is not None))
    return None if data is None else type(data).__name__


def _seeds_and_norms(model):
    """Return two lists: the seeds of the random layers, and the norms of all other variables."""
    seeds, norms = [], []
    for variable in model.variables:
        array = keras.ops.convert_to_numpy(variable)
        if variable.name == "seed_generator_state":
            seeds.append(int(array[0]))
        else:
            norms.append(float(np.linalg.norm(array.astype("float64"))))
    return seeds, norms


def _are_close(old, new):
    """Return whether norms are equal, except for the rounding differences between processors."""
    if old is None or new is None or len(old) != len(new):
        return False
    return np.allclose(old, new, rtol=1e-5, atol=1e-12)


def _is_seeded():
    """Return whether `keras.utils.set_random_seed` was called. This is known on PyTorch only. Otherwise return True."""
    return keras.backend.backend() != "torch" or _is_seeded_on_torch()


def _is_seeded_on_torch():
    """Return whether the seed of PyTorch is below 2**32, like Keras' seeds. The default is a random 53-bit number."""
    import torch

    return torch.initial_seed() < 2**32


def _to_json_value(value):
    """Return a JSON-serializable value for a NumPy scalar, a function or another object."""
    return value.item() if isinstance(value, np.generic) else getattr(value, "__qualname__", type(value).__name__)
