"""The model card of a bundle: what it is, how it was made, what was measured."""

from __future__ import annotations

from typing import Any

_TEXT = """\
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

| file | what it is |
|---|---|
| `detoxifier.gguf` | the rewriter, stored as {gguf_type}, for llama.cpp |
| `screener/model.onnx` | the screener ({outputs}), weights stored as {weights}, for ONNX Runtime |
| `lexicon.json` | toxic words, for the word-deleting last resort; may be missing |
| `bundle.json` | prompt, thresholds, sampling, and the sha256 of every file |
| `proof.json` | how far the files are from the trained models |

## How the rewriter was made

{policy}
## How the screener was made

{screener}
## Proof of the export

Measured on the exporting machine before the bundle was written; an export that misses a bound
writes nothing.

| figure | value | bound |
|---|---|---|
{proof}

## Intended use and limits

- It rewords single comments so that a screener no longer finds them toxic. It does not judge people
  and must not be the only ground for a decision about one.
- A rewrite may change or lose meaning. `sro-edge rewrite` checks each one with the screener and
  keeps the original beside it; look at samples before you rely on them.
- Screener and rewriter carry the biases of their training texts, such as marking dialects or
  names of groups as toxic. Languages they were not trained on are outside their use.
- Rewriting is not anonymisation, and a rewritten dump is not safe for work by guarantee.
{notes}"""


def model_card(
    *,
    name: str,
    version: str,
    license: str,
    gguf_type: str,
    outputs: list[str],
    weights: str,
    policy: dict[str, Any],
    screener: dict[str, Any],
    proof: dict[str, Any],
    notes: str = "",
) -> str:
    """Markdown text of ``README.md``.

    Args:
        name: the bundle's name.
        version: the bundle's version.
        license: SPDX identifier.
        gguf_type: how the rewriter's weights are stored.
        outputs: what the screener returns.
        weights: how the screener's weights are stored.
        policy: the policy's ``run.json``.
        screener: the screener's ``run.json``.
        proof: content of ``proof.json``.
        notes: Markdown put at the end.
    """
    return _TEXT.format(
        name=name,
        version=version,
        license_id=license.lower(),
        gguf_type=gguf_type,
        outputs=", ".join(outputs),
        weights=weights,
        policy=_record(policy),
        screener=_record(screener),
        proof="\n".join(
            f"| {row['meaning']} | {row['value']:.4g} | {bound_text(row)} |"
            for row in proof.values()
        ),
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
    )


def bound_text(row: dict[str, Any]) -> str:
    """The bound of one figure of ``proof.json``: ``<= 0.1``, or a dash."""
    if "at_most" in row:
        return f"<= {row['at_most']:g}"
    return f">= {row['at_least']:g}" if "at_least" in row else "-"


def _record(record: dict[str, Any]) -> str:
    """A table of all figures and settings of a ``run.json``."""
    if not record:
        return "Not recorded: it was exported from a plain model folder.\n"
    rows = "\n".join(f"| {key} | {value} |" for key, value in _flat(record, ""))
    return f"| setting or figure | value |\n|---|---|\n{rows}\n"


def _flat(record: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} / ")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append((prefix + key, shown.replace("|", "\\|").replace("\n", " ")))
    return rows


_ASSEMBLED = """\
---
license: {license_id}
tags:
  - text-detoxification
  - gguf
  - onnx
---

# {name} {version}

A bundle for sro-edge: it rewords toxic comments offline.

    sro-edge rewrite comments.parquet --bundle {name}

It was assembled of two models that were trained elsewhere. They were opened and asked once; how
good they are together was not measured, and that the files are what was trained is not proven.

## The rewriter

`detoxifier.gguf` says of itself:

{origin}
## The screener

`screener/`; what it may not pass was set by whoever assembled the bundle:

{thresholds}
## Licence

{license}, as given when the bundle was assembled. The models' own licences hold.

## Limits

- A rewrite may change or lose meaning, most of all where the screener has no embedding. Judge a
  sample before you rely on it (`sro-edge report`, `sro-edge evaluate`).
- The thresholds fit no measurement: choose them on comments of your own.
{notes}"""


def assembled_card(
    *,
    name: str,
    version: str,
    license: str,
    origin: dict[str, Any],
    thresholds: dict[str, Any],
    notes: str = "",
) -> str:
    """Markdown text of ``README.md`` for a bundle of models from elsewhere.

    Args:
        name: the bundle's name.
        version: the bundle's version.
        license: SPDX identifier.
        origin: the general metadata of the GGUF.
        thresholds: what a rewrite must reach.
        notes: Markdown put at the end.
    """
    return _ASSEMBLED.format(
        name=name,
        version=version,
        license=license,
        license_id=license.lower(),
        origin=_record(origin),
        thresholds=_record(thresholds),
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
    )
