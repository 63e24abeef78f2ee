"""Predictions and embeddings of audio files of any length."""

from genrekeras.genres import genres_of
from genrekeras.inference.clips import clip_starts, load_clips, load_image
from genrekeras.inference.embeddings import Embeddings, embed_files
from genrekeras.inference.labels import predicted_genres
from genrekeras.inference.predict import (
    predict_each,
    predict_files,
    predict_rows,
    predict_timeline,
    predict_waveform,
    to_table,
)
from genrekeras.inference.tables import format_csv, format_json
from genrekeras.models.labels import genre_labels, label_kinds
from genrekeras.utils.audio_files import find_files

__all__ = [
    "Embeddings",
    "clip_starts",
    "embed_files",
    "find_files",
    "format_csv",
    "format_json",
    "genre_labels",
    "genres_of",
    "label_kinds",
    "load_clips",
    "load_image",
    "predict_each",
    "predict_files",
    "predict_rows",
    "predict_timeline",
    "predict_waveform",
    "predicted_genres",
    "to_table",
]
