"""The eight genres of fma_small, and the columns of genres in tables of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# In the order of the labels, which is that of the system of 2023.
# Source: Defferrard et al., "FMA: A Dataset For Music Analysis", ISMIR 2017.
GENRES = (
    "Hip-Hop",
    "Pop",
    "Folk",
    "Experimental",
    "Rock",
    "International",
    "Electronic",
    "Instrumental",
)

PROBABILITY_PREFIX = "probability_"  # of the columns of genres, so that a genre cannot have the name of another column


def genres_of(table: pd.DataFrame) -> list[str]:
    """Return the genres of a table of `predict_files` or `predict_timeline`."""
    return [name.removeprefix(PROBABILITY_PREFIX) for name in table.columns if name.startswith(PROBABILITY_PREFIX)]
