"""An OpenAI-compatible endpoint: what is tried again, what is a row's own fault, what ends the batch."""

import email.utils
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any, TypeVar

import httpx

from pipelines.errors import ConfigError, EngineError

_LONGEST_PAUSE_SECONDS = 60.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0
_QUOTED_CHARS = 400
# Asked in a request's place, to learn whether it was its words that were forbidden.
_HARMLESS = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
Item = TypeVar("Item")
Result = TypeVar("Result")


class Endpoint:
    """`POST {base_url}/chat/completions`, so many at a time.

    Args:
        options: those of `pipelines.config.EndpointConfig`, which says what they are and has their defaults, as one task has
            them: from its `options_of`. The key itself is in no option, table or log. Between the tries of a request are 1,
            2, 4 … 60 seconds, or what Retry-After says, up to 10 minutes; one that says more ends the batch.

    Raises:
        ConfigError: as `key_in`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.base_url = str(options["base_url"])
        self._key = key = key_in(options["key_variable"])
        self._in_flight = int(options["in_flight"])
        self._attempts = int(options["attempts"])
        self._given_up = threading.Event()
        self._answers = 0
        self._pace = _Pace(options["requests_per_minute"])
        self._client = httpx.Client(
            base_url=self.base_url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(float(options["timeout_seconds"]), connect=30.0),
            limits=httpx.Limits(max_connections=self._in_flight),
        )

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What the work gives for each item, as it finishes; items are read only as fast as results leave."""
        source, running = iter(items), set[Future[Result]]()
        self._given_up.clear()
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="mart-endpoint") as pool:
            try:
                while True:
                    while len(running) < self._in_flight and (item := next(source, None)) is not None:
                        running.add(pool.submit(work, item))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                self._given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        """The answer to a request: of status 200, or of a status that says that the request itself is at fault.

        A request that fails every time, though others are answered after it began to fail, is at fault, too: its last answer of
        a status from 500 on is returned, or 504 where there was none in time. A 403 is for what the request says (a filter, a
        firewall) or for who asks (a key that has lapsed): it is returned where the same request is answered with harmless words.
        An error in the body of a 200 counts as the status that it names, else as 500.

        Raises:
            EngineError: the key is refused, its credit is spent, the endpoint stays away after all attempts, or says that it
                will for long.
        """
        answer = self._tried(body)
        if answer.status_code == 402:
            raise EngineError(
                f"the credit at the endpoint {self.base_url} is spent; top it up, and the same command goes on from here: "
                f"{self.said(answer)}"
            )
        forbidden = answer.status_code == 403 and self._tried({**body, **_HARMLESS}).status_code != 200
        if forbidden or answer.status_code in (401, 404):
            raise EngineError(f"the endpoint {self.base_url} refuses us: {self.said(answer)}")
        return answer

    def _tried(self, body: Mapping[str, Any]) -> httpx.Response:
        """As `post`, with an answer of any status that another try does not change."""
        problem = ""
        at_fault: httpx.Response | None = None
        answered_before = 0
        for attempt in range(self._attempts):
            pause = min(2.0**attempt, _LONGEST_PAUSE_SECONDS)
            self._wait(self._pace.seconds_to_wait())
            try:
                answer = _of_its_error(self._client.post("/chat/completions", json=body))
            except httpx.RequestError as error:
                problem = self.quoted(f"{type(error).__name__}: {error}")
                at_fault = None
                if isinstance(error, httpx.ReadTimeout | httpx.RemoteProtocolError | httpx.DecodingError):
                    at_fault = httpx.Response(504, text=problem)
                    at_fault.elapsed = timedelta(0)
            else:
                if answer.status_code == 200:
                    self._answers += 1
                    return answer
                at_fault = answer if answer.status_code >= 500 else None
                problem = self.said(answer)
                if answer.status_code < 500 and answer.status_code not in (408, 409, 429):
                    return answer
                pause = retry_after(answer.headers.get("retry-after", ""), pause)
                if pause > _LONGEST_RETRY_AFTER_SECONDS:
                    raise EngineError(
                        f"the endpoint {self.base_url} is not to be asked again for {pause:.0f} s (Retry-After), more than "
                        f"the {_LONGEST_RETRY_AFTER_SECONDS:.0f} s that are waited: {problem}"
                    )
            if attempt == 0:
                answered_before = self._answers
            if attempt + 1 < self._attempts:
                self._wait(pause)
        if at_fault is not None and self._answers > answered_before:
            return at_fault
        raise EngineError(f"the endpoint {self.base_url} failed {self._attempts} times; lastly {problem}")

    def _wait(self, seconds: float) -> None:
        if self._given_up.wait(seconds):
            raise EngineError(f"the batch at the endpoint {self.base_url} was given up")

    def said(self, answer: httpx.Response) -> str:
        """An answer's status and the beginning of its body."""
        return f"HTTP {answer.status_code}: {self.quoted(answer.text)}"

    def quoted(self, text: str) -> str:
        """The beginning of what the endpoint said, without our key, which a proxy that tells what it was asked repeats."""
        return (text.replace(self._key, "[the key]") if self._key else text)[:_QUOTED_CHARS]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _Pace:
    """Lets through so many a minute, evenly; the first waits too, since the one before may have been another task's."""

    def __init__(self, a_minute: float | None) -> None:
        self._gap = 60.0 / a_minute if a_minute else 0.0
        self._next = time.monotonic() + self._gap
        self._lock = threading.Lock()

    def seconds_to_wait(self) -> float:
        """Take a turn, and say when it is."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap
        return max(0.0, turn - time.monotonic())


def _of_its_error(answer: httpx.Response) -> httpx.Response:
    """An answer, which has its error's status (500 where that names none) if its body is an error though it came as a 200."""
    if answer.status_code != 200:
        return answer
    try:
        content = answer.json()
    except (ValueError, RecursionError):
        return answer
    if isinstance(content, dict) and (error := content.get("error")) and not content.get("choices"):
        code = error.get("code") if isinstance(error, dict) else None
        answer.status_code = code if isinstance(code, int) and 400 <= code < 600 else 500
    return answer


def key_in(variable: str | None) -> str | None:
    """The key of an endpoint, out of the environment; None where no variable is named, for an endpoint without keys.

    Raises:
        ConfigError: the variable is not set, or empty, or no header can carry what it holds, as with the line end of a file.
    """
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ConfigError(
            f"environment variable {variable} is not set; it holds the endpoint's key. key_variable names another one, or is "
            "null where the endpoint takes no key"
        )
    if not all("!" <= char <= "~" for char in key):  # the key itself is told nowhere
        raise ConfigError(
            f"environment variable {variable} holds white space (a line end?) or characters that no header can carry; set it "
            "to the key alone"
        )
    return key


def retry_after(header: str, otherwise: float) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; `otherwise` where it says neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return otherwise
