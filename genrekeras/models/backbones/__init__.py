"""Backbones: networks that compute features from images with one channel."""

from genrekeras.models.backbones.feature_extractor import FINE_TUNE, STEMS, FeatureExtractor, check_stem
from genrekeras.models.backbones.front_end import FrontEnd, check_front_end
from genrekeras.models.backbones.pretrained import PretrainedWeightsError, load_pretrained
from genrekeras.models.backbones.registry import BACKBONES, Backbone, MelBackbone, get, members, presets_of

__all__ = [
    "BACKBONES",
    "FINE_TUNE",
    "STEMS",
    "Backbone",
    "FeatureExtractor",
    "FrontEnd",
    "MelBackbone",
    "PretrainedWeightsError",
    "check_front_end",
    "check_stem",
    "get",
    "load_pretrained",
    "members",
    "presets_of",
]
