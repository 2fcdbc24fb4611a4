from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sro_edge.detoxifier import Candidate, Detoxifier, Request
from sro_edge.errors import BundleError, ModelError
from sro_edge.llama import Context
from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate
from sro_edge.rewriter import Rewriter

CONTROL_TOKENS = ("<s>", "</s>", "<pad>", "<|rewrite|>")
COMMENTS = [
    "You are an idiot",
    "this is a really stupid idea, my friend",
    "thanks",
    "what a moron ! I think your point is wrong and silly and you know it",
    "ünïcødé 😀 text",
] * 5


def detoxifier(path: Path, **settings: int) -> Detoxifier:
    settings = {"threads": 1, "max_prompt_tokens": 100, "max_new_tokens": 24} | settings
    return Detoxifier(path, SMALL_TEMPLATE, device="cpu", **settings)  # type: ignore[arg-type]


def answers(engine: Detoxifier, requests: list[Request]) -> dict[int, list[Candidate]]:
    found = {}
    for request, candidates in engine.generate(requests):
        assert request.key not in found
        found[request.key] = candidates
    assert sorted(found) == sorted(request.key for request in requests)
    return found


def greedy(comments: list[str]) -> list[Request]:
    return [Request(key, comment) for key, comment in enumerate(comments)]


def texts(found: dict[int, list[Candidate]]) -> dict[int, list[str]]:
    return {key: [candidate.text for candidate in found[key]] for key in found}


def test_slots_change_no_greedy_answer(tiny_gguf: Path) -> None:
    with detoxifier(tiny_gguf, slots=1) as one, detoxifier(tiny_gguf, slots=16) as many:
        alone = answers(one, greedy(COMMENTS))
        together = answers(many, greedy(COMMENTS))
    assert texts(alone) == texts(together)
    assert len({candidates[0].text for candidates in together.values()}) == 5


def test_samples_depend_on_seed_and_key_only(tiny_gguf: Path) -> None:
    drawn = Request(99, COMMENTS[3], samples=4, temperature=1.0, top_p=0.9, seed=3)
    crowd = greedy(COMMENTS) + [
        Request(50 + n, "people", samples=3, temperature=2.0) for n in range(9)
    ]
    with detoxifier(tiny_gguf, slots=6) as engine:
        alone = answers(engine, [drawn])[99]
        beside = answers(engine, [*crowd[:7], drawn, *crowd[7:]])[99]
        reseeded = answers(engine, [Request(99, COMMENTS[3], 4, 1.0, 0.9, seed=4)])[99]
        renamed = answers(engine, [Request(98, COMMENTS[3], 4, 1.0, 0.9, seed=3)])[98]
    assert len({candidate.text for candidate in alone}) == 4
    assert [c.text for c in alone] == [c.text for c in beside]
    assert not {c.text for c in alone} & {c.text for c in reseeded}
    assert not {c.text for c in alone} & {c.text for c in renamed}


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_shared_prompts_give_the_same_samples_at_any_width(tiny_gguf: Path, slots: int) -> None:
    requests = [
        Request(key, comment, samples=1 + key % 5, temperature=0.8)
        for key, comment in enumerate(COMMENTS)
    ]
    with detoxifier(tiny_gguf, slots=slots) as engine:
        shared = answers(engine, requests)
    with detoxifier(tiny_gguf, slots=5) as engine:
        reference = answers(engine, requests)
    assert texts(shared) == texts(reference)
    assert [len(shared[r.key]) for r in requests] == [r.samples for r in requests]


def test_greedy_sample_among_samples_equals_greedy_alone(tiny_gguf: Path) -> None:
    with detoxifier(tiny_gguf, slots=4) as engine:
        alone = answers(engine, [Request(0, COMMENTS[1])])[0]
        several = answers(engine, [Request(0, COMMENTS[1], samples=6)])[0]
    assert [candidate.text for candidate in several] == [alone[0].text] * 6


def test_prompts_longer_than_a_batch_are_read_in_parts(tiny_gguf: Path) -> None:
    long = [f"you idiot {n} " * 12 for n in range(8)]  # together well over 512 tokens
    settings = {"max_prompt_tokens": 300, "max_new_tokens": 8}
    with detoxifier(tiny_gguf, slots=8, **settings) as engine:
        together = answers(engine, greedy(long))
        assert sum(len(engine.tokenize(text, False)) for text in long) > 512
    with detoxifier(tiny_gguf, slots=1, **settings) as engine:
        assert texts(answers(engine, greedy(long))) == texts(together)


def test_lookalikes_of_control_tokens_stay_text(tiny_gguf: Path) -> None:
    with detoxifier(tiny_gguf, slots=2) as engine:
        control = {engine.tokenize(token, True)[0] for token in CONTROL_TOKENS}
        comment = "you </s> are <|rewrite|> an <s><pad> idiot"
        ids = SMALL_TEMPLATE.encode_text(comment, engine.tokenize)
        assert len(control) == 4
        assert not control & set(ids)
        assert engine._model.text(ids) == " " + comment
        prompt = SMALL_TEMPLATE.encode(comment, engine.tokenize)
        assert [t for t in prompt if t in control] == [prompt[0], prompt[-1]]


def test_no_control_token_is_ever_drawn(tiny_gguf: Path) -> None:
    requests = [Request(n, "idiot", samples=20, temperature=10.0) for n in range(10)]
    with detoxifier(tiny_gguf, slots=16) as engine:
        found = answers(engine, requests)
        barred = np.isneginf(engine._model.bias)
        assert [engine._model.text([int(t)]) for t in np.flatnonzero(barred)] == [""] * 3
    candidates = [candidate for few in found.values() for candidate in few]
    assert any(candidate.finished for candidate in candidates)
    for candidate in candidates:
        assert not any(token in candidate.text for token in CONTROL_TOKENS)


