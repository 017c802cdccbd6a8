"""The report a tired engineer reads at night: the verdict first, then why, then what to change.

    ✗ FAILING  A GPU ran out of memory  cuda-oom
               rank 3 of 8, step 412 of 1000

      Rank 3 asked for 2.25 GiB on GPU 3 (79.15 GiB in total).

      seen     logs/rank3.log:1012
               │ torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB ...

      fix      Halve the micro batch and keep the effective batch
               - micro_batch_size: 4
               + micro_batch_size: 2

Lines never exceed the width, and nothing from a log reaches the terminal raw: `page` and `terminal` see to it.
"""

from __future__ import annotations

import shlex

from ftdoctor.diagnosis.fixes import in_words
from ftdoctor.faces import patch, story
from ftdoctor.faces.page import INDENT, LABEL, MAX_TEXT, Options, Page
from ftdoctor.faces.terminal import cells, cut_around, cut_end, cut_path, wrap
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix

MARKS = {"error": "failing", "warning": "suspicious", "info": "info"}
COLORS = {"failing": "bad", "suspicious": "warn", "healthy": "good", "unknown": "warn"}


def render(diagnosis: Diagnosis, options: Options | None = None) -> str:
    """The report, with a newline at the end."""
    page = Page(options or Options())
    root = story.root_of(diagnosis) if diagnosis.verdict in ("failing", "suspicious") else None
    if root is not None:
        _headline(page, diagnosis, root)
        _body(page, root, story.can_apply(diagnosis, root))
        _consequences(page, diagnosis, root)
    else:
        lead = f"{page.glyph(diagnosis.verdict)} {diagnosis.verdict.upper()}  "
        page.line((lead, COLORS[diagnosis.verdict]), (story.HEADLINES.get(diagnosis.verdict, ""), "strong"))
        page.gap()
        for label, text in story.progress(diagnosis.run):
            page.labelled(label, text)
        sources = diagnosis.run.sources
        most = len(sources) if page.options.verbose or len(sources) <= 4 else 3
        for number, source in enumerate(sources[:most]):
            page.labelled_path("" if number else "read", source, "")
        if len(sources) > most:
            page.labelled("", f"and {len(sources) - most} more", "dim")
        if diagnosis.verdict == "unknown":
            for number, advice in enumerate(story.ADVICE):
                page.labelled("" if number else "give it", advice)
    _others(page, diagnosis, root)
    _footer(page, diagnosis)
    return page.text()


def _headline(page: Page, diagnosis: Diagnosis, root: Finding) -> None:
    style = COLORS[diagnosis.verdict]
    lead = f"{page.glyph(diagnosis.verdict)} {diagnosis.verdict.upper()}  "
    room = page.width - cells(lead)
    title, name = wrap(page.clean(root.title), room), page.clean(root.id)
    fits = cells(title[-1]) + 2 + cells(name) <= room
    for number, line in enumerate(title):
        last = fits and number == len(title) - 1
        page.line(
            (" " * cells(lead) if number else lead, style), (line, "strong"), (f"  {name}" if last else "", "dim")
        )
    known = ", ".join(([] if fits else [name]) + story.place(root, diagnosis.run))
    for line in wrap(page.clean(known), room) if known else ():
        page.line((" " * cells(lead), ""), (line, "dim"))


def _body(page: Page, finding: Finding, applicable: bool) -> None:
    page.gap()
    for line in wrap(page.clean(finding.message[:MAX_TEXT]), page.width - len(INDENT)):
        page.line((INDENT, ""), (line, ""))
    page.gap()
    _evidence(page, finding.evidence)
    if finding.why:
        page.gap()
        page.labelled("why", finding.why)
    if page.options.fixes and finding.fixes:
        page.gap()
        _fixes(page, finding.fixes, applicable)


def _evidence(page: Page, evidence: tuple[Evidence, ...]) -> None:
    groups = [[item] for item in evidence] if page.options.verbose else story.alike(evidence)
    most = len(groups) if page.options.verbose else 3
    for number, group in enumerate(groups[:most]):
        page.labelled_path("" if number else "seen", story.location(group[0]) or group[0].kind)
        for line in _excerpt(page, group[0]):
            page.line((" " * (len(INDENT) + LABEL), ""), (page.glyph("bar") + " ", "dim"), (line, ""))
        if len(group) > 1:
            lines = [item.line_first for item in group[1:]]
            page.labelled("", f"and the like in line{'s' if len(lines) > 1 else ''} {story.ranges(lines)}", "dim")
    if len(groups) > most:
        page.labelled("", f"and {len(groups) - most} more (-v)", "dim")


