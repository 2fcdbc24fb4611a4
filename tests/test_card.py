"""The model card tells the run's own story: data, figures, weak spots, licence."""

from __future__ import annotations

from typing import Any

from sro_edge.export.card import assembled_card, bound_text, model_card
from sro_edge.export.card_sections import settings

POLICY: dict[str, Any] = {
    "kind": "sro",
    "base": "runs/warm-start/model",
    "lora": True,
    "before": {"eval/toxicity": 0.4, "judge/pass_rate": 0.25, "judge/J": 0.375},
    "kept": {"eval/toxicity": 0.125, "judge/pass_rate": 0.5, "judge/J": 0.625},
    "data": {"toxic": ["rude.parquet"]},
    "base_run": {"data": {"plain": ["posts.parquet"]}},
    "averaged": [{"data": {"pairs": ["pairs.parquet"]}}],
}
SCREENER: dict[str, Any] = {
    "config": {"base": "minilm"},
    "data": {"train": "labelled.parquet"},
    "metrics": {
        "dev": {
            "all": {"rows": 30, "accuracy": 0.9, "f1": 0.875},
            "forum": {"rows": 20, "accuracy": 0.95},
            "chat|room": {"rows": 10, "accuracy": 0.5},
        },
        "fluency": {"accuracy": 0.75},
    },
}
THRESHOLDS = {"toxicity": 0.377, "similarity": 0.6, "fluency_drop": 0.2}


def card(**changes: Any) -> str:
    given: dict[str, Any] = {
        "name": "mine",
        "version": "1",
        "license": "MIT",
        "gguf_types": ["q8_0", "q4_0"],
        "outputs": ["toxicity"],
        "weights": "int8",
        "thresholds": THRESHOLDS,
        "policy": POLICY,
        "screener": SCREENER,
        "proof": {"a.b": {"meaning": "the gap", "value": 0.5, "at_most": 0.25, "accepted": True}},
        "notes": "Made for tests.",
    }
    return model_card(**{**given, **changes})


def test_card_says_how_the_models_were_made_and_how_they_score() -> None:
    text = card()
    for part in (
        "license: mit",
        "`detoxifier.gguf` | the rewriter, stored as q8_0",
        "`detoxifier-q4_0.gguf`",
        "toxicity of 0.377",
        "from runs/warm-start/model, as a LoRA adapter that was merged.",
        "| toxicity, by the training screener | 0.4 | 0.125 |",
        "| share of answers that pass all gates, by an independent judge | 0.25 | 0.5 |",
        "| J: mean of STA × SIM × FL, by an independent judge | 0.375 | 0.625 |",
        "Fine-tuned from minilm on labelled comments.",
        "| all | 30 |  | 0.9 | 0.875 |  |  |",
        "| chat\\|room | 10 |",
        "| rewriter | toxic | rude.parquet |",
        "| rewriter's base | plain | posts.parquet |",
        "| averaged with the rewriter | pairs | pairs.parquet |",
        "| screener | train | labelled.parquet |",
        "errs most on comments of chat|room (accuracy 0.50), forum (accuracy 0.95).",
        "| the gap | 0.5 | <= 0.25 (missed, accepted) |",
        "The weights: MIT.",
        "Made for tests.",
        "| metrics / dev / forum / rows | 20 |",
    ):
        assert part in text, part


def test_card_of_plain_folders_says_what_is_not_known() -> None:
    text = card(policy={}, screener={}, proof={})
    assert text.count("Not recorded: it was exported from a plain model folder.") == 2
    assert "errs most" not in text
    assert "<details>" not in text


def test_card_of_an_assembled_bundle_claims_no_proof() -> None:
    text = assembled_card(
        name="mine", version="1", license="MIT", origin={"name": "x"}, thresholds=THRESHOLDS
    )
    assert "is not proven" in text
    assert "| name | x |" in text
    assert "Proof of the export" not in text


def test_lists_of_records_are_left_to_the_manifest() -> None:
    shown = settings({"steps": 3, "pairs": {"rounds": [{"samples": 8}, {"samples": 6}]}})
    assert "| steps | 3 |" in shown
    assert "| pairs / rounds | list of 2, in `bundle.json` |" in shown


def test_bounds_read_as_people_write_them() -> None:
    assert bound_text({"value": 1}) == "-"
    assert bound_text({"value": 1, "at_least": 0.99}) == ">= 0.99"
