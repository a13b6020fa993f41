"""The client of a host's vLLM engine: many requests in flight, rows as they finish, faults told apart.

What is wrong with one row is that row's outcome. What is wrong with the engine (it died, it hangs, it answers 5xx) is
mended here: the engine is replaced, its adapters come back, and what was in flight is asked again; a request's seed
comes with it, so its answer is the same. Only an engine that can't be mended raises `EngineError`.
"""

import asyncio
import queue
import re
import statistics
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pipelines.engines.homes import EngineDirectory
from pipelines.engines.host import Lease
from pipelines.engines.outcomes import Refusals, failed, scored, too_long
from pipelines.engines.protocol import Adapter, GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.engines.session import EngineSession, Reply
from pipelines.errors import ConfigError, EngineError

_TOO_LONG = re.compile(r"maximum context length|longer than the maximum|max_model_len", re.IGNORECASE)
_BLAMED_AFTER = 2


class VllmGenerator:
    """A `Generator` that talks to the spec's engine, which it starts or finds when it first needs it.

    Args:
        spec: the engine.
        adapters: the adapters that requests may name; loaded before the first request, and again after a restart.
        in_flight: requests sent and not yet answered, at most; 0 takes the engine's `max_num_seqs` and a quarter
            more, so that a finished row is refilled at once. Bounds the memory of the input, too.

    Use from one thread at a time.
    """

    def __init__(self, spec: GeneratorSpec, adapters: Sequence[Adapter] = (), *, in_flight: int = 0) -> None:
        if adapters and not spec.max_adapters:
            raise ConfigError(
                f"{len(adapters)} adapters are to be served, but the engine's max_adapters is 0"
            )
        self._spec = spec
        self._names = {adapter.name for adapter in adapters}
        self._in_flight = in_flight or int(spec.options.get("in_flight", 0)) or spec.max_num_seqs * 5 // 4 + 1
        self._directory = EngineDirectory.of(spec)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="mart-vllm-client").start()
        self._session = EngineSession(spec, adapters, self._directory)
        self._closed = False

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request as they finish; `requests` is read only as fast as answers return.

        Raises:
            EngineError: the engine can't be kept alive, or refuses everything in the same words.
            ConfigError: a request names an adapter that this generator was not opened with.
        """
        if self._closed:
            raise EngineError("this generator is closed; open another")
        run = _Run(self._session, self._spec.max_model_len)
        source, pending, more = iter(requests), 0, True
        with self._working(run):
            while True:
                while more and pending < self._in_flight:
                    request = next(source, None)
                    if request is None:
                        more = False
                        break
                    if request.adapter is not None and request.adapter not in self._names:
                        raise ConfigError(
                            f"request {request.request_id} names adapter {request.adapter!r}; "
                            f"this generator serves {sorted(self._names) or 'none'}"
                        )
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
    def _working(self, run: "_Run") -> Iterator[None]:
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


class _Run:
    """One call of `generate`: the tasks in flight and what they have learned. Lives in the client's event loop."""

    def __init__(self, session: EngineSession, max_model_len: int) -> None:
        self.results: queue.SimpleQueue[GenerationOutcome | BaseException] = queue.SimpleQueue()
        self._session = session
        self._max_model_len = max_model_len
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals = Refusals("the engine")
        self._latencies: deque[float] = deque(maxlen=256)

    def submit(self, request: GenerationRequest) -> None:
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

    async def _serve(self, request: GenerationRequest) -> None:
        try:
            outcome = too_long(request, self._max_model_len) or await self._ask(request)
            self._refusals.count(outcome)
        except Exception as error:  # noqa: BLE001 (the caller's thread raises it)
            self.results.put(error)
        else:
            self.results.put(outcome)

    async def _ask(self, request: GenerationRequest) -> GenerationOutcome:
        """Ask until there is an outcome.

        An engine's death puts a strike on everything in flight. What has two is asked alone, one on the whole host
        at a time: if the engine dies once more, that request took it down.
        """
        strikes, failures = 0, 0
        while True:
            alone = strikes >= _BLAMED_AFTER
            reply = await (self._session.ask_alone(request) if alone else self._session.ask(request))
            if reply.lost:
                strikes += 1
                if alone:
                    return failed(
                        request, "took_engine_down", f"the engine died {strikes} times on it: {reply.error}"
                    )
            elif reply.status == 200:
                outcome = _read(request, reply)
                if outcome is not None:
                    self._latencies.append(outcome.seconds)
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


def _read(request: GenerationRequest, reply: Reply) -> GenerationOutcome | None:
    """The answer in a completion's JSON, or None where it is not one."""
    try:
        choice, usage = reply.body["choices"][0], reply.body["usage"]
        text, reason = choice["text"], choice["finish_reason"]
        tokens, prompt = int(usage["completion_tokens"]), int(usage["prompt_tokens"])
        if request.scored_tokens:
            given = request.token_ids[-request.scored_tokens :]
            places = choice["prompt_logprobs"][-request.scored_tokens :]
            chances = [
                float(place[str(token)]["logprob"]) for place, token in zip(places, given, strict=True)
            ]
            return scored(request, sum(chances), reply.seconds)
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if not isinstance(text, str) or reason not in ("stop", "length"):
        return None
    return GenerationOutcome(request.request_id, text, reason, prompt, tokens, reply.seconds)
