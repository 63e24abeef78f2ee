"""Base class of models that predict the genres of tracks. This module does not import Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from genrekeras.models.thresholds import Thresholds
from genrekeras.utils.io import StrPath

if TYPE_CHECKING:  # `inference` is imported when it is needed.
    import pandas as pd
    from genrekeras.inference import Embeddings

OutputName: TypeAlias = Literal["probabilities", "features", "ood_score"]


class TrackClassifier:
    """What `genrekeras.inference` needs from a model: a `GenreClassifier` or a `genrekeras.export.ExportedModel`.

    Attributes:
        genres: names of the genres.
        sample_rate: in Hz, sample rate of the clips.
        clip_seconds: in s, length of a clip.
        multi_label: whether a clip can have several genres.
        thresholds: limits of low confidence.
        card: description of the model. Its entry `labels` contains the kinds of the labels.
    """

    genres: tuple[str, ...]
    sample_rate: int
    clip_seconds: float
    multi_label: bool
    thresholds: Thresholds
    card: Mapping[str, Any]

    def inference_function(self, *outputs: OutputName, many: bool = True) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return a function that computes outputs of the model.

        Args:
            *outputs: what the function computes.
            many: whether many clips will be processed. A `GenreClassifier` then first builds a faster copy of itself,
                which takes about a second.

        Returns:
            Function from clips `(batch, samples)` to a list with an array for each output: `"probabilities"` is
            `(batch, genres)`, `"features"` is `(batch, feature_dim)`, and `"ood_score"` is `(batch,)`.
        """
        raise NotImplementedError

    def digest(self) -> str:
        """Return a hash of everything that determines the outputs of the model."""
        raise NotImplementedError

    def predict_files(self, paths: StrPath | Iterable[StrPath], **options: Any) -> pd.DataFrame:
        """Predict the genre of each file. See `genrekeras.inference.predict_files`."""
        from genrekeras import inference

        return inference.predict_files(self, paths, **options)

    def predict_waveform(self, y: npt.ArrayLike, sample_rate: int, **options: Any) -> pd.Series:
        """Predict the genre of a waveform `(samples,)`. See `genrekeras.inference.predict_waveform`."""
        from genrekeras import inference

        return inference.predict_waveform(self, y, sample_rate, **options)

    def predict_timeline(self, path: StrPath, **options: Any) -> pd.DataFrame:
        """Predict the genres along a track. See `genrekeras.inference.predict_timeline`."""
        from genrekeras import inference

        return inference.predict_timeline(self, path, **options)

    def embed_files(self, paths: StrPath | Iterable[StrPath], **options: Any) -> Embeddings:
        """Compute the mean features of each file. See `genrekeras.inference.embed_files`."""
        from genrekeras import inference

        return inference.embed_files(self, paths, **options)
