"""What the toxic pile says that the clean one does not: toxic words, and their clean analogues."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from sro_edge.mild_words import Phrase
from sro_edge.segments import words
from sro_edge.training.insults import Choice


def log_odds(
    first: Iterable[str], second: Iterable[str], *, min_count: int = 6, prior: float = 500.0
) -> dict[str, tuple[float, float]]:
    """Word -> (log-odds of its document counts in two piles, z-score).

    Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, "Fightin'
    Words", eq. 16 and 22). Both piles must be of the same domain: against general text, topic
    words slip in.
    """
    a = Counter(w for t in first for w in set(words(t)))
    b = Counter(w for t in second for w in set(words(t)))
    total_a, total_b, total = a.total(), b.total(), a.total() + b.total()
    table = {}
    for word in a.keys() | b.keys():
        count = a[word] + b[word]
        if count < min_count or len(word) < 3 or not any(c.isalpha() for c in word):
            continue
        pull = prior * count / total
        x, y = a[word] + pull, b[word] + pull
        odds = math.log(x / (total_a + prior - x)) - math.log(y / (total_b + prior - y))
        table[word] = (odds, odds / math.sqrt(1 / x + 1 / y))
    return table


def mine_lexicon(
    toxic: Iterable[str], clean: Iterable[str], *, min_log_odds: float = 1.3, min_z: float = 2.5
) -> dict[str, float]:
    """Words of the toxic pile with their log-odds, most toxic first."""
    table = log_odds(toxic, clean)
    found = {w: round(o, 3) for w, (o, z) in table.items() if o >= min_log_odds and z >= min_z}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def clean_words(
    toxic: Iterable[str], clean: Iterable[str], *, least: float = 0.2
) -> dict[str, float]:
    """Words that lean to the clean pile, with how far (log-odds, above 0).

    What people write instead of insults leans there ("unwise", "messed", "person"); the names of
    groups, which insults are thrown at, do not.
    """
    return {w: -odds for w, (odds, _) in log_odds(toxic, clean).items() if odds <= -least}


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
    leaning: Mapping[str, float],
    index: dict[str, int],
    vectors: torch.Tensor,
    embed: Callable[[Sequence[str]], torch.Tensor],
    *,
    neighbours: int = 16,
    min_cosine: float = 0.34,
    frequent: int = 6000,
) -> dict[str, list[tuple[str, float]]]:
    """Clean word -> toxic words that stand in the same places and mean the like, with a score.

    Only words of ``leaning`` (see :func:`clean_words`) among the ``frequent`` most common count.
    The score is 0.6 of the cosine of places (PPMI-SVD, which takes antonyms for neighbours) and
    0.4 of the cosine of meanings (``embed``: words -> unit vectors of a sentence encoder),
    plus a little for words that lean far to the clean pile.

    """
    toxic = [w for w in lexicon if w in index]
    names = list(index)
    clean_rows = [i for i, w in enumerate(names[:frequent]) if w in leaning and w.isalpha()]
    similarity = vectors[[index[w] for w in toxic]] @ vectors[clean_rows].T  # (toxic, clean)
    meaning = embed(toxic) @ embed([names[i] for i in clean_rows]).T
    similarity = torch.where(similarity > 0.25, 0.6 * similarity + 0.4 * meaning, 0.0)
    lean = torch.tensor([leaning[names[i]] for i in clean_rows]).clamp_max(3)
    similarity = similarity + 0.04 * lean
    best = similarity.topk(min(neighbours, len(clean_rows)), dim=1)
    table: dict[str, list[tuple[str, float]]] = {}
    for word, scores, places in zip(
        toxic, best.values.tolist(), best.indices.tolist(), strict=True
    ):
        for score, place in zip(scores, places, strict=True):
            if score >= min_cosine:
                table.setdefault(names[clean_rows[place]], []).append((word, score))
    return table


def weighed(
    table: Mapping[str, list[tuple[str, float]]], toxic: Iterable[str]
) -> dict[Phrase, Choice]:
    """:func:`analogues` as what noise substitutes: the closer and the more frequent the likelier.

    Args:
        table: clean word -> toxic words with their score.
        toxic: the toxic pile.
    """
    frequency = Counter(w for t in toxic for w in words(t))
    found: dict[Phrase, Choice] = {}
    for clean, pairs in table.items():
        weights = tuple(
            math.exp((score - 0.7) / 0.06) * (1 + frequency[w]) ** 0.5 for w, score in pairs
        )
        pull = max(1.0, sum(weights) ** 0.5)
        found[(clean,)] = Choice(tuple((w,) for w, _ in pairs), weights, pull)
    return found
