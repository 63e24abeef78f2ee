"""The eight genres of fma_small, in the order of their labels."""

# Defferrard et al., "FMA: A Dataset For Music Analysis", ISMIR 2017; the order is the one of the 2023 system.
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

PROBABILITY_PREFIX = "probability_"  # prefix of the columns of genres, against collisions with other columns


def genres_of(table):
    """Return the genres of a table of `predict_files` or `predict_timeline`."""
    return [name.removeprefix(PROBABILITY_PREFIX) for name in table.columns if name.startswith(PROBABILITY_PREFIX)]
