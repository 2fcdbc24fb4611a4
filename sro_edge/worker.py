"""The models in a process of their own, so that a crash in them costs some comments, not the run.

The parent reads and writes; the child answers. They speak JSON, one message a line, over pipes:

    to the child      {"role": "rewrite", "load": "module:function", "asked": {...}}, once
    from the child    {"ready": ...}, or {"error": [kind, sentence]} where nothing can be loaded
    to the child      ["comment", null, ...], again and again; it need not wait for the answers
    from the child    {"answer": ...}, or {"failed": sentence}, for each of these, in order

The child has a session of its own, so Ctrl-C reaches only the parent, and it ends when the parent
does, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sro_edge import errors
from sro_edge.errors import EngineError, SroEdgeError

if TYPE_CHECKING:
    from sro_edge.job import Rewrite
    from sro_edge.screener import Scores

# Role -> the callable that makes its engine.
LOADERS = {"rewrite": "sro_edge.rewriter:Rewriter.load", "screen": "sro_edge.worker:load_screener"}
_SPANS = 4_096  # answers that the rewriter keeps for spans that come again in another unit


class Worker:
    """A child process with an engine; one that died is started anew at the next call.

    Use as a context manager, or call :meth:`close`.
    """

    def __init__(self, role: str, **asked: Any) -> None:
        """Start the child; it loads while the caller goes on.

        Args:
            role: ``rewrite`` or ``screen``.
            asked: arguments of the role's loader, as JSON types.
        """
        self._order = {"role": role, "load": LOADERS[role], "asked": asked}
        self._ready: Any = None
        self._child: subprocess.Popen[bytes] | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the child, while there is one."""
        return None if self._child is None else self._child.pid

    def ready(self) -> Any:
        """What the engine says of itself, once it is loaded.

        Raises:
            SroEdgeError: what the loader raised.
            EngineError: the child died.
        """
        if self._child is None:
            self._start()
        if self._ready is None:
            message = self._receive("while the models were loaded")
            if "error" in message:
                self.close()
                kind, sentence = message["error"]
                raise rebuilt(kind, sentence)
            self._ready = message["ready"]
        return self._ready

    def begin(self, texts: Sequence[str | None]) -> Callable[[], Any]:
        """Hand over ``texts``; what comes back waits for the engine's answer.

        Several may be handed over before the first answer; the child takes them in turn. Answers
        are waited for in the same order, or not at all.

        Raises:
            EngineError: (by the waiting) the child died, or the engine failed; what was handed over
                behind is lost.
            SroEdgeError: (by the waiting) what the loader of a new child raised.
        """
        if self._child is None:
            self._start()
        child = self._child
        try:
            with contextlib.suppress(EngineError):  # it is said when the answer is wanted
                self._send(list(texts))
        except BaseException:  # half a message, say
            self.close()
            raise
        self._sent += 1
        return partial(self._answer, child, self._sent)

    def call(self, texts: Sequence[str | None]) -> Any:
        """The engine's answer to ``texts``; see :meth:`begin`."""
        return self.begin(texts)()

    def _answer(self, child: subprocess.Popen[bytes] | None, number: int) -> Any:
        """The answer to what was handed over to ``child`` as the so-manieth."""
        if self._child is not child:
            raise EngineError("the process with the models ended before it came to these comments")
        if number <= self._answered:
            raise RuntimeError("this answer was taken, or passed over for a later one")
        try:
            self.ready()
            while self._answered < number:
                message = self._receive("at work")
                self._answered += 1
        except BaseException:
            self.close()
            raise
        if "failed" in message:
            self.close()  # whatever state it is in, the next call starts afresh
            raise EngineError(message["failed"])
        return message["answer"]

    def close(self) -> None:
        """End the child; safe to call twice."""
        child, self._child, self._ready = self._child, None, None
        if child is None:
            return
        child.kill()
        with contextlib.suppress(BrokenPipeError), child:  # waits, and closes both pipes
            pass
        self._log.close()

    def __enter__(self) -> Worker:
        """The worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()

    def _start(self) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # -P: nothing that lies in the current folder is imported.
        self._sent = self._answered = 0
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "sro_edge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
            # glibc: else every thread that allocates gets a heap of its own, and what a batch frees
            # in one of them cannot serve the next batch in another, so the process grows for hours.
            env={"MALLOC_ARENA_MAX": "1", **os.environ},
        )
        with contextlib.suppress(EngineError):  # it is said when the answer is wanted
            self._send(self._order)

    def _send(self, message: Any) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise EngineError(self._epitaph("at work")) from None

    def _receive(self, when: str) -> dict[str, Any]:
        assert self._child is not None
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line.endswith(b"\n"):
            error = EngineError(self._epitaph(when))
            self.close()
            raise error
        message: dict[str, Any] = json.loads(line)
        return message

    def _epitaph(self, when: str) -> str:
        """Why the child is dead, as far as can be known."""
        assert self._child is not None
        code = self._child.wait()
        how = f"ended with code {code}"
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        likely = {
            -signal.SIGKILL: "memory was short",
            -signal.SIGILL: "llama.cpp was compiled for another processor (reinstall "
            "llama-cpp-python on this machine)",
        }
        if code in likely:
            how += f", most likely because {likely[code]},"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4096))
        said = self._log.read().decode(errors="replace").strip().splitlines()
        last = f" (its last words: {said[-1].strip()[:160]})" if said else ""
        return f"the process with the models {how} {when}{last}"


class RemoteRewriter:
    """What :class:`sro_edge.Rewriter` is to a dump, with the models in a worker."""

    def __init__(self, worker: Worker) -> None:
        """``worker`` has the role ``rewrite``."""
        self._worker = worker

    def settings(self) -> dict[str, Any]:
        """See :meth:`sro_edge.Rewriter.settings`."""
        settings: dict[str, Any] = self._worker.ready()
        return settings

    def rewrite(self, texts: Sequence[str | None]) -> Iterator[Rewrite]:
        """One rewrite a text, in order; the worker begins at once, before the first is taken."""
        return self._rewrites(self._worker.begin(texts))

    def _rewrites(self, wait: Callable[[], Any]) -> Iterator[Rewrite]:
        from sro_edge.job import Rewrite

        for fields in wait():
            yield Rewrite(**fields)


class RemoteScreener:
    """What :class:`sro_edge.screener.Screener` is to a dump, with the model in a worker."""

    def __init__(self, worker: Worker) -> None:
        """``worker`` has the role ``screen``."""
        self._worker = worker

    def identity(self) -> dict[str, Any]:
        """Name, version and digest of its bundle, and the threshold that the bundle states."""
        return dict(self._worker.ready())

    def begin(self, texts: Sequence[str]) -> Callable[[], Scores]:
        """Start on ``texts``; what comes back waits for their :meth:`score`."""
        wait = self._worker.begin(texts)
        return lambda: _scores_of(*wait())

    def score(self, texts: Sequence[str]) -> Scores:
        """Toxicity and fluency, NaN where a first stage cleared the text; no embedding."""
        return self.begin(texts)()


def _scores_of(toxicity: Any, fluency: Any, cleared: Any) -> Scores:
    import numpy as np

    from sro_edge.screener import Scores

    return Scores(
        np.asarray(toxicity, np.float32),
        None if fluency is None else np.asarray(fluency, np.float32),
        None,
        None if cleared is None else np.asarray(cleared, bool),
    )


@contextmanager
def remote_rewriter(bundle: Path | None, **asked: Any) -> Iterator[RemoteRewriter]:
    """A rewriter in a worker; arguments as for :meth:`sro_edge.Rewriter.load`."""
    with Worker("rewrite", bundle=None if bundle is None else str(bundle), **asked) as worker:
        yield RemoteRewriter(worker)


@contextmanager
def remote_screener(bundle: Path | None, **asked: Any) -> Iterator[RemoteScreener]:
    """The screener of a bundle in a worker; arguments as for :func:`load_screener`."""
    with Worker("screen", bundle=None if bundle is None else str(bundle), **asked) as worker:
        yield RemoteScreener(worker)


def load_screener(
    bundle: str | None,
    *,
    threads: int | None,
    device: str,
    threshold: float | None = None,
    cascade: bool = True,
) -> Any:
    """The screener of a bundle, behind its first stage if there is one, with what identifies it."""
    from sro_edge.bundle import Bundle
    from sro_edge.first_stage import Cascade, load_first_stage, stated
    from sro_edge.screener import Screener

    opened = Bundle.load(bundle)
    screener: Any = Screener(opened.screener, threads=threads, device=device)
    stage = None
    if cascade:
        wanted = opened.thresholds.toxicity if threshold is None else threshold
        stage = load_first_stage(opened, wanted, threads=threads)
    if stage is not None:
        screener = Cascade(screener, stage)
    screener.identity = {
        "bundle": opened.name,
        "bundle_version": opened.version,
        "bundle_digest": opened.digest,
        "threshold": opened.thresholds.toxicity,
        "cascade": stated(stage),
    }
    return screener


def rebuilt(kind: str, sentence: str) -> SroEdgeError:
    """The error that the child met, of its own class where that is one of ours."""
    found = getattr(errors, kind, EngineError)
    error: SroEdgeError = found.__new__(found)
    error.args = (sentence,)
    return error


# --- the child ---


def main() -> None:
    """Load the engine, then answer until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when this process ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not get between the messages
    with contextlib.suppress(OSError):  # when memory is short, this process goes, not the parent
        Path("/proc/self/oom_score_adj").write_text("500")
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()

    def reply(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    try:
        ready, answer = _load(**requests.get())
    except SroEdgeError as error:
        reply({"error": [type(error).__name__, str(error)]})
        return
    reply({"ready": ready})
    while True:
        try:
            message = {"answer": answer(requests.get())}
        except Exception as error:
            traceback.print_exc()
            message = {"failed": _in_a_sentence(error)}
        reply(message)


def _listen(requests: queue.SimpleQueue[Any]) -> None:
    """Read requests; when there will be none, end even in the middle of an answer."""
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    os._exit(0)


def _load(role: str, load: str, asked: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """What the engine says of itself, and how it answers."""
    module, path = load.split(":")
    loader: Any = importlib.import_module(module)
    for name in path.split("."):
        loader = getattr(loader, name)
    engine = loader(**asked)
    if role == "rewrite":
        engine.remember = _SPANS
        return engine.settings(), lambda texts: [vars(done) for done in engine.rewrite(texts)]
    return engine.identity, lambda texts: _scores(engine.score(texts))


def _scores(scores: Any) -> list[Any]:
    columns = (scores.toxicity, scores.fluency, scores.cleared)
    return [None if column is None else column.tolist() for column in columns]


def _in_a_sentence(error: Exception) -> str:
    if isinstance(error, SroEdgeError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"the models failed with {type(error).__name__}: {error} ({where})"


if __name__ == "__main__":
    main()
