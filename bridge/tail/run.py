"""Print what a follower receives until the end, a signal or a closed pipe."""

import logging
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable

import trio
from rich.console import Console, OverflowMethod
from rich.text import Text

from bridge.tail.follower import Follower, TailError
from bridge.tail.lines import terminal_line
from bridge.tail.messages import Gap, Message, Notice, StreamEvent
from bridge.tasks import ungrouped
from bridge.terminal.output import Terminal
from bridge.terminal.visible import visible

_STDOUT = 1


class Output:
    """Events on standard output, notices on standard error.

    Args:
        as_json: print the original messages on a terminal too.

    Raises:
        TailError: standard output or standard error is closed.
    """

    def __init__(self, *, as_json: bool) -> None:
        # As after >&- in a shell.
        if sys.stdout is None or sys.stderr is None:
            raise TailError("standard output or standard error is closed")
        self._console = Terminal()
        self._errors = Terminal(stderr=True)
        # Do not ask the console: with FORCE_COLOR it takes a pipe for a terminal.
        self._as_json = as_json or not sys.stdout.isatty()

    async def show(self, message: Message) -> None:
        """Print a message. A gap is reported on standard error and, as JSON, among the events."""
        match message:
            case Notice():
                await self._say(message.line, "dim")
                return
            case Gap():
                await self._say(f"gap: {_explain(message)}", "bold red")
            case _ if not self._as_json:
                await _print(self._console, terminal_line(message), "ellipsis")
        if self._as_json:
            await _write(_STDOUT, f"{visible(message.text)}\n".encode())

    async def reader_left(self) -> None:
        """Wait until the reader of a pipe on standard output leaves; forever if it is no pipe."""
        if stat.S_ISFIFO(os.fstat(_STDOUT).st_mode):
            # The writing end of a pipe becomes readable only when the reading end closes.
            await trio.lowlevel.wait_readable(_STDOUT)
        else:
            await trio.sleep_forever()

    async def _say(self, line: str, style: str) -> None:
        await _print(self._errors, Text(f"pgbridge: {visible(line)}", style), "ignore")


async def tail(follower: Follower, output: Output, count: int | None) -> None:
    """Print messages until ``count`` events, SIGINT, SIGTERM or a closed pipe.

    Raises:
        TailError: the stream cannot be followed, or printing failed.
    """
    # The follower reports the same errors.
    logging.getLogger("trio-websocket").setLevel(logging.CRITICAL)
    try:
        with ungrouped(), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                sending, receiving = trio.open_memory_channel[Message](0)
                nursery.start_soon(_cancel_after, signals.__anext__, nursery.cancel_scope)
                nursery.start_soon(_cancel_after, output.reader_left, nursery.cancel_scope)
                nursery.start_soon(follower.run, sending)
                printed = 0
                while printed != count:
                    message = await receiving.receive()
                    await output.show(message)
                    printed += isinstance(message, StreamEvent)
                nursery.cancel_scope.cancel()
    except BrokenPipeError:
        pass  # the reader of the output has left
    except OSError as error:  # the follower handles errors of the connection
        raise TailError(f"cannot print: {error.strerror}") from None


async def _cancel_after(wait: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


def _explain(gap: Gap) -> str:
    if gap.available_from > gap.since + 1:
        return f"events {gap.since + 1} to {gap.available_from - 1} are no longer in the log"
    return (
        f"event {gap.since} does not exist yet: the database is a different one or was restored; "
        f"continuing at {gap.available_from}"
    )


async def _print(console: Console, text: Text, overflow: OverflowMethod) -> None:
    with console.capture() as captured:
        console.print(text, no_wrap=True, overflow=overflow, crop=False)
    data = captured.get().encode(console.encoding, "backslashreplace")
    await _write(console.file.fileno(), data)


async def _write(descriptor: int, data: bytes) -> None:
    """Write everything, bypassing Python's buffers, which would be flushed again at exit.

    A thread writes, so that signals are handled while the reader is slow.
    """
    await trio.to_thread.run_sync(_write_all, descriptor, data, abandon_on_cancel=True)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
