"""The first process of an engine's process group: it starts the server and takes the group with it.

`python -m pipelines.engines.warden FD FOLDER COMMAND…` runs between supervisor and server, in a session of its own. It
holds the reading end of a pipe whose other end only the supervisor has. When the supervisor dies, by SIGKILL too,
the pipe ends, and the warden kills its whole group: the API server, EngineCore and the workers, which stay in the group
they were started in. The same when the server dies, since an API server that is killed leaves its EngineCore
behind, holding the device (vllm issue 55510). The server's folder of temporary files goes as well. It imports nothing heavy.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time

from pipelines.engines.processes import members, shared_memory


def main(arguments: list[str]) -> None:
    """Run the command until it or the supervisor ends, then kill the own process group, the warden included."""
    pipe, temporary, command = int(arguments[0]), arguments[1], arguments[2:]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(server.pid)
    ready, _, _ = select.select([pipe, ended], [], [])
    if ended in ready:
        status = server.wait()
        print(f"warden: the server ended with status {status}", file=sys.stderr, flush=True)
    group = os.getpgrp()
    for path in shared_memory(members(group)):
        path.unlink(missing_ok=True)
    while others := [item for item in members(group) if item.pid != os.getpid()]:
        for item in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(item.pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(temporary, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
