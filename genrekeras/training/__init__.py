"""Training: resumable fits, and cached features of frozen backbones."""

from genrekeras.training.batch_norm import recalibrate_batch_norm
from genrekeras.training.feature_cache import Features, extract_features, fit_head
from genrekeras.training.resumable import Interrupted, NonFiniteLossError, fit

__all__ = [
    "Features",
    "Interrupted",
    "NonFiniteLossError",
    "extract_features",
    "fit",
    "fit_head",
    "recalibrate_batch_norm",
]
