"""Which questions are the same: equal content, near-duplicates, and questions of one template.

- equal content: the same question and the same set of choices, up to white space and Unicode composition.
  Letter case counts: in SMILES, `c` and `C` are different atoms.
- near-duplicates: character-5-gram Jaccard of at least a threshold in the question AND in the choices. Both,
  because a domain can hold hundreds of questions of equal text that differ only in their choices.
- template: equal opening words once numbers, quotations, formulas and sequences are masked. For reports.
"""

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from neuron_opsd.records import Question
from neuron_opsd.text.content import normalise

GRAM_LENGTH = 5
TEMPLATE_WORDS = 8

_QUOTED = re.compile(r"(?<!\w)(['\"`])\S.*?\1(?!\w)|“[^”]*”|‘[^’]*’", re.DOTALL)


def near_duplicates(questions: Sequence[Question], *, threshold: float) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, whose question and whose choices both have 5-gram Jaccard >= threshold, ascending.

    If both parts reach the threshold, so does the Jaccard of their disjoint union. That union is searched by
    prefix filtering (Chaudhuri et al. 2006): with grams sorted rarest first, a pair of Jaccard >= t shares a
    gram among the first n - ceil(t n) + 1 of each. Only such pairs are compared, choices first, which in
    templated sets tell more.
    """
    texts = [normalise(question.question) for question in questions]
    offered = ["\n".join(sorted(map(normalise, question.choices))) for question in questions]
    asked_rows, offered_rows = _gram_rows(texts), _gram_rows(offered)
    parts = [_GramRows(offered_rows), _GramRows(asked_rows)]
    prefixes = _prefixes(csr_array(hstack([asked_rows, offered_rows])), threshold)
    pairs: list[tuple[int, int]] = []
    for i in range(len(questions)):
        candidates = _later_rows_sharing(prefixes, i)
        for part in parts:
            if candidates.size:
                candidates = candidates[part.jaccard(i, candidates) >= threshold]
        pairs.extend((i, int(j)) for j in candidates)
    return pairs


def template_key(question: str) -> str:
    """The opening words in a form that questions of one template share.

    Quotations, words with a digit, an inner capital or 20 letters and more (numbers, formulas, identifiers,
    sequences) become `#`. Punctuation and case fall away. Runs of `#` become one. `TEMPLATE_WORDS` words are kept.
    """
    words = [_mask_word(word) for word in _QUOTED.sub(" # ", normalise(question)).split()]
    kept = [word for k, word in enumerate(words) if word and not (word == "#" and k and words[k - 1] == "#")]
    return " ".join(kept[:TEMPLATE_WORDS])


def _mask_word(word: str) -> str:
    bare = re.sub(r"[^\w#/-]+", "", word).strip("-_/")
    is_name = any(letter.isnumeric() for letter in bare) or len(bare) >= 20
    has_inner_capital = any(letter.isupper() for letter in bare[1:]) and not bare.isupper()
    return "#" if "#" in bare or is_name or has_inner_capital else bare.lower()


def _gram_rows(texts: Sequence[str]) -> csr_array:
    """The texts' sets of substrings of 5 characters, as the rows of a 0/1 matrix.

    A shorter text, the empty one too, is its own only gram. Grams become numbers at once, because a pool's would not
    fit in memory as text.
    """
    ids: dict[str, int] = {}
    rows: list[NDArray[np.int32]] = []
    for text in texts:
        grams = {text[k : k + GRAM_LENGTH] for k in range(max(len(text) - GRAM_LENGTH + 1, 1))}
        rows.append(np.sort(np.array([ids.setdefault(gram, len(ids)) for gram in grams], dtype=np.int32)))
    return _zero_one_matrix(rows, num_columns=len(ids))


class _GramRows:
    """Sets as the rows of a 0/1 matrix, so that one set meets many in one product."""

    def __init__(self, matrix: csr_array) -> None:
        self._matrix = matrix
        self._sizes = np.diff(matrix.indptr)
        # One row, dense. Zero between calls.
        self._row = np.zeros(matrix.indices.max(initial=-1) + 1, dtype=np.int32)

    def jaccard(self, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Jaccard of one row with each of `others`."""
        start, stop = self._matrix.indptr[row : row + 2]
        grams = self._matrix.indices[start:stop]
        self._row[grams] = 1
        shared = np.asarray(self._matrix[others] @ self._row, dtype=np.int64)
        self._row[grams] = 0
        union = self._sizes[row] + self._sizes[others] - shared
        return shared / union


def _prefixes(sets: csr_array, threshold: float) -> tuple[csr_array, csr_array]:
    """Each set's prefix of rarest grams, as a 0/1 matrix and as its transpose (the inverted index)."""
    counts = np.bincount(sets.indices)
    rank = np.empty(len(counts), dtype=np.int32)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts), dtype=np.int32)
    rows: list[NDArray[np.int32]] = []
    for start, stop in itertools.pairwise(sets.indptr):
        length = int(stop - start)
        size = length - math.ceil(threshold * length - 1e-9) + 1  # 1e-9: 0.07 * 100 > 7 in floating point
        rows.append(np.sort(rank[sets.indices[start:stop]])[:size])
    matrix = _zero_one_matrix(rows, num_columns=len(counts))
    return matrix, matrix.T.tocsr()


def _later_rows_sharing(prefixes: tuple[csr_array, csr_array], row: int) -> NDArray[np.int64]:
    """Rows after `row` that share a prefix gram with it, ascending."""
    matrix, inverted = prefixes
    grams = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
    rows = np.concatenate(
        [inverted.indices[inverted.indptr[gram] : inverted.indptr[gram + 1]] for gram in grams]
    )
    return np.unique(rows[rows > row]).astype(np.int64)


def _zero_one_matrix(rows: Sequence[NDArray[np.int32]], *, num_columns: int) -> csr_array:
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
    return csr_array((np.ones(len(indices), dtype=np.int32), indices, indptr), shape=(len(rows), num_columns))
