"""The map of the pool: questions whose answers used the same neurons lie near one another."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

from neuron_opsd.records import NeuronSets
from neuron_opsd.report import svg
from neuron_opsd.report.blocks import Figure

MAX_DOTS = 3_000  # beyond, every n-th question is drawn
MAX_DENSE = 500  # questions up to which all eigenvalues are as cheap as two


def pool_map(sets: Sequence[NeuronSets], selected: Collection[str]) -> Figure | None:
    """Overlap sets in the plane, the selected questions in colour. None where no two of them differ."""
    step = -(-len(sets) // MAX_DOTS)
    drawn_sets = sets[::step]
    points, shares = plane_of([one.overlap_set for one in drawn_sets])
    if not shares.sum() > 0:
        return None
    x, y = (
        axis(f"Axis {number} ({share:.0%} of the variance)", points[:, column].min(), points[:, column].max())
        for column, (number, share, axis) in enumerate(
            zip(("1", "2"), shares, (svg.x_axis, svg.y_axis), strict=True)
        )
    )
    places = [(x.place(a), y.place(b)) for a, b in points.tolist()]
    kept = [one.question_id in selected for one in drawn_sets]
    marks = [
        svg.dots([place for place, is_kept in zip(places, kept, strict=True) if is_kept == wanted], class_=c)
        for wanted, c in ((False, "base"), (True, "trained"))
    ]
    name, title = "pool-map", "Map of the pool by neuron overlap"
    left_out = f" Of {len(sets):,} questions one in {step} is drawn." if step > 1 else ""
    description = (
        f"{len(drawn_sets):,} questions, {sum(kept):,} of them selected; the nearer two are, the more neurons "
        f"their answers share. The two axes hold {shares.sum():.0%} of the variance, so some that look near "
        f"are not.{left_out}"
    )
    figure = svg.drawing(name, title, description, svg.axes(x, y), *marks)
    caption = (
        f"{title}: where the coloured dots, the {sum(kept):,} selected questions, lie close together, selection kept "
        f"questions of one kind. By classical scaling.{left_out}"
    )
    return Figure(name, title, description, caption, figure)


def plane_of(overlap_sets: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the sets in the plane that shows most of their differences, and each axis's share of them.

    Classical scaling (Torgerson 1952) of the Hamming distances, whose order is that of the Jaccard distances
    where sets are equally large. Each axis points to where its farthest set lies.
    """
    num_sets = len(overlap_sets)
    starts = np.cumsum([0, *map(len, overlap_sets)])
    ids = np.concatenate([*overlap_sets, np.empty(0, dtype=np.int64)]).astype(np.int64)
    used, columns = np.unique(ids, return_inverse=True)
    rows = csr_array((np.ones(len(ids)), columns, starts), shape=(num_sets, len(used)))
    frequency = np.bincount(columns, minlength=len(used)) / max(num_sets, 1)
    variance = len(ids) - num_sets * float(frequency @ frequency)
    if num_sets < 3 or variance < 1e-9:
        return np.zeros((num_sets, 2)), np.zeros(2)
    values, vectors = _two_largest(rows, num_sets)
    values = np.where(values > 1e-9 * variance, values, 0.0)
    points = vectors * np.sqrt(values)
    farthest = points[np.abs(points.round(9)).argmax(axis=0), [0, 1]]
    return points * np.where(farthest < 0, -1.0, 1.0), values / variance


def _two_largest(rows: csr_array, num_sets: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two largest eigenvalues, and their vectors, of the centred rows times their transpose."""
    if num_sets <= MAX_DENSE:
        gram = (rows @ rows.T).toarray()
        gram -= gram.mean(axis=0)
        gram -= gram.mean(axis=1, keepdims=True)
        values, vectors = eigh(gram, subset_by_index=[num_sets - 2, num_sets - 1])
    else:

        def multiply(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            product = rows @ (rows.T @ (vector - vector.mean()))
            return product - product.mean()

        operator = LinearOperator((num_sets, num_sets), matvec=multiply, dtype=np.float64)  # pyright: ignore
        start = np.random.default_rng(0).standard_normal(num_sets)
        values, vectors = eigsh(operator, k=2, v0=start)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]
