"""One client's connection to a host's engine: sends, notices that the engine is dead or hangs, and has it replaced."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from pipelines.engines import uds
from pipelines.engines.adapters import ensure_adapter
from pipelines.engines.homes import EngineDirectory
from pipelines.engines.host import EngineHandle, ensure_engine
from pipelines.engines.launch import has_gpu
from pipelines.engines.processes import members
from pipelines.engines.protocol import Adapter, GeneratorSpec
from pipelines.engines.turns import Turns
from pipelines.errors import EngineError

_DEATHS_IN_A_ROW = 5
_BROKEN = 599
# How much longer an engine may take than one that stands still, as long as it computes; and the cores that computing takes.
_COMPUTING = 10
_COMPUTING_CORES = 0.1
_PROGRESS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total_sum")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one sending.

    Attributes:
        status: HTTP status; 599 where the connection broke although the engine is well.
        body: the JSON of a 200, or None where it can't be read.
        error: the server's words.
        seconds: from sending to the last byte.
        lost: the engine died or hung while the request was in flight, and another was started.
    """

    status: int
    body: Any
    error: str
    seconds: float
    lost: bool = False


class EngineSession:
    """Keeps an engine reachable for a client; all its coroutines run in the client's one event loop."""

    def __init__(self, spec: GeneratorSpec, adapters: Sequence[Adapter], directory: EngineDirectory) -> None:
        self._spec = spec
        self._adapters = tuple(adapters)
        self._directory = directory
        self._patience = float(spec.options.get("hang_seconds", 60.0))
        self._engine: EngineHandle | None = None
        self._client: aiohttp.ClientSession | None = None
        self._condemned: EngineHandle | None = None
        self._deaths = 0
        self._in_flight = 0
        self._last_answer = time.monotonic()
        self._mending = asyncio.Lock()
        self._turns = Turns(directory)

    async def ask(self, path: str, body: bytes) -> Reply:
        """Send a request, JSON for a path of the server, among others.

        Raises:
            EngineError: the engine is gone and can't be replaced.
        """
        # A turn lasts until the engine is mended, so that nobody asks one alone that is about to be ended.
        async with self._turns.together():
            return await self._send(path, body)

    async def ask_alone(self, path: str, body: bytes) -> Reply:
        """Send a request that is suspected of killing engines, while no client of this engine has another in flight.

        Raises:
            EngineError: the engine is gone and can't be replaced.
        """
        async with self._turns.alone():
            engine, _ = await self._connected()
            await self._mend(engine)  # one that is dead already died of something else
            return await self._send(path, body)

    async def _send(self, path: str, body: bytes) -> Reply:
        engine, client = await self._connected()
        self._in_flight += 1
        began = time.monotonic()
        if self._in_flight == 1:
            self._last_answer = began
        try:
            async with client.post(f"http://engine{path}", data=body) as answer:
                status, raw = answer.status, await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            status, raw = _BROKEN, f"the connection broke: {error!r}".encode()
        except RuntimeError:  # the client was closed under way, since the engine hangs
            if not client.closed:
                raise
            status, raw = _BROKEN, b"the engine hangs"
        finally:
            self._in_flight -= 1
        self._last_answer = time.monotonic()
        seconds = self._last_answer - began
        if status >= 500:
            lost = await self._mend(engine)
            return Reply(status, None, _message(raw), seconds, lost)
        if status != 200:
            return Reply(status, None, _message(raw), seconds)
        self._deaths = 0
        try:
            return Reply(status, json.loads(raw), _message(raw), seconds)
        except (ValueError, RecursionError):
            return Reply(status, None, _message(raw), seconds)

    async def _connected(self) -> tuple[EngineHandle, aiohttp.ClientSession]:
        if self._engine is None or self._client is None:
            async with self._mending:
                if self._engine is None or self._client is None:
                    await self._connect()
        assert self._engine is not None
        assert self._client is not None
        return self._engine, self._client

    async def _connect(self) -> None:
        condemned, self._condemned = self._condemned, None
        engine = await asyncio.to_thread(self._find, condemned)
        if self._client is not None:
            await self._client.close()
        # The server closes idle connections after 5 s; let go of them before it does.
        connector = aiohttp.UnixConnector(path=engine.socket, limit=0, keepalive_timeout=3.0)
        self._client = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0),
            headers={"Content-Type": "application/json"},
        )
        self._engine = engine
        self._last_answer = time.monotonic()

    def _find(self, instead_of: EngineHandle | None) -> EngineHandle:
        engine = ensure_engine(self._spec, instead_of=instead_of)
        try:
            return self._with_adapters(engine)
        except OSError as error:
            _log.warning(
                "the engine %s died or hangs while it loads (%s); replacing it", engine.ident[:8], error
            )
        engine = ensure_engine(self._spec, instead_of=engine)
        try:
            return self._with_adapters(engine)
        except OSError as error:
            raise EngineError(
                f"the engine died or hung twice while it loaded or proved {error}; "
                f"its log is {self._directory.log_path}"
            ) from error

    def _with_adapters(self, engine: EngineHandle) -> EngineHandle:
        for adapter in self._adapters:
            try:
                ensure_adapter(self._directory, engine, adapter, patience=_COMPUTING * self._patience)
            except OSError as error:
                raise ConnectionError(f"adapter {adapter.name!r}: {error}") from error
        return engine

    async def _mend(self, engine: EngineHandle) -> bool:
        """After a failure on `engine`, or a doubt: have a healthy one. Whether it is another than `engine`."""
        async with self._mending:
            if self._engine is None or self._engine.ident == engine.ident:
                if self._condemned is None and await asyncio.to_thread(uds.is_healthy, engine.socket):
                    return False
                self._deaths += 1
                if self._deaths > _DEATHS_IN_A_ROW:
                    raise EngineError(
                        f"the engine died or hung {self._deaths} times without one answer in between; "
                        f"its log is {self._directory.log_path}"
                    )
                _log.warning("the engine %s is dead or hangs; replacing it", engine.ident[:8])
                await self._connect()
            return True

    async def watch(self, median: Callable[[], float | None]) -> None:
        """Condemn the engine when nothing has come from it for too long: see `options["hang_seconds"]`.

        Too long is 60 s or 20 median latencies, whichever is more, and three times that before the first answer. Tokens
        made for anyone, by the engine's own counters, are progress. They are counted once an iteration, of which one over
        long prompts takes a CPU minutes: while the engine computes there, too long is ten times as much.

        Args:
            median: seconds that an answer takes, or None before the first.
        """
        patience = self._patience
        seen, checked, computed = "", 0.0, 0.0
        load = None if await asyncio.to_thread(has_gpu) else _Load()
        while True:
            await asyncio.sleep(min(1.0, patience / 8))
            typical = median()
            limit = 3 * patience if typical is None else max(patience, 20 * typical)
            now = time.monotonic()
            if not self._in_flight or self._engine is None or now - self._last_answer < limit / 4:
                continue
            if now - checked <= limit / 8:
                continue
            group = self._engine.pgid
            tokens = await asyncio.to_thread(_progress, self._engine.socket, min(10.0, limit / 4))
            computes = load is not None and await asyncio.to_thread(load.computes, group)
            checked = now = time.monotonic()
            if tokens is not None and tokens != seen:
                seen, self._last_answer = tokens, now
            if computes:
                computed = now
            silent = now - self._last_answer
            if min(silent, now - computed) > limit or silent > _COMPUTING * limit:
                _log.warning("no token from engine %s for %.0f s", self._engine.ident[:8], silent)
                self._condemned = self._engine
                self._last_answer = now
                if self._client is not None:
                    await self._client.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
        self._client = None
        self._turns.close()


class _Load:
    """Tells whether a process group computes: whether since the last look it took a tenth of a core, which waiting does not."""

    def __init__(self) -> None:
        self._looked, self._seconds = time.monotonic(), math.inf

    def computes(self, group: int) -> bool:
        seconds, now = sum(item.cpu_seconds for item in members(group)), time.monotonic()
        least = self._seconds + _COMPUTING_CORES * (now - self._looked)
        self._looked, self._seconds = now, seconds
        return seconds >= least


def _message(raw: bytes) -> str:
    """The words of an error body, or its beginning."""
    text = raw[:4000].decode("utf-8", "replace")
    try:
        content = json.loads(text)
        return str((content.get("error") or content)["message"])[:500]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text[:500]


def _progress(socket: str, timeout: float) -> str | None:
    """The engine's token counters as text; None where it gives none."""
    try:
        status, text = uds.call(socket, "GET", "/metrics", timeout=timeout)
    except OSError:
        return None
    if status != 200:
        return None
    return "\n".join(line for line in text.splitlines() if line.startswith(_PROGRESS))
