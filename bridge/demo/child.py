"""Run the bridge as a child process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

START_SECONDS = 20
#: The bridge stops within ten seconds of SIGTERM; allow a little more on a busy machine.
STOP_SECONDS = 12
_TAIL_LINES = 15


class BridgeError(Exception):
    """The bridge failed. The message says how."""


def forget_outside_settings() -> None:
    """Delete the user's bridge and libpq variables from this process's environment.

    PGPORT, for example, would affect the embedded PostgreSQL and its clients.
    """
    for name in list(os.environ):
        # PGSERVER_ variables select the embedded PostgreSQL.
        of_libpq = name.startswith("PG") and not name.startswith("PGSERVER_")
        if of_libpq or name.startswith("BRIDGE_") or name == "DATABASE_URL":
            del os.environ[name]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return a child's environment: this process's environment and these settings."""
    child = {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}
    root = Path(__file__).resolve().parents[2]
    if not root.name.endswith("-packages"):
        # A checkout is imported from the current directory, which differs in a child.
        child["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), child.get("PYTHONPATH")]))
    return child


def free_port() -> int:
    """Return an unused port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def init(settings: Mapping[str, str], directory: Path) -> None:
    """Run ``pgbridge init --create-roles``.

    Raises:
        BridgeError: it failed; the message contains the end of its output.
    """
    done = await trio.run_process(
        [*_command("init"), "--create-roles"],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env=environment(settings),
        cwd=directory,
        start_new_session=True,
    )
    if done.returncode != 0:
        words = _tail(done.stdout.decode(errors="replace"))
        raise BridgeError(f"pgbridge init ended with {_status(done.returncode)}{words}")


class Bridge:
    """A running ``pgbridge run``. Each method raises ``BridgeError`` with the end of its log."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def serving(self) -> None:
        """Wait until it serves."""
        assert self._process.stdout is not None  # noqa: S101 - it was opened with a pipe
        with trio.move_on_after(START_SECONDS):
            async for chunk in self._process.stdout:
                if b"\n" in chunk:
                    return
            await self.watch()
        raise self._error(f"did not serve within {START_SECONDS} s")

    async def watch(self) -> None:
        """Wait until it ends by itself, which is an error."""
        status = await self._process.wait()
        raise self._error(f"ended with {_status(status)}")

    async def stop(self) -> None:
        """Stop it and wait."""
        self._process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            status = await self._process.wait()
            if status != 0:
                raise self._error(f"stopped with {_status(status)}")
            return
        raise self._error(f"did not stop within {STOP_SECONDS} s")

    def _error(self, what: str) -> BridgeError:
        log = self._log.read_text(errors="replace")
        return BridgeError(f"the bridge {what}{_tail(log)}")


@asynccontextmanager
async def bridge(settings: Mapping[str, str], directory: Path) -> AsyncIterator[Bridge]:
    """Run ``pgbridge run`` during the context.

    Raises:
        BridgeError: it did not start, or did not stop at the end.
    """
    log = directory / "bridge.log"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            _command("run"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environment(settings),
            cwd=directory,
            # Ctrl-C signals the whole process group; only the demo may stop the bridge.
            start_new_session=True,
        )
    running = Bridge(process, log)
    try:
        await running.serving()
        yield running
        await running.stop()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "bridge", name]


def _status(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _tail(text: str) -> str:
    """Return the last lines of an output, to append to a message."""
    lines = text.strip().splitlines()[-_TAIL_LINES:]
    return "".join(f"\n  {line}" for line in lines)
