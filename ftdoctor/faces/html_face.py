"""The diagnosis as one HTML file: no script, no network, for a screen of any width, dark or light, and for paper.

Everything that comes from a log is cleaned and escaped; a content security policy forbids scripts and loads besides.
"""

from __future__ import annotations

import html
import shlex
import time
from collections.abc import Sequence

from ftdoctor.faces import patch, story
from ftdoctor.faces.curves import Curve
from ftdoctor.faces.html_plot import plot
from ftdoctor.faces.terminal import cut_middle, printable
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix
from ftdoctor.version import __version__

SIGNS = {"failing": "✗", "suspicious": "!", "healthy": "✓", "unknown": "?"}
MAX_LINES = 60
MAX_LINE = 1000
STYLE = """
:root { color-scheme: light dark; --bg:#fbfbfa; --card:#fff; --panel:#f2f4f6; --text:#24292f; --dim:#5d6570;
  --line:#d9dde2; --accent:#3948a8; --bad:#b3261e; --warn:#8a5a00; --good:#1f7a3a; --info:#1d5f99; --on:#fff;
  --del:#fbe9e7; --ins:#e6f4ea }
@media (prefers-color-scheme: dark) { :root { --bg:#14171c; --card:#191d23; --panel:#21262e; --text:#d7dae0;
  --dim:#969dab; --line:#343a44; --accent:#9db4ff; --bad:#f2777a; --warn:#e5b567; --good:#8fc986; --info:#7fb0d8;
  --on:#14171c; --del:#3a2326; --ins:#20331f } }
* { box-sizing: border-box }
body { margin:0; background:var(--bg); color:var(--text); font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;
  overflow-wrap:anywhere }
main { max-width:68rem; margin:0 auto; padding:1.5rem 1rem 3rem }
header { display:flex; flex-wrap:wrap; gap:.4rem .8rem; align-items:baseline; margin-bottom:1.2rem }
h1 { font-size:1.5rem; line-height:1.25; margin:0; flex:1 1 20rem }
h2 { font-size:1.15rem; line-height:1.3; margin:0 0 .2rem }
h3 { font-size:.8rem; letter-spacing:.06em; text-transform:uppercase; color:var(--accent); margin:1.2rem 0 .4rem }
p { margin:.4rem 0; max-width:46rem }
.verdict { color:var(--on); border-radius:.4rem; padding:.1rem .7rem; font-weight:700; font-size:.95rem;
  letter-spacing:.04em; text-transform:uppercase }
.failing,.error { --mark:var(--bad) } .suspicious,.warning { --mark:var(--warn) }
.healthy { --mark:var(--good) } .info { --mark:var(--info) } .unknown { --mark:var(--dim) }
.verdict { background:var(--mark) }
.dim { color:var(--dim); font-size:.9rem }
section { background:var(--card); border:1px solid var(--line); border-left:4px solid var(--mark,var(--line));
  border-radius:.5rem; padding:1rem 1.2rem; margin:0 0 1rem }
section.because { margin-left:1.5rem }
.severity { color:var(--mark); font-weight:700 }
code, pre { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; font-size:.84rem }
pre { background:var(--panel); border-radius:.4rem; padding:.6rem .8rem; margin:.3rem 0 .8rem; overflow-x:auto;
  white-space:pre-wrap }
pre b { color:var(--text) } pre.quote { color:var(--dim) }
.diff span { display:block; padding:0 .3rem } .del { background:var(--del); color:var(--bad) }
.ins { background:var(--ins); color:var(--good) }
table { border-collapse:collapse; width:100% } td,th { text-align:left; padding:.3rem .8rem .3rem 0; vertical-align:top;
  border-top:1px solid var(--line) } tr:first-child>* { border-top:0 }
th { color:var(--dim); font-weight:400; width:7rem }
.plots { display:grid; grid-template-columns:repeat(auto-fit,minmax(18rem,1fr)); gap:1rem }
figure { margin:0 } figcaption { font-size:.9rem } figcaption b { margin-right:.5rem } svg { width:100%; height:auto }
svg text { font:11px ui-monospace,Menlo,Consolas,monospace; fill:var(--dim) } svg .limit { fill:var(--warn) }
details { margin:.8rem 0 } summary { cursor:pointer; color:var(--dim) } ul { padding-left:1.2rem }
footer { color:var(--dim); font-size:.85rem; margin-top:2rem }
@media (max-width:40rem) { main { padding:1rem .7rem } section { padding:.8rem .9rem }
  section.because { margin-left:.6rem }
  th { width:4.5rem } }
@media print { :root { --bg:#fff; --card:#fff; --panel:#f5f5f5; --text:#000; --dim:#444; --line:#bbb; --accent:#223;
  --bad:#a00; --warn:#750; --good:#060; --info:#036; --on:#fff; --del:#fdecea; --ins:#eaf6ec }
  body { font-size:10.5pt } main { max-width:none; padding:0 } section, figure, pre { break-inside:avoid }
  section.long { break-inside:auto } * { print-color-adjust:exact; -webkit-print-color-adjust:exact } }
"""


