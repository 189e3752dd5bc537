"""Commands that are imported when they run, so that ``--help`` is immediate."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command, or a group of commands.

    Attributes:
        name: what users type.
        source: module and name of the function or the ``Typer``.
        help: the first line of its help.
        hidden: whether ``--help`` omits it.
    """

    name: str
    source: str
    help: str
    hidden: bool = False

    def load(self) -> Any:
        """Import it and return what runs it."""
        module, _, attribute = self.source.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            loaded: Any = typer.main.get_group(found)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(self.name, hidden=self.hidden)(found)
            loaded = typer.main.get_command(single)
        loaded.name = self.name
        return loaded


def group_of(entries: Sequence[Entry]) -> type[TyperGroup]:
    """Return a group of these commands, in their order, for ``typer.Typer(cls=...)``."""
    by_name = {entry.name: entry for entry in entries}

    class LazyGroup(TyperGroup):
        """Lists the commands without importing them."""

        def __init__(self, **attributes: Any) -> None:
            listed = {
                each.name: TyperCommand(each.name, help=each.help, hidden=each.hidden)
                for each in entries
            }
            super().__init__(**{**attributes, "commands": listed})

        def list_commands(self, ctx: Any) -> list[str]:
            """Return the names in the order of the entries."""
            return list(self.commands)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """Import the command that the arguments name."""
            name, command, rest = super().resolve_command(ctx, args)
            return name, command and by_name[command.name or ""].load(), rest

    return LazyGroup
