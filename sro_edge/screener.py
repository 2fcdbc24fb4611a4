"""ONNX Runtime engine: texts of any length -> toxicity, and fluency and embedding where there.

A long text is read in windows. Its toxicity is that of its worst window, so nothing hides in
length; its fluency and embedding are means over the windows, weighted by their tokens. A text with
disguised words is read a second time without the disguise, and the higher toxicity counts.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sro_edge.disguise import Deobfuscator, Vocabulary
from sro_edge.errors import BundleError, ModelError
from sro_edge.onnx_session import CUDA, Piece, feeds, load_session, token_batches
from sro_edge.segments import windows
from sro_edge.signs import read_out

if TYPE_CHECKING:
    from sro_edge.first_stage import FirstStage

Floats = npt.NDArray[np.float32]

# The score of one text may differ by less than this between batches of other width.
SCREEN_TOLERANCE = 1e-4
TOXIC_LABELS = frozenset({"toxic", "toxicity", "hate", "hateful", "offensive"})
_MOST_TOKENS, _MOST_WORDS = 1_000_000, 10_000_000  # more in a config.json is absurd
_CHUNK = 2048  # windows tokenised at a time: what bounds the memory


@dataclass(frozen=True)
class Scores:
    """Scores of N texts.

    Args:
        toxicity: (N,) in [0, 1].
        fluency: (N,) in [0, 1], 1 is fluent; None where the screener has no such output.
        embedding: (N, d) of length 1, or 0 for a blank text; None likewise.
        cleared: (N,), True where a first stage cleared all of the text: its scores are NaN. Where
            it cleared windows of a text, fluency and embedding are NaN, and toxicity is that of the
            others. None without a first stage.
    """

    toxicity: Floats
    fluency: Floats | None
    embedding: Floats | None
    cleared: npt.NDArray[np.bool_] | None = None


def passes(toxicity: float, threshold: float) -> bool:
    """Whether a score stays below the threshold in every batch; never true for NaN."""
    return toxicity <= threshold - SCREEN_TOLERANCE


class Screener:
    """A screener folder ready to score: ``model.onnx``, ``tokenizer.json``, ``config.json``.

    The graph gives either ``toxicity`` (B,) with optional ``fluency`` (B,) and ``embedding``
    (B, d), or ``logits`` (B, C) of a classifier whose ``id2label`` names a toxic class.

    Args:
        folder: the screener folder.
        threads: CPU threads; default one per physical core.
        device: ``cpu``, ``cuda``, or ``auto`` for the GPU where ONNX Runtime can use one.
        batch_tokens: tokens of one batch, padding included; a longer window is a batch alone.
            Default 16,384 on a GPU, and 512 on a CPU, whose caches more would overflow (measured:
            198 comments/s with 512, 112 with 4,096, one thread).
        deobfuscate: read disguised words a second time.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        BundleError: a file of the folder is missing or damaged.
        ModelError: the graph, its labels or the device cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        device: str = "auto",
        batch_tokens: int | None = None,
        deobfuscate: bool = True,
    ) -> None:
        """Load graph and tokenizer, and run the graph once."""
        config = _read_config(folder / "config.json")
        self._max_tokens: int = config["max_tokens"]
        self.pad: int = config["pad_token_id"]
        self._tokenizer = _load_tokenizer(folder / "tokenizer.json")
        added = self._tokenizer.get_added_tokens_decoder().items()
        self._unknown = {self._tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")}
        self._dumb = self._unknown.union(number for number, t in added if t.special)
        self._deobfuscator = Deobfuscator(self._vocabulary) if deobfuscate else None
        self._session = load_session(folder / "model.onnx", threads, device)
        on_gpu = CUDA in self._session.get_providers()
        self._batch_tokens = batch_tokens or (16_384 if on_gpu else 512)
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._classes = None
        if "toxicity" not in self._outputs:
            self._classes = _ToxicClasses.from_config(config, self._outputs, folder)
        try:
            _, _, probe = self._run([(0, [self.pad])])
        except Exception as error:
            raise ModelError(
                f"{folder}: the screener takes {', '.join(self._inputs)} and cannot be run on "
                f"input_ids, attention_mask and token_type_ids of one token: {error}"
            ) from error
        self._shapes = {name: value.shape[1:] for name, value in probe.items()}

    def score(self, texts: Sequence[str], first_stage: FirstStage | None = None) -> Scores:
        """Scores in the order of ``texts``; equal texts are scored once.

        Toxicity is the higher one of the text and of what :meth:`reveal` makes of it. Emoji are
        read by their names (:mod:`sro_edge.signs`), and words that the tokenizer does not know not
        at all. With ``first_stage`` only the windows that it does not clear are screened. A text of
        which nothing is left so, or that has no letter and no digit, has toxicity 0, fluency 1 and
        an embedding of zeros.
        """
        order: dict[str, int] = {}
        rows = np.array([order.setdefault(text, len(order)) for text in texts], dtype=np.intp)
        readings, owners = self.readings(list(order))
        means = _Means(len(readings), self._shapes)
        pieces = self.pieces(readings)
        while chunk := list(itertools.islice(pieces, _CHUNK)):
            chunk.sort(key=lambda piece: len(piece[1]))
            if first_stage is not None:
                left = first_stage.suspects(chunk, self.pad)
                means.skip(chunk, left)
                chunk = left
            for batch in token_batches(chunk, self._batch_tokens):
                means.add(*self._run(batch))
        means.join(owners[len(order) :], len(order))
        return means.scores(rows, cascaded=first_stage is not None)

    @property
    def words(self) -> int:
        """How many tokens there are."""
        count: int = self._tokenizer.get_vocab_size()
        return count

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        normalizer = self._tokenizer.normalizer
        normalise = normalizer.normalize_str if normalizer else str
        return Vocabulary(self._tokenizer.get_vocab(), normalise)

    def knows(self, word: str) -> bool:
        """Whether a word in lower case is one token, or the tokenizer has too few words to tell."""
        return self._vocabulary.has(word)

    def reveal(
        self, text: str, expected: Collection[str] | None = None, *, hashtags: bool = True
    ) -> str:
        """``text`` with its disguised words as a reader sees them (:mod:`sro_edge.disguise`)."""
        if self._deobfuscator is None:
            return text
        return self._deobfuscator.reveal(text, expected, hashtags=hashtags)

    def readings(self, texts: Sequence[str]) -> tuple[list[str], list[int]]:
        """``texts``, then the undisguised copies of some; and of each, which text it reads."""
        copies = [(i, seen) for i, t in enumerate(texts) if (seen := self.reveal(t)) != t]
        owners = [*range(len(texts)), *(i for i, _ in copies)]
        return [*texts, *(seen for _, seen in copies)], owners

    def pieces(self, texts: Iterable[str]) -> Iterator[Piece]:
        """(number of the text, token ids) of every window, in pieces that the model can read."""
        found = (
            (number, read_out(window).encode("utf-8", "replace").decode("utf-8"))
            for number, text in enumerate(texts)
            for span in windows(text)
            if any(map(str.isalnum, window := span.of(text)))
        )
        while chunk := list(itertools.islice(found, _CHUNK)):
            while chunk:
                encoded = self._tokenizer.encode_batch_fast([text for _, text in chunk])
                halves = []
                for (number, text), encoding in zip(chunk, encoded, strict=True):
                    if self._dumb.issuperset(encoding.ids):
                        continue
                    ids = [token for token in encoding.ids if token not in self._unknown]
                    if len(ids) > self._max_tokens and len(text) > 1:
                        halves += [(number, half) for half in _halve(text)]
                    elif ids:
                        yield number, ids[: self._max_tokens]
                chunk = halves

    def _run(
        self, batch: list[Piece]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], dict[str, Floats]]:
        """Text numbers (B,), token counts (B,) and the outputs by name of one batch."""
        lengths, given = feeds(batch, self.pad)
        values = self._session.run(self._outputs, {name: given[name] for name in self._inputs})
        outputs = {
            name: np.asarray(value, dtype=np.float32)
            for name, value in zip(self._outputs, values, strict=True)
        }
        if self._classes:
            outputs = {"toxicity": self._classes.toxicity(outputs["logits"])}
        return np.array([number for number, _ in batch]), lengths, outputs