def render(
    diagnosis: Diagnosis,
    curves: Sequence[Curve] = (),
    run: str = "",
    fixes: bool = True,
    stages: Sequence[tuple[str, str, str]] = (),
) -> str:
    """The whole file. `run` names what was read; `stages` of a pipeline: name, status and what is to be said."""
    root = story.root_of(diagnosis) if diagnosis.verdict in ("failing", "suspicious") else None
    verdict = diagnosis.verdict
    title = root.title if root is not None else story.HEADLINES.get(verdict, "")
    parts = [
        '<!doctype html>\n<!-- ftdoctor report -->\n<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(f'{verdict}: {title}')}</title><style>{STYLE}</style></head><body><main>",
        f'<header class="{verdict}"><span class="verdict">{SIGNS[verdict]} {verdict}</span><h1>{text(title)}</h1>'
        f'<div class="dim">{text(run)}</div></header>',
    ]
    parts += _stages(stages)
    told = [_finding(f, diagnosis, fixes, because, f is root) for f, because in story.ordered(diagnosis)]
    drawn = [plot(curve) for curve in curves if curve.ys]
    metrics = [f'<section><h3>Metrics</h3><div class="plots">{"".join(drawn)}</div></section>'] if drawn else []
    # first what is wrong, then what it looks like; of a healthy run, what it did
    parts += [*told[:1], *metrics, *told[1:], *_run(diagnosis)] if root else [*_run(diagnosis), *metrics, *told]
    parts += _unjudged(diagnosis)
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    parts.append(f"<footer>ftdoctor {text(__version__)}, {stamp}</footer></main></body></html>")
    return "\n".join(parts) + "\n"


def text(value: str) -> str:
    """Text that shows as itself, whatever it holds."""
    return html.escape(printable(value), quote=True)


def _path(value: str) -> str:
    return text(value).replace("/", "/<wbr>")


def _run(diagnosis: Diagnosis) -> list[str]:
    rows = story.progress(diagnosis.run)
    sources = diagnosis.run.sources
    rows += [("read" if not n else "", path) for n, path in enumerate(sources[:8])]
    if len(sources) > 8:
        rows.append(("", f"and {len(sources) - 8} more"))
    rows += [("skipped" if not n else "", said) for n, said in enumerate(diagnosis.run.skipped[:20])]
    if not rows:
        rows = [("give it" if not n else "", advice) for n, advice in enumerate(story.ADVICE)]
    cells = "".join(f"<tr><th>{text(label)}</th><td>{_path(value)}</td></tr>" for label, value in rows)
    return [f"<section><table>{cells}</table></section>"]


def _stages(stages: Sequence[tuple[str, str, str]]) -> list[str]:
    """The table of a pipeline."""
    if not stages:
        return []
    mood = {"done": "healthy", "failed": "error"}
    rows = "".join(
        f'<tr><th>{text(name)}</th><td class="{mood.get(status, "unknown")}"><span class="severity">{text(status)}'
        f"</span> {_path(told)}</td></tr>"
        for name, status, told in stages
    )
    return [f"<section><h3>Stages</h3><table>{rows}</table></section>"]


