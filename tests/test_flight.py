"""Continuous batching and prompt lookup: what is evaluated, and that nobody sees it in answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sro_edge.bundle import Bundle
from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.lookup import Depth, Draft, places_of
from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate
from sro_edge.sampling import draw, uniform

COMMENTS = ["what a moron you are", "this is silly", "an idiot with a really bad idea !"] * 4
CHATTY = PromptTemplate(prefix="<s>you are a friend of all people. ", suffix="<|rewrite|>")


@pytest.fixture(scope="module")
def small_gguf(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as q8_0: llama.cpp's integer kernels round alike in every batch."""
    import ctypes
    import os

    from sro_edge.llama import library

    lib = library()
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    params = lib.llama_model_quantize_default_params()
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q8_0
    source, target = os.fsencode(tiny_gguf), os.fsencode(path)
    assert lib.llama_model_quantize(source, target, ctypes.byref(params)) == 0
    return path


def engine(path: Path, template: PromptTemplate = SMALL_TEMPLATE, **settings: Any) -> Detoxifier:
    defaults: dict[str, Any] = {"threads": 1, "max_prompt_tokens": 160, "max_new_tokens": 24}
    return Detoxifier(path, template, device="cpu", **defaults | settings)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(tokens, rows of logits) of every batch that llama.cpp is given."""
    from sro_edge.llama import Context

    seen = []
    decode = Context.decode

    def counted(self: Context) -> Any:
        seen.append((self.batch.tokens, self.batch.rows))
        return decode(self)

    monkeypatch.setattr(Context, "decode", counted)
    return seen


def answers(model: Detoxifier, requests: list[Request]) -> dict[Any, list[str]]:
    found = {r.key: [c.text for c in candidates] for r, candidates in model.generate(requests)}
    assert sorted(found) == sorted(r.key for r in requests)
    return found


def always(model: Detoxifier, guesses: int) -> None:
    """Guess so far in every step, whatever it costs."""
    for flight in model._flights:
        flight._depth.choose = lambda drafts, tokens: guesses  # type: ignore[method-assign]


@pytest.mark.parametrize("guesses", [1, 3, 7])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_guessing_changes_no_answer(small_gguf: Path, guesses: int, temperature: float) -> None:
    requests = [
        Request(n, comment, samples=1 + n % 3, temperature=temperature, top_p=0.95)
        for n, comment in enumerate([*COMMENTS, "and ".join(COMMENTS[:4]), COMMENTS[0] * 3])
    ]
    with engine(small_gguf, lookup=False) as plain, engine(small_gguf, slots=5) as guessing:
        always(guessing, guesses)
        assert answers(guessing, requests) == answers(plain, requests)


def test_the_embedded_bundle_answers_the_same_with_guesses_and_in_company(
    steps: list[tuple[int, int]],
) -> None:
    bundle = Bundle.load()
    lines = (Path(__file__).parent.parent / "examples/comments.jsonl").read_text("utf-8")
    comments = [json.loads(line)["text"] for line in lines.splitlines()[:60]]
    comments += [" ".join(filter(None, comments[n : n + 8])) for n in range(0, 40, 8)]
    requests = [Request(n, c) for n, c in enumerate(comments) if c]
    found, counts = [], []
    for lookup, slots in ((False, 1), (True, 1), (True, 32)):
        steps.clear()
        with Detoxifier(
            bundle.detoxifier, bundle.prompt, threads=1, device="cpu", slots=slots, lookup=lookup
        ) as model:
            if lookup and slots == 1:
                always(model, 6)
            found.append(answers(model, requests))
        counts.append(len(steps))
    assert found[0] == found[1] == found[2]
    assert counts[1] < counts[0] / 2
    assert counts[2] < counts[0] / 8


def test_fixed_shapes_give_the_same_answers_in_any_company(
    tiny_gguf: Path, steps: list[tuple[int, int]]
) -> None:
    requests = [
        Request(n, comment, samples=1 + n % 3, temperature=n % 2, max_new_tokens=6 + n)
        for n, comment in enumerate(COMMENTS)
    ]
    with engine(tiny_gguf, CHATTY, slots=4, deterministic=True) as model:
        together = answers(model, requests)
        prompts = {len(CHATTY.encode(r.prompt, model.tokenize)) for r in requests}
        alone = {r.key: answers(model, [r])[r.key] for r in requests}
        backwards = answers(model, requests[::-1])
    assert together == alone == backwards
    prefix = max(tokens for tokens, _ in steps)
    # Every batch is the prefix, one prompt (whole, or all but its last token), or all four slots.
    shapes = {(4, 4), (prefix, 0)}
    for prompt in (length - prefix for length in prompts):
        shapes |= {(prompt, 1), (prompt - 1, 0)}
    assert set(steps) <= shapes
    with engine(tiny_gguf, CHATTY, slots=4) as model:
        assert answers(model, requests).keys() == together.keys()


def test_a_slot_is_refilled_as_soon_as_its_answer_ends(
    small_gguf: Path, steps: list[tuple[int, int]]
) -> None:
    requests = [Request(n, "idiot", max_new_tokens=2 + 9 * (n % 3)) for n in range(24)]
    with engine(small_gguf, slots=4, lookup=False) as model:
        answers(model, requests)
    busy = [rows for _, rows in steps]
    assert len(busy) > 60
    assert set(busy[:-20]) == {4}  # nobody waits for the longest answer, but at the very end


def test_the_last_answers_stay_neighbours(
    small_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(n, COMMENTS[n], max_new_tokens=4 + 3 * n) for n in range(6)]
    with engine(small_gguf, slots=1, lookup=False) as model:
        alone = answers(model, requests)
    with engine(small_gguf, slots=6, lookup=False) as model:
        llama, batches = model._flights[0].context, []
        decode = llama.decode

        def noted() -> Any:
            batches.append(sorted(set(llama.batch._sequence[: llama.batch.tokens].tolist())))
            return decode()

        monkeypatch.setattr(llama, "decode", noted)
        assert answers(model, requests) == alone
    assert all(batch == list(range(len(batch))) for batch in batches)
    assert {len(batch) for batch in batches} >= {2, 3, 4, 5, 6}


def test_samples_share_one_reading_of_their_prompt(
    small_gguf: Path, steps: list[tuple[int, int]]
) -> None:
    request = Request(0, "idiot " * 20, samples=6, temperature=0.7, max_new_tokens=2)
    with engine(small_gguf, slots=3, lookup=False) as model:
        prompt = len(model.template.encode(request.prompt, model.tokenize))
        found = answers(model, [request])
        alone = sum(tokens for tokens, _ in steps)
        steps.clear()
        again = answers(model, [request])
    # Of the samples, those that drew the same first token read it once.
    assert prompt + 1 < alone <= prompt + 6
    assert again == found
    assert sum(tokens for tokens, _ in steps) == alone - (prompt - 1)  # nobody took the slot


def test_samples_are_one_sequence_until_they_part(
    small_gguf: Path, steps: list[tuple[int, int]]
) -> None:
    counts = []
    with engine(small_gguf, slots=8, lookup=False) as model:
        for samples, temperature in ((1, 0.0), (8, 0.0), (8, 1e-4), (8, 1.5)):
            answers(model, [Request(n, COMMENTS[1]) for n in range(8)])  # no slot holds the prompt
            steps.clear()
            request = Request(0, COMMENTS[0], samples, temperature, max_new_tokens=12)
            found = answers(model, [request])[0]
            counts.append((sum(tokens for tokens, _ in steps), len(set(found))))
    assert counts[0] == counts[1] == counts[2]
    assert counts[3][1] > 4
    assert counts[3][0] > 3 * counts[0][0]


def test_the_prefix_of_all_prompts_is_read_once(
    small_gguf: Path, steps: list[tuple[int, int]]
) -> None:
    requests = [Request(n, c, max_new_tokens=1) for n, c in enumerate(COMMENTS)]
    with engine(small_gguf, CHATTY, slots=2, lookup=False) as model:
        prefix = len(model.tokenize(CHATTY.prefix, True))
        prompts = [len(CHATTY.encode(r.prompt, model.tokenize)) for r in requests]
        found = answers(model, requests)
        assert sum(tokens for tokens, _ in steps) == prefix + sum(prompts) - prefix * len(prompts)
        steps.clear()
        assert answers(model, requests[:3]) == {n: found[n] for n in range(3)}
        assert sum(tokens for tokens, _ in steps) <= sum(prompts[:3]) - 3 * prefix
    with engine(small_gguf, CHATTY, slots=1, max_prompt_tokens=160) as model:
        model._flights[0]._prefix = []
        assert answers(model, requests) == found


def test_what_the_caller_does_between_answers_is_no_cost_of_a_step(
    small_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[float] = []
    clock = 0.0
    monkeypatch.setattr("sro_edge.flight.time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(Depth, "took", lambda self, tokens, seconds: costs.append(seconds))
    with engine(small_gguf, slots=3) as model:
        for _ in model.generate([Request(n, c) for n, c in enumerate(COMMENTS)]):
            clock += 1000.0
    assert len(costs) > len(COMMENTS)
    assert set(costs) == {0.0}


def test_a_run_given_up_half_way_leaves_nothing_behind(small_gguf: Path) -> None:
    requests = [Request(n, c, samples=1 + n % 4, temperature=0.6) for n, c in enumerate(COMMENTS)]
    with engine(small_gguf, slots=3) as model:
        whole = answers(model, requests)
        for taken in (1, 3):
            stream = model.generate(requests)
            for _ in range(taken):
                next(stream)
            stream.close()
            assert answers(model, requests) == whole


def test_drafts_follow_what_is_kept_left_out_and_replaced() -> None:
    draft = Draft([1, 2, 3, 4, 5, 9])
    assert draft.guess(3) == [1, 2, 3]
    assert draft.follow(1)
    assert not draft.follow(3)  # 2 left out
    assert draft.guess(9) == [4, 5, 9]
    assert not draft.follow(77)  # in the place of 4
    assert draft.follow(5)
    assert draft.guess(9) == [9]
    assert draft.follow(9)
    assert draft.guess(9) == []
    assert not draft.follow(5)


def test_a_draft_leaves_out_what_answers_seldom_repeat() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    places = places_of({3: [[3, 5], [3, 4]], 9: [[9, 1]]}, tokens)
    assert places == {2, 3}
    draft = Draft(tokens, places)
    assert draft.guess(1) == [1]
    assert draft.guess(15) == [1, 2, 5]  # three tokens fill a block, and 12 more are uncertain
    assert draft.guess(6) == [1, 2]
    assert draft.follow(1)
    assert draft.follow(2)
    assert draft.guess(3) == [5, 6, 7]
    assert not draft.follow(77)  # in the place of 3
    assert not draft.sure
    assert not draft.follow(4)  # kept after all
    assert draft.follow(5)
    assert draft.sure
    assert draft.guess(15) == [6, 7, 8, 9]


def test_words_seldom_repeated_may_be_empty_and_change_no_answer(small_gguf: Path) -> None:
    requests = [Request(n, c) for n, c in enumerate(COMMENTS)]
    with engine(small_gguf, slots=1) as model:
        found = answers(model, requests)
    with engine(small_gguf, slots=1, seldom=["", *COMMENTS[0].split()]) as model:
        always(model, 3)
        assert answers(model, requests) == found


def test_a_draft_finds_its_place_again_after_words_put_in() -> None:
    draft = Draft([1, 2, 3, 4, 5, 6])
    assert draft.follow(1)
    assert not any(draft.follow(token) for token in (71, 72, 73))  # in the place of 2
    assert draft.guess(2) == [5, 6]
    assert not draft.follow(3)  # farther back than it stood
    assert draft.guess(2) == [4, 5]


def test_depth_follows_cost_and_hits() -> None:
    def depth(fixed: float, hits: float) -> Depth:
        made = Depth(64)
        for step in range(2000):
            tokens = 1 + step % 9
            made.took(tokens, fixed + tokens)
            made.saw(step % 100 < 100 * hits, sure=True)
        return made

    def drafts(answers: int) -> list[Draft]:
        return [Draft([1, 2, 3]) for _ in range(answers)]

    bound_by_memory, bound_by_arithmetic = depth(20, 0.9), depth(0.01, 0.9)
    assert bound_by_memory.choose(drafts(1), 1) >= 8
    assert depth(500, 0.9).choose(drafts(16), 16) == 3  # 64 rows and no more
    for answers in (1, 16):
        assert bound_by_arithmetic.choose(drafts(answers), answers) == 0
    assert depth(20, 0.1).choose(drafts(1), 1) == 0
    between = depth(4, 0.9)
    assert between.choose(drafts(1), 1) > between.choose(drafts(2), 2) > 0
    assert between.choose(drafts(12), 12) == 0
    assert Depth(0).choose(drafts(1), 1) == 0


def test_depth_fills_blocks_and_expects_little_after_a_miss() -> None:
    draft = Draft([1, 2, 3])
    for tokens in (21, 22, 23, 24, 1):  # with a prompt in the step, too
        made = Depth(64)
        made.took(1, 9.0)
        depth = made.choose([draft], tokens)
        assert depth
        assert (tokens + depth) % 4 == 0
    draft.follow(9)
    assert made.choose([draft], 1) < depth


def test_depth_tries_now_and_then_what_did_not_pay() -> None:
    made = Depth(64)
    for tokens in range(1, 10):
        made.took(tokens, float(tokens))
    chosen = [made.choose([Draft([1])], 1) for _ in range(128)]
    assert [place for place, depth in enumerate(chosen) if depth] == [3, 67]
    assert not any(made.choose([Draft([1])] * 4, 4) for _ in range(128))


def test_depth_remembers_what_it_does_not_choose_now() -> None:
    made = Depth(64)
    for tokens in (1, 4, 8, 12, 16):
        made.took(tokens, 10.0 + tokens)
    for _ in range(1000):
        made.took(16, 26.0)
    assert (made._fixed, made._each) == (pytest.approx(10), pytest.approx(1))


def test_draws_of_equal_keys_are_equal_and_greedy_rows_are_greedy() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(6, 40)).astype(np.float32)
    temperature = np.array([0, 1, 0, 2, 0.5, 1], dtype=np.float32)
    top_p = np.array([1, 0.9, 0.5, 1, 0.8, 0.99], dtype=np.float32)
    keys = rng.integers(0, 2**64, 6, dtype=np.uint64)
    rows = np.arange(6)
    together = draw(logits, temperature, top_p, rows, keys)
    one = rows[:1]
    alone = [
        draw(logits[n, None], temperature[n, None], top_p[n, None], one, keys[n, None])[0]
        for n in rows
    ]
    assert together.tolist() == alone
    several = np.array([5, 1, 1, 0, 5])
    found = draw(logits, temperature, top_p, several, keys[several])
    assert found.tolist() == together[several].tolist()
    assert together[[0, 2]].tolist() == logits[[0, 2]].argmax(axis=1).tolist()


def test_draws_are_those_of_a_sorted_nucleus() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, size=(200, 30)).astype(np.float32).round(1)  # so that some tie
    temperature, top_p = np.full(200, 0.9, np.float32), np.full(200, 0.6, np.float32)
    top_p[::4] = 1
    keys = rng.integers(0, 2**64, 200, dtype=np.uint64)
    drawn = draw(logits, temperature, top_p, np.arange(200), keys)
    for row, token in enumerate(drawn):
        scaled = (logits[row] - logits[row].max()) / temperature[row]
        shares = (np.exp(scaled) / np.exp(scaled).sum()).astype(np.float64)
        order = np.argsort(-shares, kind="stable")
        inside = order[shares[order].cumsum() - shares[order] < top_p[row]]
        gumbel = -np.log(-np.log(uniform(np.arange(30), keys[row])))
        assert token == max(inside, key=lambda t: scaled[t] + gumbel[t])
    assert len(set(drawn.tolist())) > 10


def requests_forever() -> Iterator[Request]:
    while True:
        yield Request(0, "thanks", max_new_tokens=1)


def test_requests_may_never_end(small_gguf: Path) -> None:
    with engine(small_gguf) as model:
        stream = model.generate(requests_forever())
        assert all(next(stream)[1] for _ in range(40))
        stream.close()