class _Means:
    """Scores of N texts, growing batch by batch."""

    def __init__(self, texts: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self._tokens = np.zeros(texts)
        self._skipped = np.zeros(texts, dtype=np.int64)  # windows that a first stage cleared
        self._toxicity = np.zeros(texts, dtype=np.float32)
        self._sums = {
            name: np.zeros((texts, *shapes[name]), dtype=np.float32)
            for name in ("fluency", "embedding")
            if name in shapes
        }

    def add(
        self,
        texts: npt.NDArray[np.intp],
        tokens: npt.NDArray[np.int64],
        outputs: dict[str, Floats],
    ) -> None:
        """Add windows of ``texts`` (B,), of so many ``tokens`` (B,), with their outputs."""
        order = texts.argsort(kind="stable")
        rows, starts = np.unique(texts[order], return_index=True)
        tokens = tokens[order]
        self._tokens[rows] += np.add.reduceat(tokens, starts)
        highest = np.maximum.reduceat(outputs["toxicity"][order], starts)
        self._toxicity[rows] = np.maximum(self._toxicity[rows], highest)
        for name, total in self._sums.items():
            total[rows] += np.add.reduceat((outputs[name][order].T * tokens).T, starts, axis=0)

    def skip(self, pieces: Sequence[Piece], left: Sequence[Piece]) -> None:
        """Note windows that will not come: those of ``pieces`` without ``left``."""
        np.add.at(self._skipped, [number for number, _ in pieces], 1)
        np.add.at(self._skipped, [number for number, _ in left], -1)

    def join(self, texts: Sequence[int], copies: int) -> None:
        """Give ``texts`` the toxicity of their copies, which begin at ``copies``, where higher."""
        own, other = self._toxicity[texts], self._toxicity[copies : copies + len(texts)]
        self._toxicity[texts] = np.maximum(own, other)
        self._seen = self._tokens > 0
        self._seen[texts] |= self._seen[copies : copies + len(texts)]

    def scores(self, rows: npt.NDArray[np.intp], *, cascaded: bool = False) -> Scores:
        """The scores of the texts numbered ``rows``."""
        fluency: Any = self._sums.get("fluency")
        embedding: Any = self._sums.get("embedding")
        blank = self._tokens == 0
        if fluency is not None:
            mean = np.where(blank, 1, fluency / np.where(blank, 1, self._tokens))
            fluency = mean.astype(np.float32)[rows]
        if embedding is not None:
            length = np.linalg.norm(embedding, axis=1, keepdims=True)
            embedding = (embedding / np.where(length > 0, length, 1))[rows]
        toxicity = self._toxicity[rows]
        if not cascaded:
            return Scores(toxicity, fluency, embedding)
        partial = self._skipped[rows] > 0
        cleared = partial & ~self._seen[rows]
        toxicity[cleared] = np.nan
        for column in (fluency, embedding):
            if column is not None:
                column[partial] = np.nan
        return Scores(toxicity, fluency, embedding, cleared)


@dataclass(frozen=True)
class _ToxicClasses:
    """Which columns of a classifier's logits mean toxic, and whether classes exclude each other."""

    columns: list[int]
    exclusive: bool

    @classmethod
    def from_config(cls, config: dict[str, Any], outputs: list[str], folder: Path) -> _ToxicClasses:
        if "logits" not in outputs:
            raise ModelError(
                f"{folder}: the screener gives {', '.join(outputs)}; it must give 'toxicity', or "
                "'logits' with id2label in config.json"
            )
        labels = {int(number): str(label) for number, label in config.get("id2label", {}).items()}
        columns = [number for number, label in labels.items() if label.lower() in TOXIC_LABELS]
        if not columns:
            raise ModelError(
                f"{folder}: none of the screener's labels ({', '.join(labels.values()) or 'none'}) "
                f"is one of {', '.join(sorted(TOXIC_LABELS))}; rename the toxic one in config.json"
            )
        several = config.get("problem_type") == "multi_label_classification"
        return cls(columns, exclusive=len(labels) > 1 and not several)

    def toxicity(self, logits: Floats) -> Floats:
        """Probability (B,) of the toxic classes, from logits (B, C)."""
        probs: Floats
        if not self.exclusive:
            probs = np.exp(-np.logaddexp(np.float32(0), -logits[:, self.columns]))
            return np.asarray(probs.max(axis=1))
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        return np.asarray(probs[:, self.columns].sum(axis=1))


def _halve(text: str) -> tuple[str, str]:
    """Both halves of ``text``, parted at a space near its middle where there is one."""
    middle = len(text) // 2
    space = text.rfind(" ", middle // 2 + 1, middle + 1)
    cut = space if space > 0 else middle
    return text[:cut], text[cut:]


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(file.read_text("utf-8"))
        sizes = config["max_tokens"], config["pad_token_id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(
            f"{file} is not usable: {error!r}; it must be JSON with max_tokens and pad_token_id"
        ) from error
    if any(type(size) is not int for size in sizes) or not (
        8 <= sizes[0] <= _MOST_TOKENS and 0 <= sizes[1] < _MOST_WORDS
    ):
        raise BundleError(
            f"{file}: max_tokens must be 8 to {_MOST_TOKENS:,} and pad_token_id 0 to "
            f"{_MOST_WORDS:,}, not {str(sizes)[:80]}"
        )
    return config


def _load_tokenizer(file: Path) -> Any:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing narrower
        raise BundleError(f"{file} is no tokenizer: {error}; export the bundle again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[SEP]" inside a comment is plain text
    return tokenizer
