"""Training: resumable fits, cached features of frozen backbones, and kernel ridge regression."""

from genrekeras.training.feature_cache import Features, extract_features, fit_head
from genrekeras.training.kernel_ridge import fit_kernel_ridge
from genrekeras.training.resumable import Interrupted, NonFiniteLossError, fit

__all__ = [
    "Features",
    "Interrupted",
    "NonFiniteLossError",
    "extract_features",
    "fit",
    "fit_head",
    "fit_kernel_ridge",
]
