"""The files of a folder spread over a Ray cluster: Ray Data hands them to actors, one bundle each.

A file is worked on as by a single process (:func:`sro_edge.dataset.annotate_file`), so the tree
that comes out is the same. An actor that dies is started again by Ray and its file given anew; what
it had finished of it is taken up where the same disk can be seen. Statistics of Ray's use are
switched off before it is loaded.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sro_edge.columns import Rewriting
from sro_edge.dataset import FileDone, FileJob, Spread, annotate_file
from sro_edge.errors import EngineError, InputError, MissingExtraError, SroEdgeError
from sro_edge.hub import PREFIX
from sro_edge.machine import physical_cores
from sro_edge.run import Hooks, Options
from sro_edge.stores import Address
from sro_edge.worker import rebuilt, remote_rewriter

if TYPE_CHECKING:
    from sro_edge.job import Rewrite

LOCAL = "local"
_TICK_SECONDS = 0.2
_OBJECT_STORE_BYTES = 100 << 20  # only names and counts travel through it


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how much of it.

    Attributes:
        address: of a cluster that runs, or ``local`` to start one on this machine's cores.
        actors: at most so many; default: as many as there are cores for, or files.
        cores: cores of an actor, and its threads.
        gpus: GPUs of an actor, which may be a fraction of one.
    """

    address: str = LOCAL
    actors: int | None = None
    cores: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class _Order:
    """What an actor needs to know, once."""

    bundle: Path | None
    asked: dict[str, Any]
    options: Options
    settings: dict[str, Any]  # of the engine, as the one who gives the jobs sees it


class Elsewhere:
    """Stands for the engines of the actors; here, only their settings are known."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """What every actor has to agree with."""
        self._settings = settings

    def settings(self) -> dict[str, Any]:
        """See :meth:`sro_edge.Rewriter.settings`."""
        return self._settings

    def rewrite(self, texts: Sequence[str | None]) -> list[Rewrite]:
        """Not here."""
        raise RuntimeError("the bundle is loaded in the actors, not here")


@contextmanager
def cluster_rewriter(
    cluster: Cluster, bundle: Path | None, **asked: Any
) -> Iterator[tuple[Elsewhere, Spread]]:
    """The ``rewriter`` and the ``spread`` of :func:`sro_edge.dump.rewrite_dump` for a cluster.

    Args:
        cluster: where.
        bundle: path or address of the bundle, which every node must be able to open.
        asked: arguments of :meth:`sro_edge.Rewriter.load`, but for ``threads``.

    Raises:
        SroEdgeError: the bundle cannot be loaded here.
        MissingExtraError: Ray is not installed.
        EngineError: the cluster cannot be reached or has no room for an actor.
    """
    ray = _load_ray()
    check_address(cluster.address)
    named = _everywhere(bundle)
    where = dict(asked, threads=cluster.cores)
    with remote_rewriter(named, **where) as loaded:
        settings = loaded.settings()
    _connect(ray, cluster)
    try:
        actors = _room(ray, cluster)

        def spread(
            jobs: Sequence[FileJob], options: Options, tick: Callable[[], None]
        ) -> Iterator[FileDone]:
            if not jobs:
                return
            order = _Order(named, where, options, settings)
            rows = _dataset(ray, jobs, order, replace(cluster, actors=min(actors, len(jobs))))
            for row in _ticking(rows, tick):
                answer = json.loads(row["answer"])
                if "error" in answer:
                    raise rebuilt(*answer["error"])
                done = answer["done"]
                pairs = tuple((before, after) for before, after in done.pop("examples"))
                yield FileDone(**done, examples=pairs)

        yield Elsewhere(settings), spread
    finally:
        ray.shutdown()


class FileActor:
    """What one actor does: it keeps a bundle loaded and makes one file after the other."""

    def __init__(self, order: _Order) -> None:
        """Start the process with the models; it loads while the first file is opened."""
        self.order, self._stack = order, ExitStack()
        self._rewriter = self._stack.enter_context(remote_rewriter(order.bundle, **order.asked))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's job done; what is wrong with it comes back as a sentence, to be raised."""
        troubles: list[str] = []
        try:
            annotator = Rewriting(self._rewriter)
            _check_same(annotator.settings, self.order.settings)
            job = job_from_json(row["job"])
            done = annotate_file(annotator, job, self.order.options, Hooks(trouble=troubles.append))
        except SroEdgeError as error:
            return {"answer": json.dumps({"error": [type(error).__name__, str(error)]})}
        return {"answer": json.dumps({"done": asdict(replace(done, troubles=troubles))})}


