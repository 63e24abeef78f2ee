"""Backbones: networks that compute features from gray images."""

from genrekeras.models.backbones.feature_extractor import FINE_TUNE, STEMS, FeatureExtractor
from genrekeras.models.backbones.pretrained import PretrainedWeightsError, load_pretrained
from genrekeras.models.backbones.registry import BACKBONES, Backbone, MelBackbone, get, members

__all__ = [
    "BACKBONES",
    "FINE_TUNE",
    "STEMS",
    "Backbone",
    "FeatureExtractor",
    "MelBackbone",
    "PretrainedWeightsError",
    "get",
    "load_pretrained",
    "members",
]