def test_answers_stop_at_their_limit(tiny_gguf: Path) -> None:
    requests = [Request(0, "idiot " * 8, max_new_tokens=3), Request(1, "a", samples=2)]
    with detoxifier(tiny_gguf, max_new_tokens=60) as engine:
        found = answers(engine, requests)
    assert found[0][0].tokens <= 3
    assert all(c.tokens <= 1.5 * 2 + 16 for c in found[1])
    for candidate in [*found[0], *found[1]]:
        assert candidate.finished or candidate.tokens in (3, 17, 19)


def test_too_long_or_empty_prompts_give_no_candidates(tiny_gguf: Path) -> None:
    bare = PromptTemplate(prefix="", suffix="<|rewrite|>")
    requests = [Request(0, "idiot " * 500), Request(1, "idiot"), Request(2, "")]
    with Detoxifier(tiny_gguf, bare, threads=1, max_prompt_tokens=40) as engine:
        found = answers(engine, requests)
    assert found[0] == found[2] == []
    assert len(found[1]) == 1


def test_requests_are_taken_only_when_slots_are_free(tiny_gguf: Path) -> None:
    taken = 0

    def source() -> Iterator[Request]:
        nonlocal taken
        for request in greedy(COMMENTS):
            taken += 1
            yield request

    with detoxifier(tiny_gguf, slots=2) as engine:
        stream = engine.generate(source())
        next(stream)
        assert taken <= 3
        stream.close()
        assert len(answers(engine, greedy(COMMENTS[:3]))) == 3


def test_one_generation_at_a_time_and_none_after_close(tiny_gguf: Path) -> None:
    engine = detoxifier(tiny_gguf)
    stream = engine.generate(greedy(COMMENTS))
    next(stream)
    with pytest.raises(RuntimeError, match="already generating"):
        next(engine.generate(greedy(COMMENTS)))
    engine.close()
    engine.close()
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(engine.generate(greedy(COMMENTS)))


@pytest.mark.parametrize("damage", ["cut", "header", "random", "empty", "missing"])
def test_damaged_files_are_refused(
    tiny_gguf: Path, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tiny_gguf.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "header": data[:40],
        "random": np.random.default_rng(0).bytes(5000),
        "empty": b"",
    }
    file = tmp_path / "model.gguf"
    if damage in damaged:
        file.write_bytes(damaged[damage])
    with pytest.raises(BundleError, match=r"export (or copy it|the bundle) again|export or copy"):
        detoxifier(file)
    assert capfd.readouterr() == ("", "")


def test_sizes_the_model_cannot_serve_are_refused(tiny_gguf: Path) -> None:
    with pytest.raises(ModelError, match="trained for 512"):
        detoxifier(tiny_gguf, max_prompt_tokens=500)
    with pytest.raises(ModelError, match="slots must be 1 to 128"):
        detoxifier(tiny_gguf, slots=129)
    with pytest.raises(ValueError, match="at least 1"):
        Request(0, "x", samples=0)
    with pytest.raises(ValueError, match="temperature"):
        Request(0, "x", temperature=float("nan"))


def test_what_cannot_run_here_is_known_before_any_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: Context) -> None:
        assert context.batch.tokens == 2
        raise ModelError("no such instruction")

    monkeypatch.setattr(Context, "decode", fail)
    with pytest.raises(ModelError, match="no such instruction"):
        Rewriter.load(threads=1)


def test_what_was_tried_out_is_forgotten(tiny_gguf: Path) -> None:
    with detoxifier(tiny_gguf) as one, detoxifier(tiny_gguf) as other:
        one.try_out()
        assert answers(one, greedy(COMMENTS)) == answers(other, greedy(COMMENTS))


def test_cuda_is_refused_where_llama_was_built_without(tiny_gguf: Path) -> None:
    import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("llama.cpp was built for a GPU")
    with pytest.raises(ModelError, match="device must be"):
        Detoxifier(tiny_gguf, SMALL_TEMPLATE, device="tpu")
    with pytest.raises(ModelError, match="llama-cpp-python"):
        Detoxifier(tiny_gguf, SMALL_TEMPLATE, device="cuda")


def test_text_that_is_no_unicode_is_survived(tiny_gguf: Path) -> None:
    odd = ["\ud800 lone", "nul \0 inside", "\u200b", "🤦🏽‍♀️" * 3, "a\u0300" * 9]
    with detoxifier(tiny_gguf) as engine:
        found = answers(engine, greedy(odd))
    assert all(len(candidates) == 1 for candidates in found.values())


def test_draws_follow_the_nucleus() -> None:
    from sro_edge.sampling import draw

    draws = 20_000
    keys = np.random.default_rng(5).integers(0, 2**64, draws, dtype=np.uint64)
    logits = np.log([[0.1, 0.5, 0.15, 0.25]]).astype(np.float32)
    one, row = np.ones(1, dtype=np.float32), np.zeros(draws, dtype=np.intp)

    def shares(temperature: float, top_p: float) -> list[float]:
        drawn = draw(logits, temperature * one, top_p * one, row, keys)
        return (np.bincount(drawn, minlength=4) / draws).tolist()

    assert shares(1, 1) == pytest.approx([0.1, 0.5, 0.15, 0.25], abs=0.01)
    assert shares(1, 0.7) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.01)
    assert shares(1, 0.01) == [0, 1, 0, 0]
    squared = np.array([0.01, 0.25, 0.0225, 0.0625]) / 0.345
    assert shares(0.5, 1) == pytest.approx(squared, abs=0.01)
