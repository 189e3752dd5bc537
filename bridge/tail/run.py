"""Joins follower and output, until there is no more to do or nobody to do it for."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from typing import TextIO

import trio
from rich.console import Console
from rich.text import Text

from bridge.tail.follower import Follower, Gap, Message, StreamEvent, TailError
from bridge.tail.lines import terminal_line, visible
from bridge.tasks import first_error

_STDOUT = 1
_STDERR = 2


class Output:
    """Standard output for events, standard error for what happens to the stream.

    Args:
        as_json: print messages as they came, on a terminal, too.

    Raises:
        TailError: there is nowhere to print to.
    """

    def __init__(self, *, as_json: bool) -> None:
        # A shell's >&- leaves us without one.
        if sys.stdout is None or sys.stderr is None:
            raise TailError("standard output or standard error is closed")
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
        # Not the console's answer: FORCE_COLOR makes it say that a pipe is a terminal.
        self._on_terminal = sys.stdout.isatty()
        self._as_json = as_json or not self._on_terminal

    async def event(self, event: StreamEvent) -> None:
        """Print an event."""
        if self._as_json:
            await self._print_json(event.text)
        else:
            with self._console.capture() as captured:
                self._console.print(terminal_line(event), no_wrap=True, overflow="ellipsis")
            await _write(_STDOUT, _encoded(captured.get(), sys.stdout))

    async def gap(self, gap: Gap) -> None:
        """Say that events are missing, where events are read as where people read."""
        if gap.available_from > gap.since + 1:
            what = f"events {gap.since + 1} to {gap.available_from - 1} are not in the log any more"
        else:
            what = (
                f"there is no event {gap.since} yet: another database, or an older state of it; "
                f"going on at {gap.available_from}"
            )
        await self.say(f"gap: {what}", style="bold red")
        if self._as_json:
            await self._print_json(gap.text)

    async def say(self, line: str, style: str = "dim") -> None:
        """Print a line on standard error."""
        with self._errors.capture() as captured:
            self._errors.print(Text(f"pgbridge: {visible(line)}", style), soft_wrap=True)
        await _write(_STDERR, _encoded(captured.get(), sys.stderr))

    async def reader_left(self) -> None:
        """Wait until nobody reads standard output any more; for ever if that cannot be known."""
        if stat.S_ISFIFO(os.fstat(_STDOUT).st_mode):
            # There is never anything to read: a pipe's writing end wakes only for its other end.
            await trio.lowlevel.wait_readable(_STDOUT)
        else:
            await trio.sleep_forever()

    async def _print_json(self, text: str) -> None:
        line = visible(text) if self._on_terminal else text
        await _write(_STDOUT, f"{line}\n".encode())


class OutputClosedError(Exception):
    """Nobody reads what is printed."""


async def tail(follower: Follower, output: Output, count: int | None) -> None:
    """Print what the follower gets, until so many events, SIGINT, SIGTERM or a closed pipe.

    Raises:
        TailError: as the follower does, or nothing can be printed.
    """
    # What it logs is what the follower tells.
    logging.getLogger("trio-websocket").setLevel(logging.CRITICAL)
    refusal: BaseException | None = None
    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                sending, receiving = trio.open_memory_channel[Message](0)
                nursery.start_soon(_end_with_signal, signals, nursery.cancel_scope)
                nursery.start_soon(_end_with_reader, output, nursery.cancel_scope)
                nursery.start_soon(follower.run, sending)
                await _print_messages(receiving, output, count)
                nursery.cancel_scope.cancel()
    except* OutputClosedError:
        pass
    except* TailError as errors:
        # Not raising in here: some Pythons wrap what is raised in an except* into a group.
        refusal = first_error(errors)
    if refusal is not None:
        raise refusal


async def _print_messages(
    messages: trio.MemoryReceiveChannel[Message], output: Output, count: int | None
) -> None:
    printed = 0
    async for message in messages:
        match message:
            case StreamEvent():
                await output.event(message)
                printed += 1
                if printed == count:
                    return
            case Gap():
                await output.gap(message)
            case _:
                await output.say(message.line)


async def _end_with_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


async def _end_with_reader(output: Output, scope: trio.CancelScope) -> None:
    await output.reader_left()
    scope.cancel()


def _encoded(text: str, stream: TextIO) -> bytes:
    return text.encode(stream.encoding, "backslashreplace")


async def _write(descriptor: int, data: bytes) -> None:
    """Write everything, past Python's buffers, which would be flushed once more at the exit.

    In a thread: whoever reads may take his time, and a signal has to be heard meanwhile.
    """
    try:
        await trio.to_thread.run_sync(_write_all, descriptor, data, abandon_on_cancel=True)
    except BrokenPipeError:
        raise OutputClosedError from None
    except OSError as error:
        raise TailError(f"cannot print: {error.strerror}") from None


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
