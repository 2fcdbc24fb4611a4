"""Lanes: several flights side by side, each in a thread and a context of its own.

A context whose threads work on one step together waits at hundreds of barriers a step, and at its
end for Python, which draws the tokens. For a model of 7 M parameters on two cores that is a quarter
of the time. Contexts with one thread each wait for nobody; they share the weights. While a lane has
nothing to do, the others have its threads.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from sro_edge.flight import Flight, Job


class _Jobs:
    """The source of a flight that has the caller's thread to itself."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self.closed = False

    def take(self, load: int) -> Job | None:
        return next(self._jobs, None)

    def note(self, load: int) -> None:
        pass

    def close(self) -> None:
        """Have the flight given up."""
        self.closed = True


class Lanes:
    """Flights and the threads they share.

    Args:
        flights: one a lane, each with a context of its own.
        threads: CPU threads of all together, at least one a lane.
    """

    def __init__(self, flights: Sequence[Flight], threads: int) -> None:
        self._flights, self._threads = flights, threads
        self._running: _Jobs | _Race | None = None

    def run(self, jobs: Iterator[Job]) -> Iterator[Job]:
        """Take a job whenever a slot falls free; yield each when its answers are complete.

        ``jobs`` is read in the caller's thread, one for each lane ahead of the free slots.

        Raises:
            ModelError: llama.cpp refused a batch.
            RuntimeError: the lanes were closed before the last job was done.
        """
        few = list(itertools.islice(jobs, 2))
        jobs = itertools.chain(few, jobs)
        if len(self._flights) == 1 or len(few) < 2:  # one answer alone has all threads
            self._flights[0].context.threads = self._threads
            source = self._running = _Jobs(jobs)
            yield from self._flights[0].run(source)
        else:
            race = self._running = _Race(self._flights, self._threads)
            yield from race.run(jobs)
        if self._running is None:
            raise RuntimeError("the engine was closed before the last answer was complete")

    def close(self) -> None:
        """Give up what is running, so that the contexts can be freed."""
        running, self._running = self._running, None
        if running is not None:
            running.close()
        for flight in self._flights:
            flight.context.close()


class _Race:
    """One run of all lanes: what waits for them, what they have done."""

    def __init__(self, flights: Sequence[Flight], threads: int) -> None:
        self._flights, self._threads = flights, threads
        self._loads = [0] * len(flights)
        self._waiting, self._done = deque[Job](), deque[Job]()
        self._ended = False  # no more jobs will come
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._lanes = [_Lane(self, number, flight) for number, flight in enumerate(flights)]
        self.closed = False

    def run(self, jobs: Iterator[Job]) -> Iterator[Job]:
        """See :meth:`Lanes.run`."""
        unanswered = 0
        try:
            for lane in self._lanes:
                lane.start()
            while not self.closed:
                while self._wants_more():
                    job = next(jobs, None)
                    unanswered += job is not None
                    self._give(job)
                if self._ended and not unanswered:
                    return
                if (done := self._wait()) is not None:
                    unanswered -= 1
                    yield done
        finally:
            self.close()

    def close(self) -> None:
        """Stop the lanes, whatever they are at; returns when they have."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            if lane.is_alive():
                lane.join()

    def take(self, number: int, load: int) -> Job | None:
        """A job for a lane, if no other has less to do; a lane without ``load`` waits for it."""
        with self._changed:
            self._note(number, load)
            while not self.closed:
                if self._waiting and load == min(self._loads):
                    job = self._waiting.popleft()
                    self._note(number, load + 1)
                    self._changed.notify_all()
                    return job
                if load or (self._ended and not self._waiting):
                    return None
                self._changed.wait()
        return None

    def note(self, number: int, load: int) -> None:
        """Note what a lane has to do."""
        with self._changed:
            self._note(number, load)

    def finish(self, job: Job) -> None:
        """Hand over a job with its answers."""
        with self._changed:
            self._done.append(job)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Hand over what stopped a lane."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _wants_more(self) -> bool:
        return not self._ended and len(self._waiting) < len(self._flights)

    def _give(self, job: Job | None) -> None:
        with self._changed:
            if job is None:
                self._ended = True
            else:
                self._waiting.append(job)
            self._changed.notify_all()

    def _wait(self) -> Job | None:
        """A job that is done; None as soon as another one may be taken from the caller."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or self._done or self._error or self._wants_more()
            )
            if self._error:
                raise self._error
            return self._done.popleft() if self._done else None

    def _note(self, number: int, load: int) -> None:
        """Note what a lane has to do; where that makes it busy or idle, share out the threads."""
        before, self._loads[number] = self._loads[number], load
        if bool(before) == bool(load):
            return
        busy = [n for n, load in enumerate(self._loads) if load]
        for place, n in enumerate(busy):
            share = self._threads // len(busy) + (place < self._threads % len(busy))
            self._flights[n].context.threads = share


class _Lane(threading.Thread):
    """The thread of one flight; its source of jobs."""

    def __init__(self, race: _Race, number: int, flight: Flight) -> None:
        super().__init__(name=f"lane {number}", daemon=True)
        self._race, self._number, self._flight = race, number, flight

    @property
    def closed(self) -> bool:
        return self._race.closed

    def take(self, load: int) -> Job | None:
        return self._race.take(self._number, load)

    def note(self, load: int) -> None:
        self._race.note(self._number, load)

    def run(self) -> None:
        try:
            for job in self._flight.run(self):
                self._race.finish(job)
        except BaseException as error:
            self._race.fail(error)
