"""The diagnosis as GitHub-flavoured markdown, for an issue or a pull request.

Log text stands in fences longer than any run of backticks in it; every other text is escaped, so that neither HTML
nor links, mentions or issue references come out of a log.
"""

from __future__ import annotations

import html
import platform
import re
import shlex

from ftdoctor.faces import patch, story
from ftdoctor.faces.terminal import cut_middle, printable
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix
from ftdoctor.version import __version__

SIGNS = {"failing": "❌", "suspicious": "⚠️", "healthy": "✅", "unknown": "❔"}
MAX_EXCERPT = 4000
MAX_EVIDENCE = 5
# `_` inside a word and `-` inside a line are plain
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[-+#=]")


def render(diagnosis: Diagnosis, fixes: bool = True) -> str:
    """The whole text."""
    root = story.root_of(diagnosis) if diagnosis.verdict in ("failing", "suspicious") else None
    title = inline(root.title) if root else story.HEADLINES.get(diagnosis.verdict, "")
    parts = [f"### {SIGNS[diagnosis.verdict]} {diagnosis.verdict}: {title}" + (f" ({code(root.id)})" if root else "")]
    if root is not None:
        where = ", ".join(story.place(root, diagnosis.run))
        parts.append(inline(root.message) + (f"  \n<sub>{inline(where)}</sub>" if where else ""))
        parts += _evidence(root)
        if root.why:
            parts.append(f"**Why.** {inline(root.why)}")
        if fixes:
            parts += _fixes(root.fixes)
    rows = [f"| {label} | {inline(text)} |" for label, text in story.progress(diagnosis.run)]
    if rows:
        parts.append("\n".join(["| run | |", "|---|---|", *rows]))
    parts += _table(diagnosis)
    parts += _unjudged(diagnosis)
    parts.append(f"<sub>ftdoctor {__version__}, Python {platform.python_version()}, {platform.system()}</sub>")
    return "\n\n".join(parts) + "\n"


def inline(text: str) -> str:
    """Text that shows as itself: no markup, no HTML, no mention, no reference; one line, fit for a table cell."""
    text = " ".join(printable(text).split())
    text = html.escape(_SPECIAL.sub(r"\\\g<0>", text), quote=False)
    return _parted(re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", text))


def _parted(text: str) -> str:
    """Mentions, references and addresses are such by their signs; an empty comment parts these without showing."""
    return re.sub(r"([@#]|GH-)(?=\w)", r"\1<!-- -->", text).replace("://", ":<!-- -->//")


def code(text: str) -> str:
    """Inline code, whatever the text holds."""
    text = " ".join(printable(text).split()).replace("|", "¦")
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}" if text else ""


def fence(text: str, language: str = "text") -> str:
    """A fenced block that its content cannot close."""
    text = printable(text).rstrip("\n")
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def _evidence(finding: Finding) -> list[str]:
    parts = []
    for item in finding.evidence[:MAX_EVIDENCE]:
        where = story.location(item)
        parts.append((f"{code(where)}\n\n" if where else "") + fence(_cut(item)))
    if len(finding.evidence) > MAX_EVIDENCE:
        parts.append(f"and {len(finding.evidence) - MAX_EVIDENCE} more")
    return parts


def _cut(item: Evidence) -> str:
    lines = printable(item.excerpt[:65536]).split("\n")
    return "\n".join(cut_middle(line, MAX_EXCERPT // max(1, min(len(lines), 20))) for line in lines[:60])


def _fixes(fixes: tuple[Fix, ...]) -> list[str]:
    parts = []
    for number, fix in enumerate(fixes):
        parts.append(
            f"**{'Or' if number else 'Fix'}: {inline(fix.title.rstrip('.'))}.**"
            + (f" {inline(fix.note)}" if fix.note else "")
        )
        for name, lines in patch.diff(fix):
            body = "\n".join(f"{line.sign} {line.text}".rstrip() for line in lines)
            parts.append(
                (f"In the {inline(name)}:\n\n" if name != patch.FILES["axolotl"] else "") + fence(body, "diff")
            )
        shell = [f"export {key}={shlex.quote(value)}" for key, value in fix.env.items()] + (
            [fix.command] if fix.command else []
        )
        if shell:
            parts.append(fence("\n".join(shell), "sh"))
        if fix.cost:
            parts.append(f"Costs: {inline(fix.cost)}")
    return parts


def _table(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.findings:
        return []
    rows = ["| severity | finding | where | ranks | because of |", "|---|---|---|---|---|"]
    for finding in diagnosis.findings:
        where = story.location(finding.evidence[0]) if finding.evidence else ""
        ranks = story.ranks(finding).removeprefix("ranks ").removeprefix("rank ")
        title = f"{inline(finding.title)} {code(finding.id)}"
        cells = (finding.severity, title, code(where), inline(ranks), code(finding.explained_by or ""))
        rows.append(f"| {' | '.join(cells)} |")
    body = [f"{code(f.id)}: {inline(f.message)}" for f in diagnosis.findings]
    summary = f"<summary>all findings ({len(diagnosis.findings)})</summary>"
    return ["\n\n".join(["<details>\n" + summary, "\n".join(rows), *body, "</details>"])]


def _unjudged(diagnosis: Diagnosis) -> list[str]:
    parts = []
    absent = story.not_judged(diagnosis.outcomes)
    if absent:
        summary = _parted(html.escape(" ".join(printable(absent).split()), quote=False))  # no markdown inside of HTML
        rows = [
            f"- {code(o.id)}: {inline(o.reason or 'no input for it')}"
            for o in diagnosis.outcomes
            if o.outcome == "not_evaluated"
        ]
        parts.append(
            "\n\n".join(
                [
                    f"<details>\n<summary>not judged: {summary}</summary>",
                    "\n".join(rows),
                    "</details>",
                ]
            )
        )
    parts += [f"**Crashed rule** {code(o.id)}: {inline(o.reason)}" for o in story.crashed(diagnosis.outcomes)]
    skipped = diagnosis.run.skipped
    if skipped:
        parts.append("**Skipped**\n\n" + "\n".join(f"- {inline(text)}" for text in skipped[:50]))
    return parts
