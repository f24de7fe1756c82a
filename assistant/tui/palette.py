"""The command palette: our commands first, in the order of the keys' list, then Textual's."""

from __future__ import annotations

from textual.await_complete import AwaitComplete
from textual.command import CommandPalette, DiscoveryHit, Hits
from textual.system_commands import SystemCommandsProvider
from textual.widgets import Input

from assistant.escape import visible


class ChatCommands(SystemCommandsProvider):
    """Offers the app's commands in the app's order. Textual's own provider sorts them by name."""

    async def discover(self) -> Hits:
        """List all commands, before the person has typed anything."""
        for command in self.app.get_system_commands(self.screen):
            yield DiscoveryHit(command.title, command.callback, help=command.help)


class Palette(CommandPalette):
    """Textual's palette. A second Enter, typed before it is gone, does nothing."""

    def __init__(self) -> None:
        super().__init__(id="--command-palette")  # by which Textual knows that it is open

    def on_mount(self) -> None:
        """Show pasted control characters as pictures, as `LineInput` does."""
        setattr(self.query_one(Input), "validate_value", visible)  # noqa: B010  Textual makes this field itself

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Let nobody else handle an Enter that comes too late."""
        if not self.is_active:
            event.prevent_default()

    def dismiss(self, result: object = None) -> AwaitComplete:
        """Close the palette, if it is still on top."""
        del result
        return super().dismiss() if self.is_active else AwaitComplete.nothing()  # type: ignore[no-untyped-call]
