"""Trained models in the package."""

import os

PRESETS = ("musicnn_msd", "musicnn_mtt", "fma_small")


def preset_file(name: str) -> str:
    """Return the path of the `.keras` file of a preset.

    Args:
        name: one of `PRESETS`.

    Raises:
        ValueError: there is no preset with this name.
    """
    if name not in PRESETS:
        raise ValueError(f"`name` must be one of {PRESETS}. Received: name={name!r}")
    return os.path.join(os.path.dirname(__file__), f"{name}.keras")