def _finding(finding: Finding, diagnosis: Diagnosis, fixes: bool, because: bool, opens: bool) -> str:
    known = [f"<code>{text(finding.id)}</code>", *(text(part) for part in story.place(finding, diagnosis.run))]
    if finding.explained_by:
        known.append(f"because of <code>{text(finding.explained_by)}</code>")
    if finding.state == "survived":
        known.append("the run went on")
    parts = [
        f'<section class="{finding.severity}{" because" if because else ""}{" long" if opens else ""}">',
        "" if opens else f"<h2>{text(finding.title)}</h2>",  # it is the page's title
        f'<div class="dim"><span class="severity">{finding.severity}</span> · {" · ".join(known)}</div>',
        f"<p>{text(finding.message)}</p>",
    ]
    groups = story.alike(finding.evidence)
    if groups:
        parts.append("<h3>Seen</h3>")
    for group in groups:
        parts.append(_evidence(group[0]))
        if len(group) > 1:
            lines = story.ranges(item.line_first for item in group[1:])
            parts.append(f'<p class="dim">and the like in line {text(lines)}</p>')
    if fixes:
        for number, fix in enumerate(finding.fixes):
            parts.append(f"<h3>{'Or' if number else 'Fix'}</h3>" + _fix(fix))
    if finding.why:
        parts.append(f"<h3>Why</h3><p>{text(finding.why)}</p>")
    return "".join([*parts, "</section>"])


def _evidence(item: Evidence) -> str:
    where = story.location(item)
    lines = [cut_middle(line, MAX_LINE) for line in printable(item.excerpt[:65536]).split("\n") if line.strip()]
    shown = "\n".join(lines[:MAX_LINES]) + (
        f"\n… {len(lines) - MAX_LINES} more lines" if len(lines) > MAX_LINES else ""
    )
    focus = printable(item.focus)
    at = shown.find(focus) if focus else -1
    if at >= 0:
        end = at + len(focus)
        body = f"{html.escape(shown[:at])}<b>{html.escape(shown[at:end])}</b>{html.escape(shown[end:])}"
    else:
        body = html.escape(shown)
    return (f"<code>{_path(where)}</code>" if where else "") + (f'<pre class="quote">{body}</pre>' if shown else "")


def _fix(fix: Fix) -> str:
    parts = [f"<p><b>{text(fix.title)}</b></p>"]
    for name, lines in patch.diff(fix):
        rows = "".join(
            f"<span{_CLASS.get(line.sign, '')}>{html.escape(f'{line.sign} {printable(line.text)}')}</span>"
            for line in lines
        )
        parts.append(f'<div class="dim">{text(name)}</div><pre class="diff">{rows}</pre>')
    shell = [f"export {key}={shlex.quote(value)}" for key, value in fix.env.items()] + (
        [fix.command] if fix.command else []
    )
    if shell:
        parts.append(f"<pre>{text(chr(10).join(shell))}</pre>")
    parts += [
        f'<p class="dim">{text(said)}</p>' for said in (fix.note, f"Costs: {fix.cost}" if fix.cost else "") if said
    ]
    return "".join(parts)


_CLASS = {"-": ' class="del"', "+": ' class="ins"'}


def _unjudged(diagnosis: Diagnosis) -> list[str]:
    parts = []
    absent = story.not_judged(diagnosis.outcomes)
    if absent:
        rows = "".join(
            f"<li><code>{text(o.id)}</code>: {text(o.reason or 'no input for it')}</li>"
            for o in diagnosis.outcomes
            if o.outcome == "not_evaluated"
        )
        parts.append(f"<details><summary>Not judged: {text(absent)}</summary><ul>{rows}</ul></details>")
    parts += [
        f'<p class="error">Crashed rule <code>{text(o.id)}</code>: {text(o.reason)}</p>'
        for o in story.crashed(diagnosis.outcomes)
    ]
    return parts
