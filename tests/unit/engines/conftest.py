"""Engines for tests: a spec whose server is `fake_server.py`, kept by the real supervisor."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.engines.host import stop_all
from pipelines.engines.protocol import GenerationRequest, GeneratorSpec

FAKE = Path(__file__).with_name("fake_server.py")
MakeSpec = Callable[..., GeneratorSpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> Iterator[MakeSpec]:
    """Makes specs of a fake engine below one home; whatever they started is ended after the test."""

    def make(
        *flags: str, owner: str = "run-1", lease: float = 8.0, adapters: int = 0, **options: object
    ) -> GeneratorSpec:
        command = [sys.executable, str(FAKE), "{socket}", str(tmp_path / "state"), *flags]
        return GeneratorSpec(
            backend="vllm",
            model="fake",
            model_digest="0",
            max_model_len=512,
            max_num_seqs=8,
            max_adapters=adapters,
            owner=owner,
            home=str(tmp_path / "home"),
            lease_seconds=lease,
            options={"server_command": command, **options},
        )

    yield make
    stop_all(str(tmp_path / "home"))


@pytest.fixture
def make_request() -> Callable[..., GenerationRequest]:
    """Makes a request; `kind` is its first token, which tells the fake server what to do."""

    def make(seed: int, kind: int = 1, adapter: str | None = None, max_tokens: int = 8) -> GenerationRequest:
        return GenerationRequest(f"r{seed}", (kind, 5, 6), adapter, 1.0, 1.0, max_tokens, seed)

    return make
