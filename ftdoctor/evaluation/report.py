"""The evaluation as one HTML page: no scripts, no outside resources, readable in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ftdoctor.evaluation.compare import Judged
from ftdoctor.evaluation.suite import Prompt
from ftdoctor.findings import Diagnosis

STYLE = """
:root{color-scheme:light dark;
--bg:#fbfaf8;
--ink:#1d1d1f;
--soft:#6b6b70;
--line:#e4e2dd;
--card:#fff;
--bad:#b3261e;
--badbg:#fdecea;
--good:#1b6e3c;
--goodbg:#e8f5ec;
--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--bg:#161618;
--ink:#ececee;
--soft:#9a9aa2;
--line:#303036;
--card:#1e1e22;
--bad:#ff8a80;
--badbg:#3a1d1b;
--good:#7ddc9d;
--goodbg:#17301f;
--warn:#f2c063}
}
*{overflow-wrap:anywhere;box-sizing:border-box}
body{margin:0;
background:var(--bg);
color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;
margin:0 auto;
padding:40px 24px 80px}
h1{font-size:28px;
margin:0 0 4px}
h2{font-size:18px;
margin:40px 0 12px}
.soft{color:var(--soft)}
.grid{display:grid;
gap:16px;
grid-template-columns:repeat(auto-fit,minmax(280px,1fr))}
.card{background:var(--card);
border:1px solid var(--line);
border-radius:12px;
padding:16px 18px;
min-width:0}
.big{font-size:30px;
font-weight:650;
letter-spacing:-.02em}
.bad{color:var(--bad)}
.good{color:var(--good)}
.warn{color:var(--warn)}
.chip{display:inline-block;
border-radius:99px;
padding:1px 10px;
font-size:13px;
margin:2px 4px 2px 0}
.chip.bad{background:var(--badbg)}
.chip.good{background:var(--goodbg)}
pre{white-space:pre-wrap;
overflow-wrap:anywhere;
font:14px/1.5 ui-monospace,Menlo,Consolas,monospace;
margin:10px 0 0;
max-height:320px;
overflow:auto}
article{border-top:1px solid var(--line);
padding:22px 0}
.ask{font-weight:600;
white-space:pre-wrap;
margin-bottom:2px}
article .grid{margin-top:12px}
ul{margin:6px 0 0;
padding-left:20px}
table{border-collapse:collapse}
th{text-align:left;
font-weight:600}
td,th{padding:3px 24px 3px 0}
.num{text-align:right;
font-variant-numeric:tabular-nums}
code{font-family:ui-monospace,Menlo,Consolas,monospace;
font-size:.9em}
"""


def render(
    results: Sequence[Judged],
    diagnoses: Sequence[Diagnosis],
    prompts: Sequence[Prompt],
    made: dict[str, Any],
    table: Sequence[dict[str, Any]] = (),
) -> str:
    """The page; answers are escaped, whatever they hold."""
    how = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in made.items() if k != "chat_template")
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>ftdoctor evaluate</title><style>{STYLE}</style><main><h1>Evaluation</h1>",
        f"<div class=soft>{len(prompts)} prompts · {escape(how)}</div><h2>Models</h2><div class=grid>",
        *(_summary(r) for r in results),
        "</div>",
        # what was tuned last comes first; the base is there to compare with
        *(_findings(r, d) for r, d in reversed(list(zip(results, diagnoses)))),  # noqa: B905 - same lengths
        _lm_eval(table),
        "<h2>Answers, side by side</h2>",
        *(_prompt(i, p, results) for i, p in enumerate(prompts)),
        "</main></html>\n",
    ]
    return "\n".join(parts)


def _summary(result: Judged) -> str:
    made, total = result.generation, len(result.judgements)
    mood = "bad" if result.broken or made.died or not total else "good"
    chips = "".join(f"<span class='chip bad'>{escape(k)} {n}</span>" for k, n in result.counts().most_common())
    where = escape(made.model + (f" + adapter {made.adapter}" if made.adapter else ""))
    info = " · ".join(escape(str(made.info[k])) for k in ("device", "dtype") if k in made.info)
    died = f"<div class=bad>{escape(made.died)}</div>" if made.died else ""
    numbers = []
    if result.perplexity is not None:
        numbers.append(f"perplexity {result.perplexity:.3g} of {made.measured['reference']['rows']} references")
    if result.drift is not None:
        numbers.append(f"length {result.drift:.2g} x the reference")
    info += "".join(f"<br>{escape(n)}" for n in numbers)
    same = f"<div class=warn>{len(result.same)} identical answers to different prompts</div>" if result.same else ""
    return (
        f"<div class=card><b>{escape(made.name)}</b>"
        f"<div class='big {mood}'>{total - result.broken} of {total} healthy</div>"
        f"<div class=soft><code>{where}</code><br>{info}</div>{chips}{same}{died}</div>"
    )


def _lm_eval(table: Sequence[dict[str, Any]]) -> str:
    if not table:
        return ""
    rows = "".join(
        f"<tr><td>{escape(r['task'])}<td>{escape(r['metric'])}<td class=num>{r['value']:.4f}"
        f"<td class=num>{'' if r['stderr'] is None else '± ' + format(r['stderr'], '.4f')}"
        for r in table
    )
    return f"<h2>lm-eval</h2><div class=card><table><tr><th>task<th>metric<th>value<th>error{rows}</table></div>"


def _findings(result: Judged, diagnosis: Diagnosis) -> str:
    if not diagnosis.findings:
        return ""
    items = []
    base = result.generation.name == "base"
    for finding in diagnosis.findings:
        fixes = "".join(
            f"<li>{escape(f.title)} <span class=soft>{escape(f.note or f.command)}</span>"
            for f in (() if base else finding.fixes)
        )
        mood = "bad" if finding.severity == "error" else "warn"
        why = f"<p class=soft>{escape(finding.why)}</p>" if finding.explained_by is None and not base else ""
        items.append(
            f"<div class=card><b class={mood}>{escape(finding.title)}</b> <code class=soft>{escape(finding.id)}</code>"
            f"<div>{escape(finding.message)}</div>{why}<ul>{fixes}</ul></div>"
        )
    name = escape(result.generation.name) + (", for comparison" if base else "")
    return f"<h2>Findings: {name}</h2><div class=grid>{''.join(items)}</div>"


def _prompt(index: int, prompt: Prompt, results: Sequence[Judged]) -> str:
    asked = "\n".join(m["content"] if m["role"] == "user" else f"[{m['role']}] {m['content']}" for m in prompt.messages)
    cells = []
    for result in results:
        answer, found = result.answers.get(index), result.judgements.get(index)
        if answer is None or found is None:
            cells.append(
                f"<div class=card><b>{escape(result.generation.name)}</b><pre class=soft>no answer</pre></div>"
            )
            continue
        chips = "".join(
            f"<span class='chip bad' title='{escape(why, quote=True)}'>{escape(k)}</span>"
            for k, why in found.reasons.items()
        )
        chips = chips or "<span class='chip good'>healthy</span>"
        reasons = "".join(f"<div class=soft>{escape(why)}</div>" for why in found.reasons.values())
        ended = "cut at the limit" if answer.cut else "ended by itself"
        cells.append(
            f"<div class=card><b>{escape(result.generation.name)}</b> <span class=soft>{ended}</span>"
            f"<br>{chips}{reasons}"
            f"<pre>{escape(answer.output) or '(empty)'}</pre></div>"
        )
    how = "most likely tokens" if prompt.seed is None else f"sampled, seed {prompt.seed}"
    right = f"<div class=soft>reference: {escape(prompt.reference)}</div>" if prompt.reference else ""
    return (
        f"<article><div class=soft>{index + 1} · {escape(prompt.kind)} · {how}</div>"
        f"<div class=ask>{escape(asked)}</div>{right}"
        f"<div class=grid>{''.join(cells)}</div></article>"
    )
