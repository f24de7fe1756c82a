"""The terminal chat. The only place where Textual appears; torch is imported once the screen stands."""

from assistant.tui.app import ChatApp, check_terminal, run_chat

__all__ = ["ChatApp", "check_terminal", "run_chat"]
