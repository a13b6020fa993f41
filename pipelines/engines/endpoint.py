"""An OpenAI-compatible endpoint: what is tried again, what is a row's own fault, what ends the batch."""

import email.utils
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpx

from pipelines.errors import ConfigError, EngineError

_PATIENCE_SECONDS = 60.0
Item = TypeVar("Item")
Result = TypeVar("Result")


class Endpoint:
    """`POST {base_url}/chat/completions`, so many at a time.

    Args:
        options:
            base_url: the endpoint, up to and without `/chat/completions`.
            key_variable: name of the environment variable that holds the key (`OPENAI_API_KEY`); the key itself is in
                no option, table or log.
            in_flight: requests at a time, 16 by default.
            attempts: tries a request, 6 by default, with 1, 2, 4 … seconds between them, or what Retry-After says.
            timeout_seconds: of one try, 300 by default.

    Raises:
        ConfigError: there is no base_url, or the variable is not set.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.base_url = str(options.get("base_url") or "")
        if not self.base_url:
            raise ConfigError(
                "an OpenAI-compatible endpoint needs a base_url, such as https://host/serving-endpoints"
            )
        variable = str(options.get("key_variable", "OPENAI_API_KEY"))
        if variable not in os.environ:
            raise ConfigError(f"environment variable {variable} is not set; it holds the endpoint's key")
        self._in_flight = int(options.get("in_flight", 16))
        self._attempts = int(options.get("attempts", 6))
        self._client = httpx.Client(
            base_url=self.base_url.rstrip("/"),
            headers={"Authorization": f"Bearer {os.environ[variable]}"},
            timeout=httpx.Timeout(float(options.get("timeout_seconds", 300.0)), connect=30.0),
            limits=httpx.Limits(max_connections=self._in_flight),
        )

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What the work gives for each item, as it finishes; items are read only as fast as results leave."""
        source, running = iter(items), set[Future[Result]]()
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
                pool.shutdown(wait=False, cancel_futures=True)

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        """The answer to a request: of status 200, or of a status that says that the request itself is at fault.

        Raises:
            EngineError: the key is refused, or the endpoint stays away after all attempts.
        """
        problem = ""
        for attempt in range(self._attempts):
            try:
                answer = self._client.post("/chat/completions", json=body)
            except httpx.TransportError as error:
                problem, pause = f"{type(error).__name__}: {error}", 2.0**attempt
            else:
                if answer.status_code == 200:
                    return answer
                problem = said(answer)
                if answer.status_code in (401, 403, 404):
                    raise EngineError(f"the endpoint {self.base_url} refuses us: {problem}")
                if answer.status_code < 500 and answer.status_code not in (408, 409, 429):
                    return answer
                pause = retry_after(answer.headers.get("retry-after", ""), 2.0**attempt)
            if attempt + 1 < self._attempts:
                time.sleep(min(pause, _PATIENCE_SECONDS))
        raise EngineError(f"the endpoint {self.base_url} failed {self._attempts} times; lastly {problem}")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def said(answer: httpx.Response) -> str:
    """An answer's status and the beginning of its body."""
    return f"HTTP {answer.status_code}: {answer.text[:400]}"


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
