"""JSON against its published schema, SARIF against the parts of SARIF 2.1.0 that we use, markdown against injection."""

from __future__ import annotations

import dataclasses
import html
import json
import re

import pytest
from face_samples import ALL, FAILING, OOM, RUN
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from test_text_face import content, diagnoses

from ftdoctor.faces import json_face, markdown, sarif
from ftdoctor.faces.schema import diagnosis_schema
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# the parts of the OASIS schema that ftdoctor writes; closed, so that a misspelt property shows
MESSAGE = {
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "string", "minLength": 1}},
}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
LOCATION = {
    "type": "object",
    "required": ["physicalLocation"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "minimum": -1},
        "physicalLocation": {
            "type": "object",
            "required": ["artifactLocation"],
            "additionalProperties": False,
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "required": ["uri"],
                    "additionalProperties": False,
                    "properties": {
                        "uri": {"type": "string", "pattern": r"^[A-Za-z0-9._~!$&'()*+,;=:@%/-]+$"},
                        "uriBaseId": {"const": "SRCROOT"},
                    },
                },
                "region": {
                    "type": "object",
                    "required": ["startLine"],
                    "additionalProperties": False,
                    "properties": {
                        "startLine": {"type": "integer", "minimum": 1},
                        "endLine": {"type": "integer", "minimum": 1},
                        "snippet": {
                            "type": "object",
                            "properties": {"text": {"type": "string"}},
                            "additionalProperties": False,
                        },
                    },
                },
            },
        },
    },
}
RULE = {
    "type": "object",
    "required": ["id", "help", "shortDescription"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "shortDescription": MESSAGE,
        "fullDescription": MESSAGE,
        "help": MESSAGE,
        "defaultConfiguration": {"type": "object", "properties": {"level": LEVEL}, "additionalProperties": False},
        "properties": {"type": "object"},
    },
}
RESULT = {
    "type": "object",
    "required": ["ruleId", "message", "locations", "partialFingerprints"],
    "additionalProperties": False,
    "properties": {
        "ruleId": {"type": "string"},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": LEVEL,
        "message": MESSAGE,
        "locations": {"type": "array", "items": LOCATION, "minItems": 1},
        "relatedLocations": {"type": "array", "items": LOCATION},
        "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
        "occurrenceCount": {"type": "integer", "minimum": 1},
        "properties": {"type": "object"},
    },
}
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string"},
                                    "version": {"type": "string"},
                                    "semanticVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
                                    "rules": {"type": "array", "items": RULE, "uniqueItems": True},
                                },
                            }
                        },
                    },
                    "originalUriBaseIds": {"type": "object"},
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "results": {"type": "array", "items": RESULT},
                    "invocations": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["executionSuccessful"],
                            "additionalProperties": False,
                            "properties": {
                                "executionSuccessful": {"type": "boolean"},
                                "toolExecutionNotifications": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "required": ["message"],
                                        "properties": {"message": MESSAGE, "level": LEVEL},
                                    },
                                },
                            },
                        },
                    },
                    "properties": {"type": "object"},
                },
            },
        },
    },
}


def valid(value: object, schema: dict[str, object]) -> None:
    errors = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in Draft202012Validator(schema).iter_errors(value)]
    assert errors == []


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(diagnosis_schema())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fixes", [True, False])
def test_json_keeps_its_promise(name: str, fixes: bool) -> None:
    data = json.loads(json_face.render(ALL[name], fixes))
    valid(data, diagnosis_schema())
    assert data["verdict"] == ALL[name].verdict
    assert (data["root_cause"] or {}).get("id") == (ALL[name].root_cause.id if ALL[name].root_cause else None)
    if not fixes:
        assert all(f["fixes"] == [] for f in data["findings"])


def test_json_writes_what_json_cannot_hold() -> None:
    data = json.loads(json_face.render(FAILING))
    assert data["run"]["last_metrics"]["grad_norm"] == "NaN"
    odd = dataclasses.replace(
        OOM, step=float("inf"), fixes=(Fix("t", {"axolotl.x": float("nan"), "axolotl.y": {1: {2, 3}}}),)
    )
    data = json.loads(
        json_face.render(Diagnosis(RUN, "failing", odd, (odd,), ())), parse_constant=lambda name: pytest.fail(name)
    )
    assert data["root_cause"]["step"] == "Infinity"
    assert data["root_cause"]["fixes"][0]["config_patch"] == {"axolotl.x": "NaN", "axolotl.y": {"1": [2, 3]}}


@settings(max_examples=100, deadline=None)
@given(diagnoses())
def test_any_diagnosis_is_valid_json_and_safe_to_print(diagnosis: Diagnosis) -> None:
    shown = json_face.render(diagnosis)
    assert not CONTROL.search(shown)
    shown.encode("utf-8")
    valid(json.loads(shown), diagnosis_schema())


@pytest.mark.parametrize("name", ALL)
def test_sarif_is_valid(name: str) -> None:
    data = json.loads(sarif.render(ALL[name]))
    valid(data, SARIF)
    run = data["runs"][0]
    assert [r["ruleId"] for r in run["results"]] == [f.id for f in ALL[name].findings]
    assert all(run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])


