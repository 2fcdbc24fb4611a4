"""The model card of a bundle: what it is, how it was made, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sro_edge.export.card_sections import (
    abstain_section,
    data_section,
    first_stage_section,
    rewriter_section,
    screener_section,
    settings,
    table,
    weakest_sources,
)

_HEAD = """\
---
license: {license_id}
tags:
  - text-detoxification
  - text-style-transfer
  - gguf
  - onnx
---

# {name} {version}

A bundle for sro-edge: it rewords toxic comments offline.

    sro-edge rewrite comments.parquet --bundle {name}

"""
_TRAINED = """\
| file | what it is |
|---|---|
| `detoxifier.gguf` | the rewriter, stored as {gguf_type}, for llama.cpp |
{others}| `screener/model.onnx` | the screener ({outputs}), stored as {weights}, for ONNX Runtime |
{first}{abstains}| `lexicon.json` | toxic words, for the word-deleting last resort; may be missing |
{mild}| `bundle.json` | prompt, thresholds, sampling, and size and sha256 of every file |
| `proof.json` | how far the files are from the trained models |

A comment passes up to a toxicity of {toxicity:.4g}; its rewrite must also keep a similarity of
{similarity:.4g} to it, and may lose {fluency_drop:.4g} of its fluency.

## The rewriter

{policy}
## The screener

{screener}{first_stage}{abstain_section}
## Data

{data}
## Proof of the export

Measured on the exporting machine before the bundle was written; an export that misses a bound
writes nothing, unless whoever ran it accepted that: such a figure is marked.

{proof}
"""
_FIRST = """\
| `screener/first_stage.onnx` | the first stage, which clears clean comments before the screener |
"""
_ABSTAINS = """\
| `screener/abstain.onnx` | what gives comments up that no rewording can mend |
"""
_MILD = """\
| `mild_words.tsv` | toxic phrases with milder ones, written by hand, to put in their place |
"""
_MILD_TOO = """
Beside the rewriter, `mild_words.tsv` says what may stand in the place of toxic words and phrases.
"""
_ASSEMBLED = """\
It was assembled of two models that were trained elsewhere. They were opened and asked once; how
good they are together was not measured, and that the files are what was trained is not proven.

## The rewriter

`detoxifier.gguf` says of itself:

{origin}{mild}
## The screener

`screener/`. Its thresholds fit no measurement: choose them on comments of your own.

{thresholds}
"""
_TAIL = """\
## Licence

The weights: {license}. The texts that they were trained on are not part of the bundle and keep
their own terms.

## Intended use and limits

- It rewords single comments so that a screener no longer finds them toxic. It does not judge people
  and must not be the only ground for a decision about one.
- A rewrite may change or lose meaning. `sro-edge rewrite` checks each one with the screener and
  keeps the original beside it; look at samples before you rely on them.
- Screener and rewriter carry the biases of their training texts, such as marking dialects or
  names of groups as toxic. Languages they were not trained on are outside their use.
{weakest}- Rewriting is not anonymisation, and a rewritten dump is not safe for work by guarantee.
{notes}{settings}"""
_SETTINGS = """
<details><summary>All settings and figures of the {model}'s run</summary>

{rows}
</details>
"""


def model_card(
    *,
    name: str,
    version: str,
    license: str,
    gguf_types: Sequence[str],
    outputs: list[str],
    weights: str,
    thresholds: dict[str, float],
    policy: dict[str, Any],
    screener: dict[str, Any],
    proof: dict[str, Any],
    notes: str = "",
    first_stage: dict[str, Any] | None = None,
    abstain: dict[str, Any] | None = None,
    mild: bool = False,
) -> str:
    """Markdown text of ``README.md``.

    Args:
        name: the bundle's name.
        version: the bundle's version.
        license: SPDX identifier.
        gguf_types: how the rewriter's weights are stored, in ``detoxifier.gguf`` first.
        outputs: what the screener returns.
        weights: how the screener's weights are stored.
        thresholds: what a rewrite must reach.
        policy: the policy's ``run.json``.
        screener: the screener's ``run.json``.
        proof: content of ``proof.json``.
        notes: Markdown put at the end.
        first_stage: ``run.json`` of the first stage; None where there is none.
        abstain: ``run.json`` of what abstains, likewise.
        mild: whether there is a table of milder words.
    """
    others = "".join(
        f"| `detoxifier-{kind}.gguf` | the rewriter once more, stored as {kind} |\n"
        for kind in gguf_types[1:]
    )
    figures = [[row["meaning"], row["value"], bound_text(row)] for row in proof.values()]
    records = {"rewriter": policy, "screener": screener}
    extras = {"first stage": first_stage, "abstaining": abstain}
    middle = _TRAINED.format(
        gguf_type=gguf_types[0],
        others=others,
        outputs=", ".join(outputs),
        weights=weights,
        policy=rewriter_section(policy),
        screener=screener_section(screener),
        first=_FIRST if first_stage else "",
        first_stage=first_stage_section(first_stage) if first_stage else "",
        abstains=_ABSTAINS if abstain else "",
        mild=_MILD if mild else "",
        abstain_section=abstain_section(abstain) if abstain else "",
        data=data_section(records | {name: r for name, r in extras.items() if r}),
        proof=table(["figure", "value", "bound"], figures).rstrip(),
        **thresholds,
    )
    details = [
        _SETTINGS.format(model=model, rows=settings(record))
        for model, record in records.items()
        if record
    ]
    found = weakest_sources(screener)
    weakest = f"- The screener errs most on comments of {', '.join(found)}.\n" if found else ""
    return _card(name, version, license, middle, notes, weakest, "".join(details))


def assembled_card(
    *,
    name: str,
    version: str,
    license: str,
    origin: dict[str, Any],
    thresholds: dict[str, Any],
    notes: str = "",
    mild: bool = False,
) -> str:
    """Markdown text of ``README.md`` for a bundle of models from elsewhere.

    Args:
        name: the bundle's name.
        version: the bundle's version.
        license: SPDX identifier.
        origin: the general metadata of the GGUF.
        thresholds: what a rewrite must reach.
        notes: Markdown put at the end.
        mild: whether there is a table of milder words.
    """
    middle = _ASSEMBLED.format(
        origin=settings(origin), thresholds=settings(thresholds), mild=_MILD_TOO if mild else ""
    )
    return _card(name, version, license, middle, notes)


def bound_text(row: dict[str, Any]) -> str:
    """The bound of one figure of ``proof.json``: ``<= 0.1``, or a dash; a missed one says so."""
    missed = " (missed, accepted)" if row.get("accepted") else ""
    if "at_most" in row:
        return f"<= {row['at_most']:.3g}{missed}"
    return f">= {row['at_least']:.3g}{missed}" if "at_least" in row else "-"


def _card(
    name: str,
    version: str,
    license: str,
    middle: str,
    notes: str,
    weakest: str = "",
    details: str = "",
) -> str:
    head = _HEAD.format(name=name, version=version, license_id=license.lower())
    tail = _TAIL.format(
        license=license,
        weakest=weakest,
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
        settings=details,
    )
    return f"{head}{middle}\n{tail}"
