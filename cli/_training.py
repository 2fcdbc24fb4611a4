"""What the training commands share: options made from config dataclasses, recipes, progress."""

from __future__ import annotations

import dataclasses
import json
import time
import tomllib
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sro_edge.cli._progress import LINE_SECONDS, stderr
from sro_edge.errors import MissingExtraError, OutputError

if TYPE_CHECKING:
    from sro_edge.evaluation.fluency import FluencyJudge

F = TypeVar("F", bound=Callable[..., Any])
READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
PILE = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(path_type=Path)


def config_options(kind: type[Any], skip: tuple[str, ...] = ()) -> Callable[[F], F]:
    """One option for each field of a config dataclass; its metadata's ``help`` is the help text."""
    hints = typing.get_type_hints(kind)

    def decorate(command: F) -> F:
        for item in reversed(dataclasses.fields(kind)):
            if item.name in skip:
                continue
            flag = item.name.replace("_", "-")
            hint = hints[item.name]
            if isinstance(hint, types.UnionType):  # bool | None: unset means "decide by the model"
                hint = next(t for t in typing.get_args(hint) if t is not type(None))
            off = item.metadata.get("off", f"no-{flag}")
            names = f"--{flag}/--{off}" if hint is bool else f"--{flag}"
            command = click.option(
                names,
                item.name,
                type=hint,
                default=item.default,
                show_default=item.default is not None,
                help=item.metadata["help"][:1].upper() + item.metadata["help"][1:] + ".",
            )(command)
        return command

    return decorate


def build_config(kind: type[Any], values: dict[str, Any]) -> Any:
    """The config dataclass from a command's options; a bad value is a usage error."""
    names = {item.name for item in dataclasses.fields(kind)}
    try:
        return kind(**{k: v for k, v in values.items() if k in names})
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _read_recipe(context: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    if value is None or context.resilient_parsing:
        return value
    try:
        sections = tomllib.loads(value.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"{value} is not valid TOML: {error}") from error
    section = sections.get(context.info_name or "", {})
    known = {p.name for p in context.command.params}
    unknown = [k for k in section if k not in known]
    if unknown:
        raise click.BadParameter(
            f"{value}: [{context.info_name}] has unknown settings: {', '.join(unknown)}"
        )
    context.default_map = {**(context.default_map or {}), **section}
    return value


def folds_option(text: str) -> Callable[[F], F]:
    """``--folds``: the share of the texts, by their hash, that is used."""
    return click.option(
        "--folds",
        nargs=2,
        type=click.FloatRange(0, 1),
        default=(0.0, 1.0),
        show_default=True,
        help=text,
    )


def run_options(command: F) -> F:
    """``--recipe``, ``--out`` and ``--resume``."""
    command = click.option(
        "--resume", is_flag=True, help="Go on from the last checkpoint of this run folder."
    )(command)
    command = click.option("--out", "-o", type=FOLDER, help="Run folder [default: under runs/].")(
        command
    )
    return click.option(
        "--recipe",
        type=READABLE,
        is_eager=True,
        callback=_read_recipe,
        expose_value=False,
        help="TOML file whose section named after this command sets the defaults.",
    )(command)


def run_folder(out: Path | None, kind: str, resume: bool) -> Path:
    """The folder to train in; one that already has a run needs ``--resume``."""
    if resume and out is None:
        raise click.UsageError("--resume needs --out, the run folder to go on with")
    folder = out or Path("runs") / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"the run folder {folder} is a file: give another --out")
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise OutputError(
            f"the run folder {folder} is not empty: give --resume to go on with it, or "
            "another --out"
        )
    return folder


def needs(command: str, extra: str, *modules: str) -> None:
    """Check that the packages of an extra are there, and keep transformers quiet.

    Raises:
        MissingExtraError: names the first that is not.
    """
    import importlib.util

    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"`sro-edge {command}`", extra, module)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_fluency_judge(run: Path | None) -> FluencyJudge | None:
    """The fluency judge in a run of `sro-edge train-judges`; None where no run is named.

    Raises:
        ModelError: the run has none.
    """
    from sro_edge.errors import ModelError
    from sro_edge.evaluation.fluency import FluencyJudge
    from sro_edge.training.runs import fluency_folder

    if run is None:
        return None
    folder = fluency_folder(run)
    if folder is None:
        raise ModelError(f"{run} has no fluency judge: give a run of `sro-edge train-judges`")
    return FluencyJudge.load(folder)


def record_data(
    run: Path, files: dict[str, tuple[Path, ...]], folds: tuple[float, float] = (0.0, 1.0)
) -> None:
    """Add to ``run.json`` which files the run learned from, by role: the model card names them.

    Of a path, the file and its folder are kept: enough to know the file, nothing of the machine.

    Args:
        run: the run folder.
        files: role -> files; roles without one are left out.
        folds: shares of the hash between which texts were taken, where not all were.
    """
    from sro_edge.durable import write_json

    record = json.loads((run / "run.json").read_text("utf-8"))
    record["data"] = {
        role: ["/".join(p.parts[-2:]) for p in paths] for role, paths in files.items() if paths
    }
    if folds != (0.0, 1.0):
        record["folds"] = list(folds)
    write_json(run / "run.json", record)


@contextmanager
def training_progress(
    total: int, key: str, shown: dict[str, str], *, quiet: bool = False
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere.

    Args:
        total: units of ``metrics[key]`` until the end.
        key: the metric that counts them.
        shown: metric -> how it is written, a format with one place; for 80 columns in all.
        quiet: show nothing; of several processes, one speaks.
    """
    try:
        with _shown(total, key, shown, quiet) as update:
            yield update
    except KeyboardInterrupt:
        click.echo("Interrupted. Go on from the last checkpoint with --out and --resume.", err=True)
        raise


@contextmanager
def _shown(
    total: int, key: str, shown: dict[str, str], quiet: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    console = stderr()
    if quiet:
        yield lambda metrics: None
        return
    if not console.is_terminal:
        yield _Lines(total, key, shown)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        BarColumn(8),
        TextColumn("{task.description}", table_column=one_line),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=total)

        def update(metrics: dict[str, Any]) -> None:
            line = progress_line(metrics, total, key, shown)
            progress.update(task, completed=metrics[key], description=line)

        yield update


class _Lines:
    """Where there is no terminal: a line now and then, and the last one."""

    def __init__(self, total: int, key: str, shown: dict[str, str]) -> None:
        self.total, self.key, self.shown = total, key, shown
        self.said = time.monotonic()

    def __call__(self, metrics: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self.said >= LINE_SECONDS or metrics[self.key] >= self.total:
            click.echo(progress_line(metrics, self.total, self.key, self.shown), err=True)
            self.said = now


def progress_line(metrics: dict[str, Any], total: int, key: str, shown: dict[str, str]) -> str:
    """How far a training is and how it goes, for a terminal of 80 columns."""
    figures = [form.format(metrics[name]) for name, form in shown.items() if name in metrics]
    return "  ".join([f"{metrics[key]:,}/{total:,}", *figures])
