"""MCP over stdin and stdout without a thread: what a client sends is read when it is there, an answer is written at
once. The SDK's own transport hands every line to a thread and back, three times a call: a fifth of what a read costs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import stat
import termios
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

BLOCK = 65_536  # bytes read at once
MOST_WAITING = 64  # lines; while more of them wait, none is read
SURE_BYTES = 4096  # what takes anything takes so much without making its writer wait


def serve_pipes(server: MCPServer[Any]) -> None:
    """Serves until the client closes stdin."""
    if can_be_watched(0):
        anyio.run(_serve, server)
    else:
        server.run()  # a file: only a thread can wait for it


def can_be_watched(descriptor: int) -> bool:
    """Whether the kernel says when there is something to read: of pipes, sockets and terminals it does."""
    with select.epoll() as watch:
        try:
            watch.register(descriptor, select.EPOLLIN)
        except OSError:
            return False
    return True


async def _serve(server: MCPServer[Any]) -> None:
    lines = Lines(_taken(0, os.open(os.devnull, os.O_RDONLY)))
    answers = Answers(_taken(1, _stderr()), lines.end)
    inner = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # no public way to streams of one's own
    await inner.run(lines, answers, inner.create_initialization_options())


def _taken(descriptor: int, instead: int) -> int:
    """The stream, for this module alone: its old number leads elsewhere, so that no child and no print meets it."""
    own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(instead, descriptor)
    os.close(instead)
    return own


def _stderr() -> int:
    try:
        return os.dup(2)
    except OSError:  # it is closed
        return os.open(os.devnull, os.O_WRONLY)


class _Stream:
    async def aclose(self) -> None:
        """Nothing more is read or written."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


class Lines(_Stream):
    """The messages of a client; in place of one that cannot be read, what is wrong with it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._whole: deque[bytes] = deque()
        self._pieces: list[bytes] = []  # of a line that has not ended
        self._reader: asyncio.Future[None] | None = None  # who waits for a line
        self._is_watched = self._has_ended = False
        self._watch()

    async def receive(self) -> SessionMessage | Exception:
        """The next message; raises EndOfStream after the last."""
        while not self._whole:
            if self._has_ended:
                raise anyio.EndOfStream
            self._reader = self._loop.create_future()
            await self._reader
        line = self._whole.popleft()
        if not self._is_watched and not self._has_ended and len(self._whole) < MOST_WAITING:
            self._watch()
        try:
            message = jsonrpc_message_adapter.validate_json(line.decode("utf-8", errors="replace"), by_name=False)
        except ValueError as error:  # no JSON, or no message: the SDK decides what to do about it
            return error
        return SessionMessage(message)

    def end(self) -> None:
        """The client has gone: what is read already is the last."""
        self._has_ended = True
        self._unwatch()
        self._wake()

    async def aclose(self) -> None:
        self._whole.clear()
        self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def _watch(self) -> None:
        self._is_watched = True
        self._loop.add_reader(self._descriptor, self._read)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._descriptor)

    def _read(self) -> None:
        try:
            block = os.read(self._descriptor, BLOCK)
        except BlockingIOError:  # whoever shares it was quicker
            return
        except OSError:  # a terminal that was closed
            block = b""
        first, *others = block.split(b"\n")
        self._pieces.append(first)
        for piece in others:
            self._whole.append(b"".join(self._pieces))
            self._pieces = [piece]
        if not block:
            if last := b"".join(self._pieces):
                self._whole.append(last)
            self.end()
        elif self._whole:
            if len(self._whole) >= MOST_WAITING:
                self._unwatch()
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Answers(_Stream):
    """Messages to a client, each one line."""

    def __init__(self, descriptor: int, is_gone: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._is_gone = is_gone
        self._turn = asyncio.Lock()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        kind = os.fstat(descriptor).st_mode
        self._socket = socket.socket(fileno=descriptor) if stat.S_ISSOCK(kind) else None
        self._pipe_bytes = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) if stat.S_ISFIFO(kind) else 0

    async def send(self, item: SessionMessage, /) -> None:
        """Writes it. Where the client does not read, a thread waits for it; no line is ever left in part."""
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        async with self._turn:
            try:
                left = self._write_ready(memoryview(line))
                if left:
                    await anyio.to_thread.run_sync(self._write_all, left)
            except OSError:
                self._is_gone()
                raise anyio.BrokenResourceError from None

    def _write_ready(self, data: memoryview) -> memoryview:
        """What could not be written without waiting."""
        # The stream is not made non-blocking: it may be shared with others, who would be surprised.
        if self._socket is not None:
            with suppress(BlockingIOError):
                while data:
                    data = data[self._socket.send(data, socket.MSG_DONTWAIT) :]
            return data
        while data and self._poll.poll(0):
            data = data[os.write(self._descriptor, data[: self._sure_bytes()]) :]
        return data

    def _sure_bytes(self) -> int:
        """What is taken without waiting by a pipe that takes anything: all that it holds where it is empty."""
        if not self._pipe_bytes:
            return SURE_BYTES
        waiting = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
        return SURE_BYTES if any(waiting) else self._pipe_bytes

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]
