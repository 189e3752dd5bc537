"""Keeps a Python process on this machine, from its first line on: put this folder on PYTHONPATH.

What invents requests also invents where they lead to. Nothing of that leaves the machine: names are
not asked for, and connections to anything but loopback are refused before they begin.
"""

import ipaddress
import socket
import sys


def _fence(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
        host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if isinstance(host, str) and host != "localhost" and not _is_address(host):
            raise socket.gaierror(socket.EAI_NONAME, "no names are asked for in this test")
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not str(address[0]).startswith("127."):
            raise ConnectionRefusedError(f"this test may not talk to {address[0]}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


sys.addaudithook(_fence)
