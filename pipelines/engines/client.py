"""A client of a host's vLLM engine: many requests in flight, rows as they finish, faults told apart.

What is wrong with one row is that row's outcome. What is wrong with the engine (it died, it hangs, it answers 5xx) is
mended here: the engine is replaced, its adapters come back, and what was in flight is asked again. Only an engine that
can't be mended raises `EngineError`.
"""

import asyncio
import queue
import re
import statistics
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from pipelines.engines.homes import EngineDirectory
from pipelines.engines.host import Lease
from pipelines.engines.outcomes import Fallible, Refusals
from pipelines.engines.protocol import Adapter, GeneratorSpec, RowErrorKind
from pipelines.engines.session import EngineSession, Reply
from pipelines.errors import EngineError

_TOO_LONG = re.compile(r"maximum context length|longer than the maximum|max_model_len", re.IGNORECASE)
_SUSPECT_AFTER = 2

Request = TypeVar("Request")
Outcome = TypeVar("Outcome", bound=Fallible)
_Asked = TypeVar("_Asked", contravariant=True)
_Told = TypeVar("_Told", bound=Fallible, covariant=True)


class Exchange(Protocol[_Asked, _Told]):
    """One kind of request: how the server is asked, and what its answer says.

    Attributes:
        path: where the server takes such requests.
    """

    path: str

    def unfit(self, request: _Asked) -> _Told | None:
        """The outcome of a request that need not be sent, else None."""
        ...

    def body(self, request: _Asked) -> bytes:
        """The request as JSON."""
        ...

    def read(self, request: _Asked, reply: Reply) -> _Told | None:
        """The outcome that a reply of status 200 tells, or None where it is no answer."""
        ...

    def failed(self, request: _Asked, kind: RowErrorKind, error: str, seconds: float = 0.0) -> _Told:
        """A row's own fault."""
        ...


class EngineClient(Generic[Request, Outcome]):
    """Asks the spec's engine, which it starts or finds when it first needs it.

    Args:
        spec: the engine.
        adapters: the adapters that requests may name; loaded before the first request, and again after a restart.
        exchange: the kind of request.
        in_flight: requests sent and not yet answered, at most; 0 takes the engine's `max_num_seqs` and a quarter
            more, so that a finished row is refilled at once. Bounds the memory of the input, too.

    Use from one thread at a time.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        adapters: Sequence[Adapter],
        exchange: Exchange[Request, Outcome],
        *,
        in_flight: int = 0,
    ) -> None:
        self._exchange = exchange
        self._in_flight = in_flight or int(spec.options.get("in_flight", 0)) or spec.max_num_seqs * 5 // 4 + 1
        self._directory = EngineDirectory.of(spec)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="mart-vllm-client").start()
        self._session = EngineSession(spec, adapters, self._directory)
        self._closed = False

    def ask(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Yield one outcome a request as they finish; `requests` is read only as fast as answers return.

        Raises:
            EngineError: the engine can't be kept alive, or refuses everything.
        """
        if self._closed:
            raise EngineError("this client of an engine is closed; open another")
        run = _Run(self._session, self._exchange)
        source, pending, more = iter(requests), 0, True
        with self._working(run):
            while True:
                while more and pending < self._in_flight:
                    request = next(source, None)
                    if request is None:
                        more = False
                        break
                    self._loop.call_soon_threadsafe(run.submit, request)
                    pending += 1
                if not pending:
                    return
                item = run.results.get()
                if isinstance(item, BaseException):
                    raise item
                pending -= 1
                yield item

    @contextmanager
    def _working(self, run: "_Run[Request, Outcome]") -> Iterator[None]:
        lease = Lease(self._directory)
        watch = asyncio.run_coroutine_threadsafe(run.watch(), self._loop)
        try:
            yield
        finally:
            watch.cancel()
            with suppress(RuntimeError):
                asyncio.run_coroutine_threadsafe(run.cancel(), self._loop).result(10.0)
            lease.close()

    def close(self) -> None:
        """Let go of the engine; it lives on for others until its lease ends."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)


class _Run(Generic[Request, Outcome]):
    """One call of `ask`: the tasks in flight and what they have learned. Lives in the client's event loop."""

    def __init__(self, session: EngineSession, exchange: Exchange[Request, Outcome]) -> None:
        self.results: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._session = session
        self._exchange = exchange
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals = Refusals("the engine")
        self._latencies: deque[float] = deque(maxlen=256)

    def submit(self, request: Request) -> None:
        """Start a request."""
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        """Drop what is in flight; the server sees the connections close and stops computing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def watch(self) -> None:
        """Tell the session when the engine hangs: no answer, and no token anywhere in it, for too long."""
        await self._session.watch(lambda: statistics.median(self._latencies) if self._latencies else None)

    async def _serve(self, request: Request) -> None:
        try:
            outcome = self._exchange.unfit(request)
            if outcome is None:
                outcome = await self._ask(request)
                self._refusals.count(outcome)
        except Exception as error:  # noqa: BLE001 (the caller's thread raises it)
            self.results.put(error)
        else:
            self.results.put(outcome)

    async def _ask(self, request: Request) -> Outcome:
        """Ask until there is an outcome.

        An engine's death puts a strike on everything in flight. What has two is asked again while no client of the
        engine has anything else in flight: if the engine dies once more, that request took it down.
        """
        path, body, failed = self._exchange.path, self._exchange.body(request), self._exchange.failed
        strikes, failures = 0, 0
        while True:
            alone = strikes >= _SUSPECT_AFTER
            reply = await (self._session.ask_alone(path, body) if alone else self._session.ask(path, body))
            if reply.lost:
                strikes += 1
                if alone:
                    return failed(
                        request, "took_engine_down", f"the engine died {strikes} times on it: {reply.error}"
                    )
            elif reply.status == 200:
                outcome = self._exchange.read(request, reply)
                if outcome is not None:
                    self._latencies.append(reply.seconds)
                    return outcome
                failures += 1
                if failures > 1:
                    return failed(request, "unreadable", f"not an answer: {reply.error}", reply.seconds)
            elif 400 <= reply.status < 500:
                long = reply.status == 413 or _TOO_LONG.search(reply.error) is not None
                return failed(request, "too_long" if long else "refused", reply.error, reply.seconds)
            else:
                failures += 1
                if failures > 2:
                    return failed(request, "refused", f"HTTP {reply.status}: {reply.error}", reply.seconds)
                await asyncio.sleep(0.5 * failures)
