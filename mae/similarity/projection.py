"""Maps of feature vectors in two dimensions: PCA, t-SNE, UMAP.

All see the vectors at unit length, in which Euclidean distance orders pairs as their cosine does.
"""

import importlib
import io
import re
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mae.base.errors import UserError
from mae.base.progress import Progress
from mae.evaluation.features import Matrix
from mae.evaluation.nearest import Neighbours

Rows = npt.NDArray[np.floating]
"""vectors [n d] of any precision"""

PROJECTIONS = ("tsne", "pca", "umap")
BLOCK = 8192
"""rows of vectors in double precision at a time"""
FEWEST = 5
"""minimum number of images of a map"""
EXAGGERATED, ITERATIONS = 250, 1000
"""iterations of t-SNE with early exaggeration, and all of them (van der Maaten and Hinton 2008)"""
UMAP_NEIGHBOURS = 15
ITERATION = re.compile(r"Iteration (\d+): error")


class Principal(NamedTuple):
    """Principal components of vectors."""

    mean: npt.NDArray[np.float64]
    """[d]"""
    basis: npt.NDArray[np.float64]
    """[k d], orthonormal rows, by falling variance; each row's largest value is positive"""
    explained: npt.NDArray[np.float64]
    """[k] share of the variance"""


class Projection(NamedTuple):
    """Settings of a map."""

    method: str = "tsne"
    """one of PROJECTIONS"""
    perplexity: float = 30.0
    """of t-SNE: the effective number of neighbours; at most a third of the images"""
    seed: int = 0
    threads: int = 1
    """of t-SNE: sums over several add up in another order, which changes the map"""

    def neighbours(self, images: int) -> int:
        """Number of neighbours of each image that the map is made from; 0: none."""
        if self.method != "tsne":
            return 0
        return min(images - 1, int(3 * self.fitting(images) + 1))

    def fitting(self, images: int) -> float:
        """The perplexity for so many images."""
        return min(self.perplexity, (images - 1) / 3)

    def settings(self, images: int) -> dict[str, Any]:
        """Record of the map: method, and what it depends on."""
        if self.method == "tsne":
            own = {
                "perplexity": self.fitting(images),
                "metric": "cosine",
                "initialisation": "pca",
                "iterations": ITERATIONS,
                "seed": self.seed,
                "threads": self.threads,
            }
        elif self.method == "umap":
            own = {"neighbours": UMAP_NEIGHBOURS, "metric": "cosine", "seed": self.seed}
        else:
            own = {}
        return {"projection": self.method, **own}


def require_projection(method: str) -> None:
    """Raise UserError where the library of a projection is not installed."""
    if method == "umap":
        _umap()


def project(
    vectors: Rows, projection: Projection, near: Neighbours | None, show: Progress
) -> Matrix:
    """Places [n 2] of `vectors` [n d] on a map.

    `near`: `projection.neighbours` nearest rows of each vector, for t-SNE.  `show` is called with
    iterations of t-SNE.  Raises UserError for fewer than FEWEST vectors, and without umap-learn.
    """
    if len(vectors) < FEWEST:
        raise UserError(f"{len(vectors)} images: a map needs at least {FEWEST}")
    with threadpool_limits(projection.threads):
        places = principal_places(vectors)
        if projection.method == "pca":
            return places
        start = places / max(float(places[:, 0].std()), 1e-12) * 1e-4
        if projection.method == "tsne":
            assert near is not None
            return _tsne(near, projection, start.astype(np.float32), show)
        return _umap_places(vectors, projection, places)


def principal_places(vectors: Rows) -> Matrix:
    """The first two principal components of `vectors` [n d] at unit length, [n 2]."""
    return coordinates(vectors, principal_components(vectors, 2, unit=True), unit=True)


