"""A bundle of models that come from elsewhere: a GGUF, and a screener folder of ours or optimum's.

Nothing was trained here, so nothing can be proven against it; instead both models are opened as
their user would, and asked once, before the bundle appears. Needs neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sro_edge.bundle import Bundle, Sampling, Thresholds, read_lexicon
from sro_edge.errors import BundleError, ModelError
from sro_edge.export.card import assembled_card
from sro_edge.folders import check_room, new_folder
from sro_edge.headers import check_onnx, read_gguf
from sro_edge.manifest import DETOXIFIER, LEXICON, MILD, is_bundle, write_manifest
from sro_edge.mild_words import read_mild
from sro_edge.prompt import INSTRUCTION, PromptTemplate

_COMMENT = "\ufffcCOMMENT\ufffc"
_TRIED = "this is a stupid idea"
_MOST_TOKENS = 512  # of one window, where the screener allows more
_TOXIC = "toxic"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class BuildConfig:
    """What the two models do not say themselves.

    Args:
        thresholds: what a rewrite must reach.
        prompt: how a comment becomes a prompt; None for the GGUF's chat template.
        toxic_label: the screener's toxic label, where it is an unusual one.
        lexicon: JSON file of toxic words with their log-odds, for the last resort; or None.
        mild: table of toxic phrases with milder ones (:mod:`sro_edge.mild_words`); or None.
        name: the bundle's name; None for that of its folder.
        version: the bundle's version.
        license: SPDX identifier; None for what the GGUF says.
        notes: Markdown for the end of the model card.
    """

    thresholds: Thresholds
    prompt: PromptTemplate | None = None
    toxic_label: str | None = None
    lexicon: Path | None = None
    mild: Path | None = None
    name: str | None = None
    version: str = "0.1.0"
    license: str | None = None
    notes: str = ""


def build_bundle(
    gguf: Path, screener: Path, out: Path, config: BuildConfig, *, overwrite: bool = False
) -> Bundle:
    """Assemble a bundle and try it.

    Args:
        gguf: the rewriter.
        screener: folder with ``model.onnx``, ``config.json`` and ``tokenizer.json``.
        out: the folder to make.
        config: all that the models do not say.
        overwrite: replace an earlier bundle.

    Raises:
        BundleError: a file is missing or unusable.
        InputError: the table of milder words is none.
        ModelError: a model cannot be used, or there is no prompt to ask it with.
        OutputError: ``out`` exists or cannot be written.
    """
    metadata = read_gguf(gguf)
    weights = check_onnx(screener / "model.onnx")
    prompt = config.prompt or template_of(metadata, gguf)
    names = ["model.onnx", *weights]
    names += [name for name in _TOKENIZER_FILES if (screener / name).is_file()]
    check_room(out, sum(f.stat().st_size for f in [gguf, *(screener / name for name in names)]))
    lexicon = read_lexicon(config.lexicon) if config.lexicon is not None else {}
    if config.mild is not None:
        read_mild(config.mild)
    with new_folder(out, overwrite=overwrite, is_ours=is_bundle) as (folder, _):
        shutil.copyfile(gguf, folder / DETOXIFIER)
        (folder / "screener").mkdir()
        for name in names:
            (folder / "screener" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(screener / name, folder / "screener" / name)
        _write_json(folder / "screener" / "config.json", screener_config(screener, config))
        if lexicon:
            _write_json(folder / LEXICON, lexicon)
        if config.mild is not None:
            shutil.copyfile(config.mild, folder / MILD)
        _describe(folder, out.absolute().name, prompt, metadata, config)
        _try(Bundle.load(folder))
    return Bundle.load(out)


def template_of(metadata: dict[str, Any], gguf: Path) -> PromptTemplate:
    """The prompt template that the chat template in a GGUF gives.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    source = metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        raise ModelError(
            f"{gguf} has no chat template, so there is no way to ask it for a rewrite; say with "
            "--prompt what stands before and after a comment"
        )
    try:
        prefix, found, suffix = _render(source, metadata).partition(_COMMENT)
    except Exception as error:  # a template is a program of its author's: it may raise anything
        raise ModelError(f"the chat template of {gguf} cannot be used: {error}") from error
    if not found or not suffix:
        raise ModelError(
            f"the chat template of {gguf} leaves the user's text out or puts nothing behind it; "
            "say with --prompt what stands before and after a comment"
        )
    return PromptTemplate(prefix=prefix, suffix=suffix)


