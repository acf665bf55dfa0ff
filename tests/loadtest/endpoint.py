"""A small real endpoint with OpenAI's streaming surface, for tests of the load generator.

`python -m tests.loadtest.endpoint [--ttft-ms 20] [--tpot-ms 2] ...` prints its port on the first
line. How it answers follows its options; a prompt may ask for a fault by the word `fault:NAME`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from typing import Any

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"server: endpoint-under-test\r\n\r\n"
)


def event(payload: dict[str, Any] | str) -> bytes:
    """Frame one event as one chunk."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def unary(status: int, payload: dict[str, Any]) -> bytes:
    """Write a whole JSON answer."""
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Endpoint:
    """Answers with `ttft_s`, then one chunk per token every `tpot_s`; at most `slots` at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.ttft_s = options.ttft_ms / 1000
        self.tpot_s = options.tpot_ms / 1000
        self.video_s = options.video_ms / 1000
        self.slots = asyncio.Semaphore(options.slots) if options.slots else None
        self.jobs: dict[str, float] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *fields = head.decode().split("\r\n")
                method, path, _ = line.split(" ")
                length = 0
                for field in fields:
                    name, _, value = field.partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                body = await reader.readexactly(length)
                page = json.loads(body) if body else {}
                if not await self.answer(method, path, page, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def answer(
        self, method: str, path: str, page: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False closes the connection."""
        path = path.removeprefix("/v1")
        if path.startswith("/videos"):
            self.video(method, path, writer)
        elif path == "/models":
            writer.write(unary(200, {"data": [{"id": "any", "object": "model"}]}))
        elif path == "/health":
            writer.write(unary(200, {"status": "ok"}))
        elif method == "POST":
            return await self.generate(page, path, writer)
        else:
            writer.write(unary(404, {"error": {"message": "no such page"}}))
        await writer.drain()
        return True

    def video(self, method: str, path: str, writer: asyncio.StreamWriter) -> None:
        """Create a job, or tell whether its time has come."""
        now = asyncio.get_running_loop().time()
        if method == "POST":
            job = f"video_{len(self.jobs)}"
            self.jobs[job] = now + self.video_s
            writer.write(unary(200, {"id": job, "status": "queued"}))
            return
        job = path.rsplit("/", 1)[-1]
        status = "completed" if now >= self.jobs[job] else "in_progress"
        writer.write(unary(200, {"id": job, "status": status}))

    async def generate(self, page: dict[str, Any], path: str, writer: asyncio.StreamWriter) -> bool:
        """Stream tokens, or the fault that the prompt asks for."""
        prompt = json.dumps(page.get("messages") or page.get("prompt") or "")
        fault = prompt.partition("fault:")[2].partition(" ")[0].strip('"}]')
        if fault in ("429", "500", "503"):
            writer.write(unary(int(fault), {"error": {"message": f"as asked: {fault}"}}))
            await writer.drain()
            return True
        if fault == "close":
            return False
        if self.slots is None:
            return await self.stream(page, path, writer, fault)
        async with self.slots:
            return await self.stream(page, path, writer, fault)

    async def stream(
        self, page: dict[str, Any], path: str, writer: asyncio.StreamWriter, fault: str
    ) -> bool:
        """Send the frames of one completion."""
        loop = asyncio.get_running_loop()
        tokens = int(page.get("max_tokens") or 16)
        chat = path.startswith("/chat")
        writer.write(HEAD)
        if fault == "error":
            writer.write(event({"error": {"message": "queue is full", "code": 503}}))
            writer.write(event("[DONE]") + b"0\r\n\r\n")
            return True
        if chat:
            writer.write(event({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}))
        due = loop.time() + self.ttft_s
        one: dict[str, Any] = {"delta": {"content": "x "}} if chat else {"text": "x "}
        frame = event({"id": "c", "choices": [{"index": 0, "finish_reason": None, **one}]})
        for count in range(tokens):
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += self.tpot_s
            writer.write(frame)
            if fault == "cut" and count == tokens // 2:
                return False
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        reason = "abort" if fault == "abort" else "length"
        writer.write(event({"choices": [{"index": 0, "finish_reason": reason, **last}]}))
        if (page.get("stream_options") or {}).get("include_usage"):
            said = tokens - 2 if fault == "miscount" else tokens
            usage = {"prompt_tokens": 7, "completion_tokens": said, "total_tokens": said + 7}
            writer.write(event({"choices": [], "usage": usage}))
        if fault != "undone":
            writer.write(event("[DONE]"))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def serve(options: argparse.Namespace) -> None:
    """Serve on loopback until killed."""
    endpoint = Endpoint(options)
    server = await asyncio.start_server(endpoint.connected, "127.0.0.1", options.port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-ms", type=float, default=20)
    parser.add_argument("--tpot-ms", type=float, default=2)
    parser.add_argument("--video-ms", type=float, default=50)
    parser.add_argument("--slots", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
