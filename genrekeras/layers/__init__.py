"""The front end and the augmentations, as Keras layers."""

from genrekeras.layers.augmentation import (
    ImageNoise,
    PowerGain,
    RandomGain,
    RandomNoise,
    RandomRecording,
    RandomTimeShift,
    SpecAugment,
)
from genrekeras.layers.spectrogram import (
    MelSpectrogram,
    PowerToDecibels,
    SampleFrames,
    SpectrogramToImage,
    default_front_end,
)

__all__ = [
    "ImageNoise",
    "MelSpectrogram",
    "PowerGain",
    "PowerToDecibels",
    "RandomGain",
    "RandomNoise",
    "RandomRecording",
    "RandomTimeShift",
    "SampleFrames",
    "SpecAugment",
    "SpectrogramToImage",
    "default_front_end",
]
