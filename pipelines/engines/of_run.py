"""The engines of one run on this host, as the driver of its steps has them: started, kept between uses, ended.

A driver that runs a single step leaves its engines to the next step's: the last renewal of their leases holds for
`HANDOVER_SECONDS`, and steps that ask no engine keep what they find. Nothing that a living process uses is ended before
the end of the run.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines.homes import EngineDirectory, EngineRecord, home_folder, on_device
from pipelines.engines.host import Lease, ensure_engine, launch_engine, running_engines, stop_all
from pipelines.engines.protocol import GeneratorSpec

# A scheduler begins the next step within a minute or two; an engine takes as long to start.
HANDOVER_SECONDS = 300.0
_log = logging.getLogger(__name__)


def owner_of(run_id: str, schema: str, folder: Path) -> str:
    """Whose a run's engines are: the run's and this user's; a run of the same name in another lakehouse is another run.

    Args:
        run_id: the run.
        schema: of its tables.
        folder: where they lie, or else the artifact root; by whichever path.
    """
    return f"{run_id}:{os.getuid()}:{schema}:{folder.resolve()}"


def end_engines(owner: str, home: str = "") -> int:
    """End an owner's engines on this host, but for those that a living process uses; return how many."""
    return stop_all(home, owner, spare_used=True)


@dataclass(slots=True)
class _Held:
    folder: str
    serves: str
    used: bool
    lease: Lease
    waited_for: bool = True


class RunEngines:
    """A driver's hold on the engines of its run.

    Args:
        owner: of the engines: `owner_of` the run.
        home: host-local folder for engines' sockets and locks; the system's when empty.
        handover: seconds that an engine may stay when this driver lets go of it; it stays `lease_seconds` at least.
    """

    def __init__(self, owner: str, home: str = "", *, handover: float = 0.0) -> None:
        self.owner = owner
        self.home = home
        self._handover = handover
        self._held: list[_Held] = []

    def start(self, spec: GeneratorSpec, *, ahead: bool = False) -> None:
        """Have an engine of this owner and home run, and keep it until it is let go.

        Args:
            spec: the engine.
            ahead: only have it begin to start, beside what is done before it is asked; what goes wrong is told when it is.

        Raises:
            EngineError: it can't be started.
        """
        directory = EngineDirectory.of(spec)
        held = next((item for item in self._held if item.used and item.folder == directory.path.name), None)
        if held is not None:
            if not (held.waited_for or ahead):
                ensure_engine(spec)
                held.waited_for = True
            return
        if spec.alone:
            self.let_go(spec.serves)
        elif spec.serves == "answers":
            # One that was started with other settings, whose memory this one needs.
            stop_all(self.home, self.owner, here=True, serves=spec.serves, but=directory, spare_used=True)
        lease = Lease(directory)
        try:
            launch_engine(spec) if ahead else ensure_engine(spec)
        except BaseException:
            lease.close()
            raise
        self._held.append(_Held(directory.path.name, spec.serves, True, lease, waited_for=not ahead))

    def keep_found(self) -> None:
        """Keep the engines that an earlier step has left on this device until they are let go; who needs it may end them."""
        for record in self._running():
            lease = Lease(EngineDirectory(home_folder(self.home) / record.folder), uses=False)
            self._held.append(_Held(record.folder, record.serves, False, lease))

    def let_go(self, serves: str | None = None) -> None:
        """Renew the leases of engines no more: of those that serve this, or of all."""
        for held in self._held:
            if serves in (None, held.serves):
                held.lease.close(self._handover)
        self._held = [held for held in self._held if serves not in (None, held.serves)]

    def free_device(self) -> None:
        """End the run's engines on this device, a killed driver's as well, each as soon as no other step uses it."""
        self.let_go()
        told = False
        while True:
            stop_all(self.home, self.owner, here=True, spare_used=True)
            left = self._running()
            if not left:
                return
            if not told:
                _log.info(
                    "waiting until no other step uses the engine on this device; its log: %s", left[0].log
                )
                told = True
            time.sleep(0.5)

    def end(self) -> None:
        """End the run's engines on this device at once, one that is starting as well."""
        self.let_go()
        stop_all(self.home, self.owner, here=True)

    def _running(self) -> list[EngineRecord]:
        found = running_engines(self.home)
        return [item for item in found if item.owner == self.owner and on_device(item.device)]
