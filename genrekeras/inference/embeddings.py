"""Files as points: which tracks sound alike to a model."""

import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from genrekeras.inference import predict
from genrekeras.inference.clips import find_files
from genrekeras.utils.progress import bar


class Embeddings(NamedTuple):
    """Files as points: two that sound alike to the model lie close together.

    Attributes:
        files: `pandas.DataFrame`, a row a file, with the columns of `predict_files`.
        vectors: `(files, feature_dim)` float32, the mean features of the clips of each.
        errors: `pandas.DataFrame`, `path` and `error` of the files that could not be read.
    """

    files: pd.DataFrame
    vectors: np.ndarray
    errors: pd.DataFrame

    def nearest(self, path, count=5):
        """The files that sound most like one of them.

        Args:
            path: str or path-like, as in `files`.
            count: int > 0, the most.

        Returns:
            `pandas.DataFrame` with `path`, `genre`, `similarity` (cosine, 1 is the same), the most similar first.

        Raises:
            KeyError: there is no such file among them.
        """
        from sklearn.neighbors import NearestNeighbors

        [own] = np.flatnonzero(self.files["path"] == os.fspath(path))[:1].tolist() or [None]
        if own is None:
            raise KeyError(f"{os.fspath(path)} is not among the files")
        count = min(count + 1, len(self.vectors))
        distances, places = (
            NearestNeighbors(n_neighbors=count, metric="cosine").fit(self.vectors).kneighbors(self.vectors[[own]])
        )
        table = self.files.loc[places[0], ["path", "genre"]].assign(similarity=1 - distances[0])
        return table[places[0] != own].head(count - 1).reset_index(drop=True)

    def map(self, seed=0):
        """`(files, 2)`: places on a plane on which neighbours stay neighbours (t-SNE of cosine distances).

        Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
        """
        from sklearn.manifold import TSNE

        if len(self.vectors) < 3:
            return np.arange(2.0 * len(self.vectors)).reshape(-1, 2)
        perplexity = min(30.0, (len(self.vectors) - 1) / 3)
        return TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(
            self.vectors
        )


def embed_files(model, paths, max_clips=30, batch_size=16, workers=2):
    """What the backbone makes of whole files, to find those that sound alike.

    Args:
        model, paths, max_clips, batch_size, workers: as in `predict_files`.

    Returns:
        `Embeddings`, of the files that could be read.

    Raises:
        ValueError: an argument is out of range, no file can be read, or as in `find_files`.
        OSError: as in `find_files`.
    """
    predict.check_counts(max_clips=max_clips, batch_size=batch_size, workers=workers)
    paths = find_files(paths)
    rows, vectors = [], []
    tracks = predict.tracks_of(model, paths, max_clips, workers)
    with bar(len(paths), "Embedding", "file") as progress:
        network = model.for_inference("probabilities", "ood_score", "features")
        for track in predict.run_through(network, tracks, batch_size):
            means = track.means()
            rows.append(predict.row_of(model, track.path, means[:2], track.seconds, track.error, track.warning))
            vectors += means[2:]
            progress.update()
    table = predict.as_table(model, rows)
    read = table["error"].isna()
    if not vectors:
        raise ValueError(f"Not one of {len(paths)} files can be read; the first: {paths[0]}: {rows[0]['error']}")
    return Embeddings(table[read].reset_index(drop=True), np.stack(vectors), table.loc[~read, ["path", "error"]])
