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