def job_to_json(job: FileJob) -> str:
    """A job as text; addresses keep their options."""
    places = {
        name: {"uri": place.uri} if isinstance(place, Address) else str(place.absolute())
        for name, place in (("source", job.source), ("target", job.target), ("note", job.note))
        if place is not None
    }
    plain = {"number": job.number, "limit": job.limit, "restart": job.restart}
    return json.dumps({**plain, "note": None, **places})


def job_from_json(text: str) -> FileJob:
    """The job again."""
    fields = json.loads(text)
    for name in ("source", "target", "note"):
        if fields[name] is not None:
            place = fields[name]
            fields[name] = Address(**place) if isinstance(place, dict) else Path(place)
    return FileJob(**fields)


def _everywhere(bundle: Path | None) -> Path | None:
    """A bundle's path as the actors, which work in other folders, can open it."""
    return bundle if bundle is None or str(bundle).startswith(PREFIX) else bundle.absolute()


def _load_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--ray", "ray", error.name or "ray") from error
    return ray


def check_address(address: str) -> None:
    """Try the port of ``host:port`` or ``ray://host:port``: Ray would try it for minutes.

    Raises:
        EngineError: nobody listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise EngineError(
            f"the Ray cluster {address} cannot be reached: {error}; check the address, and that "
            "`ray start --head` runs there"
        ) from error


def _connect(ray: Any, cluster: Cluster) -> None:
    """Join or start the cluster."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if cluster.address == LOCAL:
            ray.init(
                address="local",
                num_cpus=physical_cores(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=cluster.address, **quiet)
    except Exception as error:  # whatever Ray's parts raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise EngineError(
            f"the Ray cluster {cluster.address} cannot be used: {said}; check the address, and "
            "that it runs the same versions of Ray and Python"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _room(ray: Any, cluster: Cluster) -> int:
    """How many actors the cluster has cores and GPUs for."""
    has = ray.cluster_resources()
    room = int(has.get("CPU", 0) // cluster.cores)
    if cluster.gpus:
        whole = int(has.get("GPU", 0) // cluster.gpus)
        room = min(room, whole)
    if room < 1:
        raise EngineError(
            f"no actor of {cluster.cores} cores and {cluster.gpus:g} GPUs fits on this cluster, "
            f"which has {has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs; ask for less"
        )
    return min(room, cluster.actors or room)


def _dataset(ray: Any, jobs: Sequence[FileJob], order: _Order, cluster: Cluster) -> Iterator[Any]:
    """The answers, as they come."""
    items = [{"job": job_to_json(job)} for job in jobs]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        FileActor,
        fn_constructor_args=(order,),
        # One file at a time: those that wait may go to whichever actor is free first.
        compute=ray.data.ActorPoolStrategy(size=cluster.actors, max_tasks_in_flight_per_actor=1),
        num_cpus=cluster.cores,
        num_gpus=cluster.gpus or None,
    )
    rows: Iterator[Any] = dataset.iter_rows()
    return rows


def _ticking(rows: Iterator[Any], tick: Callable[[], None]) -> Iterator[Any]:
    """``rows``, taken by another thread so that ``tick`` is called while none comes."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    end = object()

    def take() -> None:
        try:
            for row in rows:
                found.put(row)
            found.put(end)
        except BaseException as error:
            found.put(error)

    threading.Thread(target=take, daemon=True).start()
    while True:
        try:
            row = found.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            tick()
            continue
        if row is end:
            return
        if isinstance(row, BaseException):
            said = (str(row).strip().splitlines() or [type(row).__name__])[-1][:300]
            raise EngineError(
                f"Ray gave up: {said}; finished files are kept, run the same command again to go on"
            ) from row
        yield row


def _check_same(here: dict[str, Any], there: dict[str, Any]) -> None:
    """Refuse to work with another bundle or other thresholds than the rest of the cluster."""
    from sro_edge.checkpoints import differences

    found = differences(json.loads(json.dumps(there)), json.loads(json.dumps(here)))
    if found:
        raise InputError(
            f"a node of the cluster has another bundle or version: {'; '.join(found[:3])}; give "
            "all nodes the same"
        )
