"""The report of `ftdoctor preflight`: a section per part, a tick per check, one remedy line per finding.

✓ environment
    ✓ gpus      8 x NVIDIA A100-SXM4-80GB, driver 570.86
! config  1 warning
    ! config.yml:31  Axolotl does not know these keys and drops them without a word: lora_rank (did you mean lora_r?).
                     try: rename it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftdoctor.faces import patch
from ftdoctor.faces.page import Options, Page
from ftdoctor.faces.terminal import cells, wrap
from ftdoctor.findings import SEVERITIES, Evidence, Finding

MARKS = {"error": ("failing", "bad"), "warning": ("suspicious", "warn"), "info": ("info", "dim")}
STATES = {
    "good": ("healthy", "good"), "bad": ("failing", "bad"), "note": ("info", "dim"), "absent": ("unknown", "dim"),
    "crashed": ("unknown", "warn"), "timed_out": ("suspicious", "warn"),
}  # fmt: skip
Line = tuple[str, str, str, str]  # state, name, text, remedy


def render(
    title: str, sections: Mapping[str, tuple[Sequence[Line], Sequence[Finding]]], options: Options | None = None
) -> str:
    """The report; `sections` maps a section's name to its checks and its findings, in the order to be shown."""
    page = Page(options or Options())
    for line in wrap(page.clean(title), page.width):
        page.line((line, "strong"))
    for name, (lines, findings) in sections.items():
        page.gap()
        _section(page, name, lines, findings)
    page.gap()
    page.line((_verdict([f for _, found in sections.values() for f in found]), "strong"))
    return page.text()


def _section(page: Page, name: str, lines: Sequence[Line], findings: Sequence[Finding]) -> None:
    worst = min((SEVERITIES.index(f.severity) for f in findings), default=len(SEVERITIES))
    glyph, style = MARKS[SEVERITIES[worst]] if worst < 2 else ("healthy", "good")
    if name != "config" and worst >= 2 and lines and all(state == "absent" for state, *_ in lines) and not findings:
        glyph, style = "unknown", "dim"
    page.line((f"{page.glyph(glyph)} ", style), (name, "strong"), (f"  {count(findings)}" if findings else "", "dim"))
    width = max((cells(n) for _, n, _, _ in lines), default=0)
    for state, label, text, remedy in lines:
        glyph, style = STATES[state]
        _row(page, page.glyph(glyph), style, label.ljust(width), text, remedy)
    for finding in findings:
        glyph, style = MARKS[finding.severity]
        where = next((_place(e) for e in finding.evidence if e.kind in ("config", "fact") and e.line_first), "")
        _row(page, page.glyph(glyph), style, where, finding.message, remedy_of(finding), finding.id)


def _place(evidence: Evidence) -> str:
    """File name and line; the folder is the reader's own."""
    return f"{Path(evidence.path).name}:{evidence.line_first}"


def _row(page: Page, mark: str, style: str, label: str, text: str, remedy: str, aside: str = "") -> None:
    lead = f"  {mark} "
    prefix = f"{label}  " if label else ""
    if cells(prefix) > page.width // 3:
        page.line((lead, style), (label, "path"), (f"  {aside}" if aside else "", "dim"))
        lead, prefix, aside = "    ", "", ""
    pad = " " * (cells(lead) + cells(prefix))
    for number, line in enumerate(wrap(page.clean(text), page.width - len(pad)) or [""]):
        if number:
            page.line((pad, ""), (line, ""))
        else:
            page.line((lead, style), (prefix, "path"), (line, ""))
    if aside:
        page.line((pad, ""), (aside, "dim"))
    if remedy:
        for line in wrap(page.clean(f"try: {remedy}"), page.width - len(pad)):
            page.line((pad, ""), (line, "strong"))


def remedy_of(finding: Finding) -> str:
    """The first fix in one line."""
    if not finding.fixes:
        return ""
    fix = finding.fixes[0]
    if fix.config_patch:
        return f"{fix.title}: {patch.short(fix)}"
    if fix.command:
        return f"{fix.title}: {fix.command}".split("\n", 1)[0]
    return fix.title


def count(findings: Sequence[Finding]) -> str:
    """`1 error, 2 warnings`."""
    told = []
    for severity in SEVERITIES:
        number = sum(f.severity == severity for f in findings)
        word = {"error": "error", "warning": "warning", "info": "note"}[severity]
        if number:
            told.append(f"{number} {word}{'s' if number > 1 else ''}")
    return ", ".join(told)


def _verdict(findings: Sequence[Finding]) -> str:
    if any(f.severity == "error" for f in findings):
        return f"Not ready: {count(findings)}."
    if any(f.severity == "warning" for f in findings):
        return f"It will start; look at what is marked first: {count(findings)}."
    return "Ready." if not findings else f"Ready: {count(findings)}."
