"""The prompt for a screen reader: nothing that stands there is painted again."""

from __future__ import annotations

from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.layout.layout import Layout
from prompt_toolkit.output import Output
from prompt_toolkit.renderer import CPR_Support, Renderer


class QuietRenderer(Renderer):
    """Adds what is typed and leaves a finished line as it is.

    The other one asks where the cursor is, fills the screen down to its last row,
    and paints a line anew when it is sent: a screen reader would read it again.
    """

    def __init__(self, old: Renderer, output: Output) -> None:
        super().__init__(old.style, output)
        self.cpr_support = CPR_Support.NOT_SUPPORTED

    def render(self, app: Application[Any], layout: Layout, is_done: bool = False) -> None:
        app.exit_style = ""  # the whole line would look different
        super().render(app, layout)
        if not is_done:
            return
        screen = self.last_rendered_screen
        below = screen.height - 1 - self._cursor_pos.y if screen is not None else 0
        self.output.write_raw("\r\n" * (below + 1))
        self.output.flush()
        self.reset()
