"""The engine with small stand-ins for its two models: what passes, what is retried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from stand_ins import WordScreener, one, rewriter

from sro_edge.bundle import Thresholds
from sro_edge.mild_words import Table
from sro_edge.rewriter import MASK, Rewriter
from sro_edge.screener import Scores


def test_one_text_is_no_list_of_texts() -> None:
    engine = rewriter(lambda prompt, greedy: [])
    for wrong, message in [("idiot", "not one text"), (["a", 5], "a string or None")]:
        with pytest.raises(TypeError, match=message):
            list(engine.rewrite(wrong))  # type: ignore[arg-type]


def test_clean_blank_and_toxic_comments_in_order() -> None:
    engine = rewriter(lambda prompt, greedy: ["you are wrong"])
    texts = ["fine, thanks", None, "  ", "you are an idiot", "fine, thanks"]
    found = list(engine.rewrite(texts))
    assert [r.status for r in found] == ["clean", "empty", "empty", "rewritten", "clean"]
    assert [r.text for r in found] == ["fine, thanks", None, "  ", "you are wrong", "fine, thanks"]
    assert found[3].engine == "greedy"
    assert found[3].attempts == 1
    assert found[3].toxicity_before == pytest.approx(0.9)
    assert found[3].toxicity_after == pytest.approx(0.1)


def test_sampling_follows_a_failed_greedy_answer() -> None:
    answers = lambda p, greedy: ["still stupid"] if greedy else ["a cat", "odd words", "not wise"]  # noqa: E731
    found = one("a stupid plan", answers)
    assert (found.text, found.engine, found.attempts) == ("not wise", "sample", 2)


@pytest.mark.parametrize(
    ("greedy", "samples", "text", "engine"),
    [
        ("a harsh plan", ["a harsh idea", "a poor plan"], "a poor plan", "sample"),
        ("a blorp plan", ["a blorp idea", "a flat plan"], "a flat plan", "sample"),
        ("a harsh plan", ["a harsh idea"], "a harsh plan", "greedy"),  # nothing is deleted
        ("a harsh plan", ["odd words"], "a harsh plan", "greedy"),
        ("a cat", ["odd words"], "a plan", "delete"),
        ("a flat plan", ["a poor plan"], "a poor plan", "sample"),
        ("a flat plan", ["a harsh plan"], "a flat plan", "greedy"),
    ],
)
def test_what_only_just_passes_gives_way(
    greedy: str, samples: list[str], text: str, engine: str
) -> None:
    found = one("a stupid plan", lambda p, first: [greedy] if first else samples)
    assert (found.text, found.engine) == (text, engine)


def test_a_risky_answer_is_better_than_none() -> None:
    found = one("idiotic!", lambda p, greedy: ["harsh!"])
    assert (found.text, found.engine, found.attempts) == ("harsh!", "greedy", 3)
    found = one("a stupid plan", lambda p, greedy: ["a harsh plan"], max_attempts=1)
    assert (found.text, found.engine) == ("a harsh plan", "greedy")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("still an idiot", "toxic"),
        ("the cat sat", "meaning"),
        ("odd words here", "meaning"),
        ("I'm sorry, but I can't help", "abstained"),
    ],
)
def test_unresolved_says_why(answer: str, reason: str) -> None:
    # One word only: nothing is left when it is deleted.
    found = one("idiotic!", lambda p, greedy: [answer])
    assert (found.status, found.reason, found.text) == ("unresolved", reason, None)


def test_echoes_and_empty_answers_do_not_pass() -> None:
    found = one("You stupid Thing", lambda p, greedy: ["you stupid thing", "", "..."])
    assert found.engine == "delete"
    assert found.text == "You Thing"


def test_deleted_words_may_leave_holes() -> None:
    found = one("hm idiot", lambda p, greedy: ["odd thing"])
    assert (found.text, found.engine, found.fluency) == ("hm", "delete", pytest.approx(0.5))


def test_deleted_words_leave_something_readable() -> None:
    found = one("zz idiot", lambda p, greedy: ["a cat"])
    assert (found.status, found.reason) == ("unresolved", "meaning")
    found = one("odd idiot", lambda p, greedy: ["a cat"])  # no more broken than it was
    assert (found.text, found.engine) == ("odd", "delete")


def test_deleting_can_be_switched_off() -> None:
    answers = lambda p, greedy: ["a cat"]  # noqa: E731
    for text in ("a stupid plan", "Stupid!  How did you do that?"):
        assert one(text, answers).engine == "delete"
        found = one(text, answers, delete=False)
        assert (found.status, found.attempts) == ("unresolved", 3)
    found = one("a stupid plan", lambda p, greedy: ["a harsh plan"], delete=False)
    assert (found.text, found.engine) == ("a harsh plan", "greedy")


def test_a_table_of_milder_words_stands_beside_the_greedy_answer() -> None:
    mild: Table = {("stupid",): [("unwise",)], ("idiot",): [("person",)]}
    cases = [
        ("a stupid plan", ["a harsh plan"], "an unwise plan", "substitute", 1),
        ("a stupid plan", ["a poor plan"], "a poor plan", "greedy", 1),  # as good: the policy's
        ("what an idiot", ["a cat"], "what a person", "substitute", 1),
    ]
    for text, answer, wanted, engine, attempts in cases:
        found = one(text, lambda p, greedy, a=answer: a, mild=mild)  # type: ignore[misc]
        assert (found.text, found.engine, found.attempts) == (wanted, engine, attempts), text
    answers = lambda p, greedy: ["too bad."] if "idiot" in p else ["a cat"]  # noqa: E731
    found = one("you idiot. Stupid!", answers, mild={("stupid",): [("unwise",)]})
    assert (found.text, found.engine) == ("too bad. Unwise!", "substitute")


def test_what_the_table_has_for_a_phrase_counts_more_and_for_a_word_does_not() -> None:
    def engine(mild: Table) -> str | None:
        return one("what an idiot", lambda p, greedy: ["what a flat tyre"], mild=mild).engine

    assert engine({("idiot",): [("mouse",)]}) == "greedy"  # .81 x 1 x .75 against .81 x .8 x .9
    assert engine({("an", "idiot"): [("a", "mouse")]}) == "substitute"


def test_a_short_insult_in_milder_words_may_be_less_similar() -> None:
    mild: Table = {("idiot",): [("mouse",)]}
    settings = {"thresholds": Thresholds(0.5, 0.9, 0.2), "delete": False}  # a mouse is .8 similar
    answers = lambda p, greedy: ["mouse!"]  # noqa: E731
    found = one("Idiot!", answers, mild=mild, **settings)
    assert (found.text, found.engine) == ("Mouse!", "substitute")
    assert found.similarity == pytest.approx(0.8)
    said_by_both = one("Idiot!", lambda p, greedy: ["Mouse!"], mild=mild, **settings)
    assert (said_by_both.text, said_by_both.engine) == ("Mouse!", "substitute")
    assert one("Idiot!", answers, **settings).reason == "meaning"  # the policy's own
    both = one("Idiot! Idiot!", answers, mild=mild, **settings)  # nor is more asked of a comment
    assert (both.text, both.engine) == ("Mouse! Mouse!", "substitute")
    assert one("Idiot! Stupid!", answers, mild=mild, **settings).reason == "meaning"


def test_a_short_insult_in_milder_words_need_not_be_fluent_where_nothing_else_passes() -> None:
    mild: Table = {("an", "idiot"): [("an", "odd", "one")], ("zz", "idiot"): [("zz",)]}
    answers = lambda p, greedy: ["a cat"]  # noqa: E731
    found = one("what an idiot", answers, mild=mild, delete=False)
    assert (found.text, found.engine, found.attempts) == ("what an odd one", "substitute", 3)
    assert one("what an idiot", answers, mild=mild).engine == "substitute"  # nothing is deleted
    sampled = one("what an idiot", lambda p, greedy: ["a cat", "well, well"], mild=mild)
    assert (sampled.text, sampled.engine) == ("well, well", "greedy")
    longer = "It is late. What an idiot!"
    assert one(longer, answers, mild=mild, delete=False).reason == "meaning"
    assert one("zz idiot", answers, mild=mild, delete=False).reason == "meaning"  # no new word


class AtOddsScreener(WordScreener):
    """A fool is a little toxic, more so where it is late; 'Mouse!' differs from 'Idiot!'."""

    def score(self, texts: Sequence[str]) -> Scores:
        scores = super().score(texts)
        for i, text in enumerate(texts):
            if "fool" in text:
                scores.toxicity[i] = 0.9 if "late" in text else 0.2
        assert scores.embedding is not None
        scores.embedding[[i for i, t in enumerate(texts) if t == "Mouse!"]] = 0.5, 3**0.5 / 2
        return scores


def at_odds(answer: Callable[[str, bool], list[str]], **options: Any) -> Rewriter:
    engine = rewriter(answer, **options)
    engine.screener = AtOddsScreener()  # type: ignore[assignment]
    return engine


def test_milder_words_of_one_sentence_may_be_less_similar_where_the_comment_is_not() -> None:
    mild: Table = {("idiot",): [("mouse",)]}
    text, answers = "It is late. Idiot!", lambda p, greedy: ["a cat"]
    found = next(at_odds(answers, mild=mild, delete=False).rewrite([text]))
    assert (found.text, found.engine) == ("It is late. Mouse!", "substitute")


def test_what_passes_alone_and_not_in_company_is_not_taken_again() -> None:
    answers = lambda p, greedy: ["you fool"] if greedy else ["you fool", "you man"]  # noqa: E731
    found = next(at_odds(answers, delete=False).rewrite(["It is late. you idiot"]))
    assert (found.text, found.engine, found.attempts) == ("It is late. you man", "sample", 2)


def test_a_sentence_that_is_toxic_in_company_is_looked_for_where_the_comment_fails() -> None:
    far = "That was long ago, my friend, and nobody cares. " * 12
    text = f"Idiot. {far}It is late. The fool knows."
    engine = at_odds(lambda p, greedy: ["The man knows."] if "fool" in p else ["Well."])
    found = next(engine.rewrite([text]))
    assert found.text == f"Well. {far}It is late. The man knows."
    asked = [r.prompt for r in engine.detoxifier.requests]  # type: ignore[attr-defined]
    assert "That was long ago, my friend, and nobody cares." not in asked


def test_names_of_groups_must_survive() -> None:
    found = one("stupid gay men", lambda p, greedy: ["men"] if greedy else ["some gay men"])
    assert (found.text, found.engine) == ("some gay men", "sample")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Stupid!  How did you do that?", "How did you do that?"),
        ("How did you do that? Idiot! ", "How did you do that?"),
        ("Oh, no. Idiot!\nHow did you do that?", "Oh, no. How did you do that?"),
        ("It is late. Idiot, stupid idiot, stupid idiot!", None),  # more than a curse
        ("Idiot! You 2 know.", "You 2 know."),
        ("2 idiots! You know.", None),  # a number would be gone
    ],
)
def test_lone_curses_are_left_out_at_last(text: str, left: str | None) -> None:
    found = one(text, lambda p, greedy: ["a cat"])
    assert found.text == left
    if left is not None:
        assert (found.status, found.engine, found.attempts) == ("rewritten", "delete", 3)
        assert found.similarity == pytest.approx(1.0)


def test_too_long_prompts_are_unresolved() -> None:
    assert one("idiotic!", lambda p, greedy: []).reason == "too_long"


def test_only_the_toxic_sentence_changes() -> None:
    text = "Hi  all!\nSee https://example.org/a?b=1 you idiot. Bye,  and thanks."
    engine = rewriter(lambda prompt, greedy: ["my friend."])
    found = next(engine.rewrite([text]))
    assert found.text == text.replace("you idiot.", "my friend.")
    assert {r.prompt for r in engine.detoxifier.requests} == {"you idiot."}  # type: ignore[attr-defined]


def test_text_around_kept_parts_stays_as_it_is() -> None:
    engine = rewriter(lambda prompt, greedy: ["that man knows all"])
    found = next(engine.rewrite(["ask @someone, that idiot knows all 🙏"]))
    assert found.text == "ask @someone, that man knows all 🙏"


def test_numbers_must_survive() -> None:
    found = one(
        "idiot, it costs 12.50", lambda p, greedy: ["it costs 13"] if greedy else ["it costs 12.50"]
    )
    assert (found.text, found.engine) == ("it costs 12.50", "sample")


def test_refused_candidates_are_retried_and_named() -> None:
    answers = lambda p, greedy: ["he is wise"] if greedy else ["he is not wise"]  # noqa: E731
    found = one("he is not wise, the idiot", answers)
    assert (found.text, found.engine, found.attempts) == ("he is not wise", "sample", 2)
    lost = one("idiotic!", lambda p, greedy: ["on Tuesday"])
    assert (lost.status, lost.reason) == ("unresolved", "meaning")


def test_the_last_resort_keeps_numbers_quotes_and_negation() -> None:
    found = one('"so" 12 idiot never knew', lambda p, greedy: ["thing"])
    assert (found.text, found.engine) == ('"so" 12 never knew', "delete")
    for text in ("idiot12", '"idiot" bob'):
        assert one(text, lambda p, greedy: ["thing"]).status == "unresolved", text


def test_a_quotation_over_two_sentences_must_not_break() -> None:
    text = 'He said "you idiot. Go home" and left.'
    answers = lambda p, greedy: ["He said you fool."] if greedy else ['He said "you fool.']  # noqa: E731
    found = one(text, answers)
    assert (found.text, found.status) == (None, "unresolved")  # the table has no word of it


@pytest.mark.parametrize(
    ("toxicity", "status", "text"),
    [(0.7, "rewritten", "It is late. Take that."), (0.8, "unresolved", None)],
)
def test_a_sentence_stands_that_is_not_far_from_passing_where_the_comment_passes(
    toxicity: float, status: str, text: str | None
) -> None:
    class OutOfContext(WordScreener):
        def score(self, texts: Sequence[str]) -> Scores:
            scores = super().score(texts)
            scores.toxicity[[i for i, t in enumerate(texts) if t == "Take that."]] = toxicity
            return scores

    answers = lambda p, greedy: ["It is late."] if "idiot" in p else ["a cat"]  # noqa: E731
    engine = rewriter(answers, delete=False)
    engine.screener = OutOfContext()  # type: ignore[assignment]
    found = next(engine.rewrite(["It is late, idiot. Take that."]))
    assert (found.status, found.text) == (status, text)
    assert found.engine == ("greedy" if text else None)


def test_the_last_round_has_second_choices() -> None:
    answers = lambda p, greedy: ["you fool", "you fine fool", "you flat man"]  # noqa: E731
    found = next(at_odds(answers, max_attempts=1, delete=False).rewrite(["It is late. you idiot"]))
    assert (found.text, found.engine, found.attempts) == ("It is late. you flat man", "greedy", 1)


def test_disguised_words_are_shown_to_the_model_as_they_look() -> None:
    engine = rewriter(lambda prompt, greedy: ["you are wrong."])
    found = next(engine.rewrite(["Hello. you are an 1d10t."]))
    assert [r.prompt for r in engine.detoxifier.requests] == ["you are an idiot."]  # type: ignore[attr-defined]
    assert found.text == "Hello. you are wrong."
    masked = one("Hello. 2 1d10ts.", lambda p, greedy: [], on_unresolved="mask")
    assert masked.text == f"Hello. {MASK}"


def test_template_text_never_gets_into_an_answer() -> None:
    answers = lambda p, greedy: ["hello <|rewrite|>"] if greedy else ["hello <|im_end|>", "hello"]  # noqa: E731
    assert one("hello idiot", answers).text == "hello"


@pytest.mark.parametrize(("policy", "text"), [("null", None), ("keep", "idiotic!"), ("mask", MASK)])
def test_policies_for_the_unresolved(policy: str, text: str | None) -> None:
    found = one("idiotic!", lambda p, greedy: ["idiotic"], on_unresolved=policy)
    assert (found.status, found.text) == ("unresolved", text)


def test_identical_comments_are_rewritten_once() -> None:
    engine = rewriter(lambda prompt, greedy: ["you are wrong"])
    found = list(engine.rewrite(["you idiot"] * 50))
    assert len(engine.detoxifier.requests) == 1  # type: ignore[attr-defined]
    assert {r.text for r in found} == {"you are wrong"}


@pytest.mark.parametrize(("asked", "drawn"), [(None, 4), (9, 9)])
def test_samples_are_the_bundles_or_as_many_as_asked_for(asked: int | None, drawn: int) -> None:
    engine = rewriter(lambda prompt, greedy: ["still stupid"], samples=asked)
    list(engine.rewrite(["you idiot"]))
    assert [r.samples for r in engine.detoxifier.requests] == [1, drawn, drawn]  # type: ignore[attr-defined]
    assert engine.settings()["samples"] == drawn


def test_spans_are_remembered_where_asked() -> None:
    """Each attempt has its own answers, the oldest go first, and the outcome stays the same."""
    calls = (["see an idiot"], ["so stupid. see an idiot"], ["see an idiot. so stupid"])

    def answer(prompt: str, greedy: bool) -> list[str]:
        return [prompt] if greedy else ["see a fool" if "idiot" in prompt else "so bad"]

    plain, keeping = rewriter(answer), rewriter(answer)
    keeping.remember = 3
    found = [[list(engine.rewrite(texts)) for texts in calls] for engine in (plain, keeping)]
    assert found[0] == found[1]
    assert {done[0].engine for done in found[1]} == {"sample"}
    asked = [(r.prompt[:2], r.seed) for r in keeping.detoxifier.requests]  # type: ignore[attr-defined]
    assert asked[:4] == [("se", 0), ("se", 1), ("so", 0), ("so", 1)]
    assert 4 < len(asked) < len(plain.detoxifier.requests)  # type: ignore[attr-defined]


def test_rewriting_is_lazy() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "fine"

    assert next(rewriter(lambda p, greedy: []).rewrite(endless())).status == "clean"


@pytest.mark.parametrize(
    "options", [{"max_attempts": 0}, {"on_unresolved": "drop"}, {"samples": 0}, {"samples": 257}]
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_attempts|on_unresolved|samples"):
        rewriter(lambda p, greedy: [], **options)
