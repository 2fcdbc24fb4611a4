"""The options of a run that is spread over a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._shared import F

if TYPE_CHECKING:
    from sro_edge.columns import RewritingEngine
    from sro_edge.dataset import Spread
    from sro_edge.stores import Place


def ray_options(command: F) -> F:
    """Whether Ray is to be used, and how much of it."""
    for option in reversed(
        [
            click.option(
                "--ray",
                is_flag=False,
                flag_value="local",
                metavar="[ADDRESS]",
                help="Spread the files of a folder over a Ray cluster (extra: ray), by default one "
                "of this machine's cores. Put it last or write --ray=ADDRESS.",
            ),
            click.option(
                "--ray-actors",
                type=click.IntRange(min=1),
                metavar="N",
                help="Bundles loaded at most [default: one for each core, or --threads of them].",
            ),
            click.option(
                "--ray-gpus",
                type=click.FloatRange(min=0),
                default=0,
                metavar="FLOAT",
                help="GPUs of each actor, such as 0.25 [default: none].",
            ),
        ]
    ):
        command = option(command)
    return command


@contextmanager
def engines(
    source: Place,
    bundle: Path | None,
    *,
    ray: str | None,
    ray_actors: int | None,
    ray_gpus: float,
    threads: int | None,
    **asked: Any,
) -> Iterator[tuple[RewritingEngine, Spread | None]]:
    """The rewriter of a run and, with Ray, what spreads its files.

    Raises:
        click.UsageError: these options do not go together, or not with ``source``.
    """
    from sro_edge.places import is_folder
    from sro_edge.worker import remote_rewriter

    if ray is None:
        if ray_actors or ray_gpus:
            raise click.UsageError("--ray-actors and --ray-gpus go with --ray.")
        with remote_rewriter(bundle, threads=threads, **asked) as rewriter:
            yield rewriter, None
        return
    if not is_folder(source):
        raise click.UsageError(f"--ray spreads the files of a folder, and {source} is none.")
    from sro_edge.cluster import Cluster, cluster_rewriter

    cluster = Cluster(ray, ray_actors, threads or 1, ray_gpus)
    with cluster_rewriter(cluster, bundle, **asked) as (elsewhere, spread):
        yield elsewhere, spread