def _excerpt(page: Page, item: Evidence) -> list[str]:
    """The quoted lines: long ones cut in the middle, many thinned to the first and the last."""
    most_lines, most_rows = (40, 12) if page.options.verbose else (6, 4)
    quoted = [line for line in page.clean(item.excerpt[: 64 * MAX_TEXT]).split("\n") if line.strip()]
    if len(quoted) > most_lines:
        left_out = len(quoted) - most_lines + 1
        quoted = [
            *quoted[: most_lines // 2],
            f"{page.glyph('dots')} {left_out} lines",
            *quoted[len(quoted) - most_lines // 2 + 1 :],
        ]
    if len(quoted) == 1:
        quoted = [quoted[0].strip()]
    room = page.width - len(INDENT) - LABEL - cells(page.glyph("bar")) - 1
    dots, focus, columns = page.glyph("dots"), page.clean(item.focus), item.kind in ("metric", "gpu")
    rows: list[str] = []
    for line in quoted:
        budget = room * (most_rows if len(quoted) < 3 else 1)
        while len(wrapped := wrap(cut_around(line, budget, focus, dots), room, True, columns)) > most_rows:
            budget = budget * 9 // 10
        rows += wrapped
    return rows


def _fixes(page: Page, fixes: tuple[Fix, ...], applicable: bool = False) -> None:
    for number, fix in enumerate(fixes):
        page.labelled("or" if number else "fix", fix.title, "" if number else "strong")
        if number and not page.options.verbose:
            _alternative(page, fix)
            continue
        for name, lines in patch.diff(fix):
            if name != patch.FILES["axolotl"]:
                page.labelled("", f"in the {name}:", "dim")
            for line in lines:
                page.diff(line.sign, line.text)
        page.shell([f"export {key}={shlex.quote(value)}" for key, value in fix.env.items()])
        page.shell([f"$ {command}" for command in fix.command.split("\n") if command.strip()])
        if fix.note:
            page.labelled("", fix.note)
        if fix.cost:
            page.labelled("", f"costs: {fix.cost}", "dim")
        if applicable and not number:
            page.labelled("", "--apply-fix OUT.yml writes this to a copy of the YAML", "dim")
    if any(in_words(value) for fix in fixes for value in fix.config_patch.values()):
        page.labelled("", "give the YAML with --config for the exact values", "dim")


def _alternative(page: Page, fix: Fix) -> None:
    """A further remedy, in as few lines as tell what to do."""
    if fix.config_patch:
        page.labelled("", patch.short(fix).replace("->", page.glyph("to")), "dim")
    elif fix.env or fix.command:
        page.shell([f"export {key}={shlex.quote(value)}" for key, value in fix.env.items()], "dim")
        page.shell([f"$ {fix.command}"] if fix.command else [], "dim")
    elif fix.note:
        page.labelled("", fix.note, "dim")


def _consequences(page: Page, diagnosis: Diagnosis, root: Finding) -> None:
    folded = story.consequences(diagnosis, root.id)
    if not folded:
        return
    page.gap()
    page.line((INDENT + "and because of it:", ""))
    for finding in folded:
        page.entry(page.glyph("then"), "dim", finding.title, _aside(finding))
        if page.options.verbose:
            _details(page, finding)


def _aside(finding: Finding) -> str:
    known = story.ranks(finding)
    return f"{finding.id}, {known}" if known else finding.id


def _others(page: Page, diagnosis: Diagnosis, root: Finding | None) -> None:
    found = story.others(diagnosis, root)
    if not found:
        return
    page.gap()
    page.line((INDENT + ("also found:" if root is not None else "to know:"), ""))
    most = len(found) if page.options.verbose else 6
    for finding in found[:most]:
        mark = page.glyph(MARKS[finding.severity])
        page.entry(mark, finding.severity, finding.title, _aside(finding))
        _details(page, finding)
        for folded in story.consequences(diagnosis, finding.id):
            page.entry(f"  {page.glyph('then')}", "dim", folded.title, _aside(folded))
    if len(found) > most:
        page.line((f"{INDENT}{INDENT}and {len(found) - most} more (-v)", "dim"))


def _details(page: Page, finding: Finding) -> None:
    pad = INDENT * 2 + "  "
    room = page.width - len(pad)
    lines = wrap(page.clean(finding.message[:MAX_TEXT]), room)
    if not page.options.verbose and len(lines) > 2:
        lines = [lines[0], cut_end(lines[1] + " " + lines[2], room, page.glyph("dots"))]
    for line in lines:
        page.line((pad, ""), (line, ""))
    if page.options.verbose:
        with page.indented(len(pad) - len(INDENT)):
            _evidence(page, finding.evidence)
            if page.options.fixes:
                _fixes(page, finding.fixes)
        return
    if finding.severity == "info":
        return
    if finding.evidence and finding.evidence[0].path:
        page.line(
            (pad, ""), (cut_path(page.clean(story.location(finding.evidence[0])), room, page.glyph("dots")), "path")
        )
    if page.options.fixes and finding.fixes:
        page.line((pad, ""), (cut_end(page.clean(f"fix: {finding.fixes[0].title}"), room, page.glyph("dots")), ""))


def _footer(page: Page, diagnosis: Diagnosis) -> None:
    verbose = page.options.verbose
    page.gap()
    absent = story.not_judged(diagnosis.outcomes)
    if absent:
        page.note("not judged", absent + ("" if verbose else "; -v lists them"), "dim")
    for outcome in diagnosis.outcomes if verbose else ():
        if outcome.outcome == "not_evaluated":
            page.entry("-", "dim", outcome.id, outcome.reason or "no input for it")
    for outcome in story.crashed(diagnosis.outcomes):
        page.note(
            "crashed",
            f"rule {outcome.id} ({outcome.reason}): a bug in it or in ftdoctor; the others were judged",
            "error",
        )
    skipped = diagnosis.run.skipped
    most = len(skipped) if verbose else 5
    for text in skipped[:most]:
        page.note("skipped", text, "warning")
    if len(skipped) > most:
        page.note("skipped", f"{len(skipped) - most} more inputs (-v)", "warning")
