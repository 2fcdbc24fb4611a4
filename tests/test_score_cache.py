from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sro_edge.score_cache import ScoreCache
from sro_edge.screener import Scores


class Counting:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def score(self, texts: Sequence[str]) -> Scores:
        self.calls.append(list(texts))
        lengths = np.array([len(text) for text in texts], np.float32)
        return Scores(lengths, None, np.stack([lengths, -lengths], axis=1))


def test_texts_are_screened_once_and_come_back_in_order() -> None:
    screener = Counting()
    cache = ScoreCache(screener)  # type: ignore[arg-type]
    assert cache.score([]).toxicity.shape == (0,)
    assert cache.score(["a", "bbb"]).toxicity.tolist() == [1, 3]
    again = cache.score(["bbb", "cc", "a", "cc"])
    assert again.toxicity.tolist() == [3, 2, 1, 2]
    assert again.fluency is None
    assert again.embedding is not None
    assert again.embedding.tolist() == [[3, -3], [2, -2], [1, -1], [2, -2]]
    assert screener.calls == [[], ["a", "bbb"], ["cc"]]