def principal_components(vectors: Rows, components: int, *, unit: bool = False) -> Principal:
    """Principal components of `vectors` [n d], which are read in blocks; `unit`: at unit length.

    Fewer components where there are fewer dimensions or vectors.
    """
    dimensions = vectors.shape[1]
    total, mean = np.zeros((dimensions, dimensions)), np.zeros(dimensions)
    for block in _blocks(vectors, unit):
        mean += block.sum(0)
    mean /= len(vectors)
    for block in _blocks(vectors, unit):
        block = block - mean
        total += block.T @ block
    values, columns = np.linalg.eigh(total)
    values = np.maximum(values[::-1], 0)
    components = min(components, dimensions, len(vectors) - 1)
    basis = columns.T[::-1][:components]
    # Signs of eigenvectors are arbitrary.
    largest = np.abs(basis).argmax(1)
    basis = basis * np.sign(basis[np.arange(len(basis)), largest])[:, None]
    return Principal(mean, basis, values[:components] / max(values.sum(), 1e-300))


def coordinates(
    vectors: Rows, principal: Principal, *, unit: bool = False
) -> npt.NDArray[np.float32]:
    """Coordinates [n k] of `vectors` [n d] along the components."""
    width = len(principal.basis)
    parts = [np.empty((0, width))]
    parts += [(block - principal.mean) @ principal.basis.T for block in _blocks(vectors, unit)]
    found = np.concatenate(parts).astype(np.float32)
    return found if width >= 2 else np.pad(found, ((0, 0), (0, 2 - width)))


def _blocks(vectors: Rows, unit: bool) -> Any:
    for start in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[start : start + BLOCK], np.float64)
        if unit:
            length = np.sqrt(np.einsum("nd,nd->n", block, block))
            block /= np.maximum(length, np.finfo(np.float32).tiny)[:, None]
        yield block


def _tsne(near: Neighbours, projection: Projection, start: Matrix, show: Progress) -> Matrix:
    """Places by t-SNE in the Barnes-Hut approximation (van der Maaten 2014)."""
    from scipy.sparse import csr_matrix
    from sklearn.manifold import TSNE

    images, count = len(start), projection.neighbours(len(start))
    # scikit-learn expects each row as its own first neighbour, and squares the distances.
    rows = np.concatenate([np.arange(images)[:, None], near.rows[:, :count]], axis=1)
    distances = np.zeros(rows.shape)
    distances[:, 1:] = np.sqrt((1 - near.cosine[:, :count].astype(np.float64)).clip(0))
    ends = np.arange(images + 1) * (count + 1)
    graph = csr_matrix((distances.ravel(), rows.ravel(), ends), (images, images))
    model = TSNE(
        metric="precomputed",
        init=start,  # pyrefly: ignore  # the documented alternative to a name
        perplexity=projection.fitting(images),
        max_iter=ITERATIONS,
        random_state=projection.seed,
        verbose=2,
    )
    with redirect_stdout(_Iterations(show)):
        return model.fit_transform(graph).astype(np.float32)


class _Iterations(io.TextIOBase):
    """Standard output of scikit-learn's t-SNE, which has no other news of its progress."""

    def __init__(self, show: Progress) -> None:
        self.show = show

    def write(self, text: str) -> int:
        """Read the number of an iteration."""
        for number in ITERATION.findall(text):
            self.show(int(number), ITERATIONS)
        return len(text)


def _umap() -> Any:
    try:
        umap: Any = importlib.import_module("umap")  # optional, and no extra: it needs numba
    except ImportError:
        raise UserError("--projection umap: needs umap-learn: pip install umap-learn") from None
    return umap


def _umap_places(vectors: Rows, projection: Projection, places: Matrix) -> Matrix:
    model = _umap().UMAP(
        n_neighbors=min(UMAP_NEIGHBOURS, len(vectors) - 1),
        metric="cosine",
        init=places / max(float(np.abs(places).max()), 1e-12) * 10,
        random_state=projection.seed,
        n_jobs=1,
    )
    return np.asarray(model.fit_transform(np.asarray(vectors, np.float32)), np.float32)
