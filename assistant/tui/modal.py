"""What every screen over the conversation has: it closes once, however fast the keys come."""

from __future__ import annotations

from typing import TypeVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen

Result = TypeVar("Result")


class Modal(ModalScreen[Result]):
    """A screen that can be dismissed once.

    A second Enter, typed before the screen is gone, would else return a second result, and close the screen below.
    """

    CSS_PATH = "screens.tcss"

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        """Close the screen with a result, if it is still on top."""
        return super().dismiss(result) if self.is_active else AwaitComplete.nothing()  # type: ignore[no-untyped-call]