def test_sarif_says_where_and_how_bad() -> None:
    results = sarif.as_sarif(FAILING)["runs"][0]["results"]
    assert [r["level"] for r in results] == ["error", "error", "warning", "note"]
    assert results[0]["locations"][0]["physicalLocation"]["artifactLocation"] == {
        "uri": "logs/rank3.log",
        "uriBaseId": "SRCROOT",
    }
    assert results[0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 1012
    assert len(results[1]["relatedLocations"]) == 4
    assert results[1]["properties"]["explainedBy"] == "cuda-oom"


def test_a_fingerprint_survives_new_line_numbers() -> None:
    moved = dataclasses.replace(
        OOM, time=1.0, evidence=(dataclasses.replace(OOM.evidence[0], line_first=5, line_last=5),)
    )
    other = dataclasses.replace(OOM, rank=4)
    assert sarif.fingerprint(moved) == sarif.fingerprint(OOM) != sarif.fingerprint(other)


def test_paths_become_uris(tmp_path: object) -> None:
    assert sarif.uri("<stdin>") == ("stdin", True)
    assert sarif.uri("a b/ü#?.log") == ("a%20b/%C3%BC%23%3F.log", True)
    assert sarif.uri("/elsewhere/x.log") == ("file:///elsewhere/x.log", False)
    assert sarif.uri("a\udcff.log")[0].isascii()


@settings(max_examples=100, deadline=None)
@given(diagnoses())
def test_any_diagnosis_is_valid_sarif(diagnosis: Diagnosis) -> None:
    shown = sarif.render(diagnosis)
    assert not CONTROL.search(shown)
    data = json.loads(shown)
    # messages may be empty only where the rule's own text is
    valid(data, json.loads(json.dumps(SARIF).replace('"minLength": 1', '"minLength": 0')))


def test_a_link_in_a_log_is_no_link_in_sarif() -> None:
    assert sarif.message("see [here](http://evil) [rank0]") == r"see \[here\](http://evil) \[rank0\]"
    assert sarif.message("[rank0]: x") == "[rank0]: x"


# -- markdown --------------------------------------------------------------------------------------------------------

ATTACKS = [
    "<script>alert(1)</script>",
    "</details><img src=x onerror=alert(1)>",
    "[click](https://evil.example) ![x](https://evil.example/x.png)",
    "```\n# out of the fence\n```",
    "````\n~~~\n@everyone look at #1 and org/repo#2",
    "| a | b |\n|---|---|",
    "$\\unicode{x}$ `code` **bold** _em_ ~~no~~",
    "<!-- comment",
    "&lt;b&gt; &amp;",
    "1. list\n- list\n# head\n> quote\n====",
]


def outside_fences(shown: str) -> str:
    """The text without fenced blocks and inline code, as a CommonMark reader sees it."""
    kept, fence = [], ""
    for line in shown.split("\n"):
        ticks = re.match(r"`{3,}", line)
        if fence:
            if ticks and len(ticks[0]) >= len(fence) and not line.strip("`"):
                fence = ""
        elif ticks and "`" not in line[ticks.end() :]:
            fence = ticks[0]
        else:
            kept.append(without_code(line))
    assert not fence, "a fence stays open"
    return "\n".join(kept)


def without_code(line: str) -> str:
    """The line without inline code: a run of backticks up to the next run of the same length."""
    runs = [m for m in re.finditer(r"(\\.)|`+", line) if not m[1]]
    out, at, number = "", 0, 0
    while number < len(runs):
        opening = runs[number]
        closing = next((n for n in range(number + 1, len(runs)) if len(runs[n][0]) == len(opening[0])), None)
        if closing is not None:
            out += line[at : opening.start()]
            at = runs[closing].end()
            number = closing
        number += 1
    return out + line[at:]


def check_markdown(shown: str) -> None:
    assert not CONTROL.search(shown)
    plain = outside_fences(shown)
    tags = re.findall(r"<[^>]*>?", plain)
    assert set(tags) <= {"<details>", "</details>", "<summary>", "</summary>", "<sub>", "</sub>", "<!-- -->"}, tags
    assert tags.count("<details>") == tags.count("</details>")
    assert not re.search(r"(?<!\\)\]\(", plain)
    assert not re.search(r"(?<!<!-- -->)(?<=[@#])\w", re.sub(r"&#?\w+;", " ", plain))
    assert "://" not in plain
    for line in plain.split("\n"):
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 6), line


@pytest.mark.parametrize("name", ALL)
def test_markdown_samples(name: str) -> None:
    check_markdown(markdown.render(ALL[name]))


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_gets_out_of_a_log(attack: str) -> None:
    finding = Finding("some-rule", "error", "cause", attack, attack, attack, node=attack, evidence=(Evidence("log", attack, 1, 1, attack),),
                      fixes=(Fix(attack, {"axolotl.x": attack}, {"A": attack}, attack, attack, attack),))  # fmt: skip
    run = dataclasses.replace(RUN, stage=attack, skipped=(attack,), sources=(attack,))
    shown = markdown.render(Diagnosis(run, "failing", finding, (finding,), ()))
    check_markdown(shown)
    assert "# out of the fence" not in outside_fences(shown).split("\n")


@settings(max_examples=150, deadline=None)
@given(diagnoses(), st.sampled_from(ATTACKS), content)
def test_any_content_stays_inside(diagnosis: Diagnosis, attack: str, text: str) -> None:
    root = diagnosis.root_cause
    if root is not None:
        hit = dataclasses.replace(
            root, message=text + attack, evidence=(Evidence("log", attack + text, 1, 1, text + attack),)
        )
        diagnosis = dataclasses.replace(diagnosis, root_cause=hit)
    check_markdown(markdown.render(diagnosis))


@given(content)
def test_inline_text_shows_as_itself(text: str) -> None:
    shown = html.unescape(markdown.inline(text).replace("<!-- -->", ""))
    bare = re.sub(r"\\([\\`*\[\]|~$_+#=.)-])", r"\1", shown)
    assert bare.split() == re.sub(r"\s+", " ", markdown.printable(text)).split()
