"""Keras layers for the front end and for augmentation."""

from genrekeras.layers.augmentation import (
    ImageNoise,
    PowerGain,
    RandomChannelEffects,
    RandomGain,
    RandomNoise,
    RandomTimeShift,
    SpecAugment,
)
from genrekeras.layers.spectrogram import (
    LogCompression,
    MelSpectrogram,
    PowerToDecibels,
    SpectrogramToImage,
    default_front_end,
)
from genrekeras.layers.temporal import UniformTemporalSubsample

__all__ = [
    "ImageNoise",
    "LogCompression",
    "MelSpectrogram",
    "PowerGain",
    "PowerToDecibels",
    "RandomChannelEffects",
    "RandomGain",
    "RandomNoise",
    "RandomTimeShift",
    "SpecAugment",
    "SpectrogramToImage",
    "UniformTemporalSubsample",
    "default_front_end",
]
