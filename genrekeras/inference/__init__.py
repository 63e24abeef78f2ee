"""Predictions and embeddings of audio files of any length."""

from genrekeras.genres import genres_of
from genrekeras.inference.clips import clip_starts, load_clips
from genrekeras.inference.embeddings import Embeddings, embed_files
from genrekeras.inference.labels import predicted_genres
from genrekeras.inference.predict import predict_each, predict_files, predict_timeline, predict_waveform
from genrekeras.models.labels import label_kinds
from genrekeras.utils.audio_files import find_files

__all__ = [
    "Embeddings",
    "clip_starts",
    "embed_files",
    "find_files",
    "genres_of",
    "label_kinds",
    "load_clips",
    "predict_each",
    "predict_files",
    "predict_timeline",
    "predict_waveform",
    "predicted_genres",
]
