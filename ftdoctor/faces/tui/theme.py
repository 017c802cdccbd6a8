"""Colours: two themes, and the same colours as rich styles for what widgets draw themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual.theme import Theme


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours as `#rrggbb`."""

    bad: str
    warn: str
    good: str
    info: str
    accent: str
    text: str
    dim: str
    faint: str

    def severity(self, name: str) -> str:
        """Colour of a severity or a verdict."""
        return {
            "error": self.bad, "failing": self.bad, "warning": self.warn, "suspicious": self.warn,
            "info": self.info, "healthy": self.good,
        }.get(name, self.dim)  # fmt: skip


DARK = Palette("#f2777a", "#e5b567", "#8fc986", "#7fb0d8", "#9db4ff", "#d7dae0", "#8a919e", "#3d4350")
LIGHT = Palette("#b3261e", "#8a5a00", "#1f7a3a", "#1d5f99", "#3948a8", "#24292f", "#656d76", "#c9ced6")

THEMES = (
    Theme(
        name="ftdoctor-dark", dark=True, primary=DARK.accent, secondary=DARK.info, accent=DARK.accent,
        warning=DARK.warn, error=DARK.bad, success=DARK.good, foreground=DARK.text,
        background="#14171c", surface="#191d23", panel="#21262e",
        variables={"border": DARK.faint, "footer-key-foreground": DARK.accent, "block-cursor-foreground": "#14171c"},
    ),
    Theme(
        name="ftdoctor-light", dark=False, primary=LIGHT.accent, secondary=LIGHT.info, accent=LIGHT.accent,
        warning=LIGHT.warn, error=LIGHT.bad, success=LIGHT.good, foreground=LIGHT.text,
        background="#fbfbfa", surface="#ffffff", panel="#eef0f3",
        variables={"border": LIGHT.faint, "footer-key-foreground": LIGHT.accent},
    ),
)  # fmt: skip


def palette(app: Any) -> Palette:
    """Colours that fit the app's theme, whichever it is."""
    return DARK if app.current_theme.dark else LIGHT
