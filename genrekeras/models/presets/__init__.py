"""Models that come with the package."""

import os

PRESETS = ("fma_small",)


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