def _render(source: str, metadata: dict[str, Any]) -> str:
    """One user turn, in the sandbox that llama-cpp-python and transformers use as well."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    tokens = metadata.get("tokenizer.ggml.tokens", [])

    def token(kind: str) -> str:
        number = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        known = isinstance(number, int) and 0 <= number < len(tokens)
        return str(tokens[number]) if known else ""

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source).render(
        messages=[{"role": "user", "content": INSTRUCTION + _COMMENT}],
        add_generation_prompt=True,
        enable_thinking=False,
        bos_token=token("bos"),
        eos_token=token("eos"),
    )


def read_prompt(file: Path) -> PromptTemplate:
    """A template from a JSON file with prefix and suffix, and lowercase and lead where needed.

    Raises:
        BundleError: it is no such file.
    """
    try:
        return PromptTemplate.from_dict(_read_object(file))
    except (TypeError, ValueError) as error:
        raise BundleError(f"{file} is no prompt template: {error}") from error


def screener_config(screener: Path, config: BuildConfig) -> dict[str, Any]:
    """``config.json`` of a screener folder, with what optimum's does not say.

    Raises:
        BundleError: it is no JSON object, or does not say which token fills a batch.
        ModelError: it has no label of the name given.
    """
    found = _read_object(screener / "config.json")
    tokenizer = screener / "tokenizer_config.json"
    limits = [found.get("max_position_embeddings"), _MOST_TOKENS]
    if tokenizer.is_file():
        limits.append(_read_object(tokenizer).get("model_max_length"))
    pad = found.get("pad_token_id")
    if type(pad) is not int:
        raise BundleError(f"{screener / 'config.json'} must have a pad_token_id, a whole number")
    if "max_tokens" not in found:
        longest = min(int(limit) for limit in limits if isinstance(limit, int | float))
        # RoBERTa and its kin count positions from the padding token on.
        found["max_tokens"] = longest - (pad + 1 if found.get("model_type") in _ROBERTAS else 0)
    if config.toxic_label is not None:
        labels = dict(found.get("id2label") or {})
        fitting = [n for n, x in labels.items() if str(x).lower() == config.toxic_label.lower()]
        if len(fitting) != 1:
            raise ModelError(
                f"the screener has no label {config.toxic_label!r}; it has "
                f"{', '.join(map(str, labels.values())) or 'none'}"
            )
        others = {n: "other " + str(x) for n, x in labels.items() if str(x).lower() == _TOXIC}
        found["id2label"] = {**labels, **others, fitting[0]: _TOXIC}
    return found


_ROBERTAS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"})


def _describe(
    folder: Path, name: str, prompt: PromptTemplate, metadata: dict[str, Any], config: BuildConfig
) -> None:
    """Write ``README.md`` and ``bundle.json``."""
    said = metadata.get("general.license")
    license_id = config.license or (said if isinstance(said, str) and said else "unknown")
    origin = {
        key.removeprefix("general."): value
        for key, value in sorted(metadata.items())
        if key.startswith("general.") and isinstance(value, str | int | float)
    }
    fields: dict[str, Any] = {
        "name": config.name or name,
        "version": config.version,
        "license": license_id,
        "prompt": prompt.to_dict(),
        "thresholds": config.thresholds.given(),
        "sampling": dataclasses.asdict(Sampling()),
        "training": {"policy": {"gguf": origin}, "assembled": True},
        "scores": {},
    }
    card = assembled_card(
        name=fields["name"],
        version=config.version,
        license=license_id,
        origin=origin,
        thresholds=fields["thresholds"],
        notes=config.notes,
        mild=config.mild is not None,
    )
    (folder / "README.md").write_text(card, "utf-8")
    write_manifest(folder, fields)


def _try(bundle: Bundle) -> None:
    """Open both models and ask each once."""
    from sro_edge.detoxifier import Detoxifier, Request
    from sro_edge.screener import Screener

    Screener(bundle.screener, threads=1, device="cpu").score([_TRIED])
    with Detoxifier.of(bundle, threads=1, device="cpu", slots=1) as engine:
        ((_, answers),) = engine.generate([Request(0, _TRIED, max_new_tokens=8)])
    if not answers:
        raise ModelError(
            "the prompt is too long for the rewriter: shorten with --prompt what stands before and "
            "after a comment"
        )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{file} must hold a JSON object")
    return data


def _write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
