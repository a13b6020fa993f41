"""The first process of an engine's process group: it starts the server and takes the group with it.

`python -m pipelines.engines.warden FD FOLDER SOCKET COMMAND…` runs between supervisor and server, in a session of its own. It
holds the reading end of a pipe whose other end only the supervisor has. When the supervisor dies, by SIGKILL too,
the pipe ends, and the warden kills its whole group: the API server, EngineCore and the workers, which stay in the group
they were started in. The same when the server dies, since an API server that is killed leaves its EngineCore
behind, holding the device (vllm issue 55510). The server's folder of temporary files and its socket go as well. It imports nothing heavy.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys

from pipelines.engines.processes import kill_members


def main(arguments: list[str]) -> None:
    """Run the command until it or the supervisor ends, then kill the own process group, the warden included."""
    pipe, temporary, socket, command = int(arguments[0]), arguments[1], arguments[2], arguments[3:]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = os.pidfd_open(server.pid)
    ready, _, _ = select.select([pipe, ended], [], [])
    if ended in ready:
        status = server.wait()
        print(f"warden: the server ended with status {status}", file=sys.stderr, flush=True)
    kill_members(os.getpgrp(), but=os.getpid(), wait_seconds=float("inf"))
    shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
