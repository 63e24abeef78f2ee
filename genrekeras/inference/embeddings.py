"""Embeddings of audio files, their nearest neighbors, and a two-dimensional map."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from genrekeras.inference import predict
from genrekeras.models.track_classifier import TrackClassifier
from genrekeras.utils.audio_files import find_files
from genrekeras.utils.io import StrPath
from genrekeras.utils.progress import bar

if TYPE_CHECKING:
    import pandas as pd


class Embeddings(NamedTuple):
    """Embeddings of audio files.

    Attributes:
        files: a row for each file, with the columns of `predict_files`.
        vectors: `(files, feature_dim)` float32, the mean features of the clips of each file.
        errors: a row for each file that could not be read, with the columns `path` and `error`.
    """

    files: pd.DataFrame
    vectors: np.ndarray
    errors: pd.DataFrame

    def nearest(self, path: StrPath, count: int = 5) -> pd.DataFrame:
        """Return the files whose embeddings are most similar to the embedding of a given file.

        Args:
            path: one of the paths in `files`.
            count: `> 0`, maximum number of files.

        Returns:
            A row for each file, with the columns `path`, `genre` and `similarity` (cosine similarity). The rows are
            sorted by descending similarity.

        Raises:
            KeyError: `path` is not in `files`.
        """
        from sklearn.neighbors import NearestNeighbors

        rows = np.flatnonzero(self.files["path"] == os.fspath(path))
        if not len(rows):
            raise KeyError(f"{os.fspath(path)} is not one of the files.")
        count = min(count + 1, len(self.vectors))  # One more, because the file is a neighbor of itself.
        search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(self.vectors)
        [distances], [neighbors] = search.kneighbors(self.vectors[rows[:1]])
        table = self.files.loc[neighbors, ["path", "genre"]].assign(similarity=1 - distances)
        return table[neighbors != rows[0]].head(count - 1).reset_index(drop=True)

    def map(self, seed: int = 0) -> np.ndarray:
        """Compute two-dimensional coordinates of the files by t-SNE with cosine distances.

        Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.

        Args:
            seed: seed of t-SNE.

        Returns:
            `(files, 2)`, coordinates.
        """
        from sklearn.manifold import TSNE

        if len(self.vectors) < 3:
            return np.arange(2.0 * len(self.vectors)).reshape(-1, 2)
        perplexity = min(30.0, (len(self.vectors) - 1) / 3)
        tsne = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed)
        return tsne.fit_transform(self.vectors)


def embed_files(
    model: TrackClassifier,
    paths: StrPath | Iterable[StrPath],
    max_clips: int = 30,
    batch_size: int = 16,
    workers: int = 2,
) -> Embeddings:
    """Compute the embeddings of audio files.

    The embedding of a file is the mean of the model's features over the clips of the file. Similar files have similar
    embeddings.

    Args:
        model: see `predict_files`.
        paths: see `predict_files`.
        max_clips: see `predict_files`.
        batch_size: see `predict_files`.
        workers: see `predict_files`.

    Returns:
        Embeddings of the files that can be read.

    Raises:
        ValueError: an argument is out of range, `paths` is empty, a folder contains no audio files, or no file can be
            read.
        OSError: no audio file was found, because a folder cannot be opened.
    """
    predict.check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    paths = find_files(paths)
    rows, vectors = [], []
    tracks = predict.decode_tracks(model, paths, max_clips, workers)
    with bar(len(paths), "Embedding", "file") as progress:
        compute = model.inference_function("probabilities", "ood_score", "features")
        for track in predict.predict_tracks(compute, tracks, batch_size):
            means = track.means()
            rows.append(predict.to_row(model, track.path, means[:2], track.seconds, track.error, track.warning))
            vectors += means[2:]
            progress.update()
    table = predict.to_table(model, rows)
    is_read = table["error"].isna()
    if not vectors:
        raise ValueError(f"None of the {len(paths)} files can be read. The first is {paths[0]}: {rows[0]['error']}")
    return Embeddings(table[is_read].reset_index(drop=True), np.stack(vectors), table.loc[~is_read, ["path", "error"]])
