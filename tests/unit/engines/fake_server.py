"""A server at vLLM's HTTP protocol that misbehaves on purpose: `fake_server.py SOCKET STATE_DIR [FLAG…]`.

The first token of a prompt says what happens; see `answer`. Marker files in STATE_DIR outlive a restart.
"""

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

SOCKET, STATE = sys.argv[1], Path(sys.argv[2])
tempfile.mkstemp()  # what vLLM's own sockets are: nobody removes it when the server is killed
adapters: set[str] = set()
in_flight = 0


def once(name: str) -> bool:
    """True the first time in the life of the state directory."""
    try:
        (STATE / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def error(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"message": message}}).encode()


def compute(seconds: float) -> None:
    """Keep the server busy, so that it answers nobody."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def answer(body: dict) -> tuple[int, bytes] | None:
    model, prompt = body["model"], body["prompt"]
    if model != "base" and model not in adapters:
        return error(404, f"The model `{model}` does not exist.")
    if "prompt_logprobs" in body:
        shift = 0.0 if model == "base" or "same" in model else 0.5
        places = [None, *({str(token): {"logprob": -1.0 - shift}} for token in prompt[1:])]
        return 200, json.dumps({"choices": [{"prompt_logprobs": places}]}).encode()
    match prompt[0]:
        case 2 if once(f"dropped-{body['seed']}"):
            return None
        case 3:
            return 200, b"{not json" + b"!" * body["seed"]
        case 4:
            await asyncio.sleep(0.05)
            with (STATE / "company").open("a") as stream:
                stream.write(f"{body['seed']}:{in_flight}\n")
            os._exit(1)
        case 5 if once("hung"):
            time.sleep(1000)  # noqa: ASYNC251 (a hang is what is wanted)
        case 6 if once("died"):
            await asyncio.sleep(0.05)
            os._exit(1)
        case 7:
            return error(500, "this row always fails")
        case 8:
            return 200, b"[" * 5000
        case 9:
            return 400, b"[" * 3000
        case 10:
            compute(3.0)
        case 12 if once("spun"):
            compute(1000.0)
        case 400:
            return error(400, f"bad row {body['seed']}")
        case 413:
            return error(400, "This model's maximum context length is 64 tokens.")
    await asyncio.sleep(0.01)
    with (STATE / "asked").open("a") as stream:
        stream.write(f"{body['seed']}\n")
    (STATE / "most").write_text(str(max(in_flight, int((STATE / "most").read_text() or 0))))
    usage = {"prompt_tokens": len(prompt), "completion_tokens": 3}
    return 200, json.dumps(
        {"choices": [{"text": f"{model} {body['seed']}", "finish_reason": "stop"}], "usage": usage}
    ).encode()


def verdict(url: str, body: dict) -> tuple[int, bytes]:
    """What a classifier says of a pair: a tenth of how many words or tokens there are; what was asked is kept."""
    asked = body["input"] if url.endswith("/classify") else [body["queries"], body["documents"]]
    with (STATE / "pairs").open("a") as stream:
        stream.write(json.dumps(asked) + "\n")
    size = sum(len(text.split()) for text in asked) if url.endswith("/score") else len(asked)
    if "unreadable" in asked:
        return 400, b'{"message": "Out of range float values are not JSON compliant"}'  # as of a NaN
    if body["use_activation"]:
        return error(400, "these are to be logits")
    told = {"score": size / 10} if url.endswith("/score") else {"probs": [size / 10]}
    return 200, json.dumps({"data": [told]}).encode()


def chat(body: dict) -> tuple[int, bytes]:
    """What a guard says of a response: as safe as it is long, in tenths of its words; what was asked is kept."""
    with (STATE / "chats").open("a") as stream:
        stream.write(json.dumps(body) + "\n")
    words = len(body["messages"][-1]["content"].split())
    if words >= 10:
        return error(400, "This model's maximum context length is 64 tokens.")
    ways = [
        {"token": "safe", "logprob": math.log(words / 10)},
        {"token": "unsafe", "logprob": math.log(1 - words / 10)},
    ]
    place = {"token": "safe", "top_logprobs": ways}
    return 200, json.dumps({"choices": [{"logprobs": {"content": [place]}}]}).encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global in_flight
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.splitlines()
                    if line.lower().startswith("content-length")
                ),
                0,
            )
            body = json.loads(await reader.readexactly(length)) if length else {}
            url = head.split()[1]
            reply: tuple[int, bytes] | None = (404, b"{}")
            if url.endswith("/health"):
                reply = (200, b"")
            elif url.endswith("/v1/load_lora_adapter"):
                if body["lora_name"] == "stuck" or (body["lora_name"] == "stuck-once" and once("stuck")):
                    await asyncio.sleep(1000)
                adapters.add(body["lora_name"])
                with (STATE / "loads").open("a") as stream:
                    stream.write(body["lora_name"] + "\n")
                reply = (200, b"ok")
            elif url.endswith("/v1/completions"):
                in_flight += 1
                reply = await answer(body)
                in_flight -= 1
            elif url.endswith("/v1/chat/completions"):
                reply = chat(body)
            elif url.endswith(("/score", "/classify")):
                reply = verdict(url, body)
            if reply is None:
                break
            writer.write(
                f"HTTP/1.1 {reply[0]} X\r\nContent-Length: {len(reply[1])}\r\n\r\n".encode() + reply[1]
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main() -> None:
    print("fake server starts", flush=True)
    STATE.mkdir(exist_ok=True)
    (STATE / "most").touch()
    with (STATE / "starts").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    if "child" in sys.argv:
        subprocess.Popen(  # noqa: ASYNC220
            [
                sys.executable,
                "-c",
                "import time, subprocess; subprocess.Popen(['sleep','999']); time.sleep(999)",
            ]
        )
    if "shares" in sys.argv:  # made, and mapped by nobody, as between two of a starting engine's processes
        block = SharedMemory(create=True, size=16)
        (STATE / "shared").write_text(f"/dev/shm/{block.name}")
        block.close()
    if "broken" in sys.argv:
        raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")
    if "slow" in sys.argv:
        await asyncio.sleep(2)
    while "held" in sys.argv and not (STATE / "go").exists():
        await asyncio.sleep(0.05)
    server = await asyncio.start_unix_server(serve, SOCKET)
    await server.serve_forever()


asyncio.run(main())
