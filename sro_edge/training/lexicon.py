"""What the toxic pile says that the clean one does not: toxic words, and their clean analogues."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch

from sro_edge.training.piles import words


class Lexicon(NamedTuple):
    """Words that lean to one pile: ``toxic`` with log-odds, most toxic first; ``clean`` without."""

    toxic: dict[str, float]
    clean: frozenset[str]


def mine_lexicon(
    toxic: Iterable[str],
    clean: Iterable[str],
    *,
    min_count: int = 6,
    min_log_odds: float = 1.3,
    min_z: float = 2.5,
    prior: float = 500.0,
) -> Lexicon:
    """Toxic and clean words by log-odds of their document counts in two piles.

    Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, "Fightin'
    Words", eq. 16 and 22). Both piles must be of the same domain: against general text, topic
    words slip in.
    """
    a = Counter(w for t in toxic for w in set(words(t)))
    b = Counter(w for t in clean for w in set(words(t)))
    total_a, total_b, total = a.total(), b.total(), a.total() + b.total()
    lexicon: dict[str, float] = {}
    usable: set[str] = set()
    for word, count in (a | b).items():
        if count < min_count or not any(c.isalpha() for c in word):
            continue
        count = a[word]
        pull = prior * (count + b[word]) / total
        x, y = count + pull, b[word] + pull
        log_odds = math.log(x / (total_a + prior - x)) - math.log(y / (total_b + prior - y))
        z = log_odds / math.sqrt(1 / x + 1 / y)
        if log_odds >= min_log_odds and z >= min_z and len(word) > 2:
            lexicon[word] = round(log_odds, 3)
        elif log_odds <= 0.2:
            usable.add(word)
    return Lexicon(dict(sorted(lexicon.items(), key=lambda i: (-i[1], i[0]))), frozenset(usable))


def word_vectors(
    texts: Iterable[str], *, vocabulary: int = 16000, contexts: int = 1500, rank: int = 128
) -> tuple[dict[str, int], torch.Tensor]:
    """PPMI-SVD vectors of the most frequent words (Levy and Goldberg 2014).

    Contexts are the words one and two to the left and to the right, each place kept apart.

    Returns:
        word -> row, and unit vectors of shape (V, rank).
    """
    corpus = [words(t) for t in texts]
    counts = Counter(w for t in corpus for w in t)
    index = {w: i for i, (w, _) in enumerate(counts.most_common(vocabulary))}
    pairs: Counter[int] = Counter()
    width = 4 * contexts
    for tokens in corpus:
        ids = [index.get(w, -1) for w in tokens]
        for place, offset in enumerate((-2, -1, 1, 2)):
            for i, word in enumerate(ids):
                j = i + offset
                if word >= 0 and 0 <= j < len(ids) and 0 <= ids[j] < contexts:
                    pairs[word * width + place * contexts + ids[j]] += 1
    keys = torch.tensor(list(pairs.keys()))
    matrix = torch.zeros(len(index) * width)
    matrix[keys] = torch.tensor(list(pairs.values()), dtype=torch.float32)
    matrix = matrix.view(len(index), width)  # (V, 4C)
    rows, cols = matrix.sum(1, keepdim=True), matrix.sum(0, keepdim=True) ** 0.75
    matrix = (matrix * cols.sum() / (rows * cols).clamp_min(1e-9)).clamp_min(1).log_()
    torch.manual_seed(0)
    u, s, _ = torch.svd_lowrank(matrix, q=rank, niter=3)
    return index, torch.nn.functional.normalize(u * s.sqrt(), dim=1)


def analogues(
    lexicon: Sequence[str],
    usable: Collection[str],
    index: dict[str, int],
    vectors: torch.Tensor,
    *,
    neighbours: int = 12,
    min_cosine: float = 0.38,
    frequent: int = 6000,
) -> dict[str, list[tuple[str, float]]]:
    """Clean word -> toxic words that stand in the same places, with their cosine.

    Only ``usable`` words (not leaning to the toxic pile) among the ``frequent`` most common take
    part: the others are names of people and groups.
    """
    toxic = [w for w in lexicon if w in index]
    names = list(index)
    clean_rows = [i for i, w in enumerate(names[:frequent]) if w in usable and w.isalpha()]
    similarity = vectors[[index[w] for w in toxic]] @ vectors[clean_rows].T  # (toxic, clean)
    best = similarity.topk(min(neighbours, len(clean_rows)), dim=1)
    table: dict[str, list[tuple[str, float]]] = {}
    for word, scores, places in zip(toxic, best.values.tolist(), best.indices.tolist(), strict=True):
        for score, place in zip(scores, places, strict=True):
            if score >= min_cosine:
                table.setdefault(names[clean_rows[place]], []).append((word, score))
    return table
