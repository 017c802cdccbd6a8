"""Take secrets out of text before it is shown or stored. The shape stays readable: `hf_****`, `HF_TOKEN=****`.

    shapes    hf_..., sk-..., ghp_..., AKIA..., xoxb-..., AIza..., JSON web tokens, private keys: wherever they stand
    contexts  Authorization and Cookie headers, passwords and tokens in URLs, signed query parameters, W&B keys
    names     password=, "wandb_api_key": "...", export HF_TOKEN=..., --hub_token ...: the value after the name

In training logs "token" is mostly an ordinary word (`pad_token: <|end_of_text|>`, `total_tokens: 1234`), and 40 hex
digits are mostly a commit: a token's name must say whose it is, and its value must not read like a word or a
number.
"""

# ruff: noqa: E501 - tables of patterns read best one per line
from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeVar

MASK = "****"
_T = TypeVar("_T")
_Replacement = str | Callable[[re.Match[str]], str]

_SHAPES: tuple[tuple[str, str], ...] = (
    # real ones have 34 letters and digits; hf_transfer and hf_overrides are names
    (r"\b(hf_|api_org_)(?:(?=[A-Za-z]*[A-Z0-9])[A-Za-z0-9]{16,}|[a-z]{30,})", r"\1****"),
    (r"\b(sk-(?:proj-|ant-|or-v1-|svcacct-|admin-)?)(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}", r"\1****"),
    (r"\b(gh[pousr]_)[A-Za-z0-9]{16,}", r"\1****"),
    (
        r"\b(github_pat_|glpat-|gldt-|pypi-|npm_|dckr_pat_|wandb_v\d_|dapi|nvapi-|r8_|gsk_|pplx-)(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}",
        r"\1****",
    ),
    (r"\b(xox[abeoprs]-|xapp-)[A-Za-z0-9-]{8,}", r"\1****"),
    (r"(hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/)[\w/-]+", r"\1****"),
    (r"\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b", r"\1****"),
    (r"\b(AIza|ya29\.)[A-Za-z0-9_-]{20,}", r"\1****"),
    (r"\b(eyJ)[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]+){1,2}", r"\1****"),  # JSON web token
    (r"\b(eyJ)[A-Za-z0-9+/_-]{60,}=*", r"\1****"),  # Neptune: base64 of a JSON object
    (
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
        "-----PRIVATE KEY ****-----",
    ),
)

_CONTEXTS: tuple[tuple[str, str], ...] = (
    (
        r"(?i)\b((?:proxy-)?authorization\\?[\"']?\s*[=:]\s*\\?[\"']?(?:(?:bearer|basic|token|digest)\s+)?)(?!(?:bearer|basic|token|digest)\s)[^\s\"'\\*,}][^\s\"'\\,}]*",
        r"\1****",
    ),
    (r"(?i)\b((?:set-)?cookie\\?[\"']?:\s*\\?[\"']?)(?=[\w.-]+=)[^\r\n\"'*][^\r\n\"']*", r"\1****"),
    (r"(?i)\b(bearer\s+)(?=[a-z._~+/-]*\d)[A-Za-z0-9._~+/-]{12,}=*", r"\1****"),
    (
        r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://[^\s/:@\"']{0,100}:)(?!\*\*\*\*@)[^\s/\"']{1,400}(@)",
        r"\1****\2",
    ),
    (r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://)[A-Za-z0-9_-]{16,400}(@)", r"\1****\2"),
    (
        r"(?i)([?&](?:[a-z_]{0,20}token|api_?key|key|secret|client_secret|signature|sig|password|policy|key-pair-id"
        r"|x-(?:amz|goog)-(?:signature|credential|security-token))=)[^\s&\"'#*][^\s&\"'#]*",
        r"\1****",
    ),
    (r"(?i)\b(machine\s+\S{1,200}\s+(?:login\s+\S{1,200}\s+)?password\s+)[^\s*]\S*", r"\1****"),
)

# What may stand between a name and its value: `=`, `: `, `": "`, `\": \"`, and for options `--name value`, `'--name', 'value'`.
_OPEN = r"\\?[\"']?"
_SEP = rf"{_OPEN}[ \t]{{0,8}}(?:=>|:=|[=:])[ \t]{{0,8}}[bru]?"
_OPTION = rf"(?:[ \t]{{1,4}}|{_OPEN},\s{{0,4}})"
_STRONG = r"password|passwd|passphrase|[a-z0-9]_pwd|api_?-?key|apikey|secret_?-?key|access_?-?key|account_?-?key|private_?-?key|client_?-?secret|secret|credentials?"
_OWNERS = (
    "hf|hub|huggingface|huggingface_?hub|hugging_?face|hugging_?face_hub|api|auth|access|refresh|bearer|session|security|id|user|login|"
    "github|gh|gitlab|git|slack|telegram|discord|bot|wandb|comet|neptune|neptune_api|mlflow|mlflow_tracking|clearml|swanlab|dagshub|"
    "modelscope|ms|openai|anthropic|aws|aws_session|gcp|azure|vault|registry|docker|pypi|npm|ci_job|secret|personal_access|oauth|jwt|"
    "csrf|xsrf|jupyter|ray|k8s|kube|service_account|my|private|sas"
)
# vocabulary of tokenizers, in capitals too: never a secret
_ORDINARY = re.compile(
    r"(?i)(?:^|[_.-])(?:pad|padding|eos|bos|unk|sep|cls|mask|image|img|video|audio|special|additional|added|boi|eoi|bov|eov|boa|eoa|bod|eod|eot|eom|"
    r"stop|start|end|next|last|first|prev|prefix|suffix|middle|fim|per|max|min|num|n|total|new|input|output|label|ignore|response|"
    r"instruction|control|think|thinking|tool|reasoning|vision|speech|patch|text|word|sub|draft|sot|system|assistant|human|chat|role|"
    r"begin|beginning|object|box|ref|point|action|latent|dummy|placeholder|split|newline|forced|suppress|trainable|seq|sequence|reserved)_?-?$"
)
_WORDS = re.compile(
    r"(?i)(?:none|null|nil|true|false|auto|yes|no|on|off|str|string|int|bool|optional|required|missing|invalid|not|is|was|are|must|the|an?|from|in|"
    r"for|to|of|and|or|expired|incorrect|wrong|empty|unset|set|unknown|default|undefined|redacted|hidden|masked|secret|password|token|authentication)$"
)
_CODE = re.compile(
    r"(?:self|cls|os|args|cfg|config|kwargs|getpass|settings|env|options|params|hparams|get_\w+)\b[.(\[]|\w+\.environ\b"
)
_NAMED = re.compile(
    rf"(?i)(?P<name>(?P<dashes>--)?\b[\w.-]{{0,60}}?(?:(?P<strong>{_STRONG})|token))(?![\w-])(?P<sep>{_SEP}|(?(dashes){_OPTION}|(?!)))"
    r"(?:(?P<quote>\\?[\"'])(?P<quoted>[^\"'\\\r\n]{1,4000})|(?P<bare>[^\s\"'\\,;}\])|<>]{1,4000}))"
)
_OWNER = re.compile(rf"(?i)(?:^|[._-]|--)(?:{_OWNERS})[_-]?$")
_HEX40 = re.compile(r"\b[0-9a-f]{40}\b")
_KEY_NEAR = re.compile(r"(?i)wandb|weights ?(?:&|and) ?biases|api[ _-]?key")
_COMMIT_NEAR = re.compile(
    r"(?i)(?:commit|revision|\brev|sha1?|git|hash|snapshots?|checkout|version|digest|etag|blobs?|id)\b[\"'\s:=/@(]{0,6}(?:is |at |to )?$"
)

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(p, re.DOTALL), r) for p, r in (*_SHAPES, *_CONTEXTS)
)
_HINT = re.compile(
    r"(?i)hf_|api|key|token|secret|passw|passphrase|_pwd|cred|://|sk-|xox|xapp|gh[pousr]_|github_pat|gl(?:pat|dt)|pypi-|npm_|dckr_|dapi|nvapi|r8_|gsk_|pplx-"
    r"|AKIA|ASIA|AROA|AIDA|AIza|ya29|eyJ|wandb|bearer|authorization|cookie|PRIVATE|slack\.com|discord"
)


def redact(text: str) -> str:
    """The text without its secrets."""
    if not _HINT.search(text):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _NAMED.sub(_named, text)
    if _KEY_NEAR.search(text):
        text = _HEX40.sub(_wandb_key, text)
    return text


def secret_name(name: str) -> bool:
    """True when a variable or key of this name holds a secret."""
    found = _NAMED.fullmatch(f"{name}=x")
    return found is not None and (bool(found["strong"]) or _owned(found["name"]))


def _owned(name: str) -> bool:
    """Whose token: `HF_TOKEN`, `hub_token`, a bare `token` or any other name in capitals; not `pad_token`."""
    stem = name[: -len("token")]
    if _ORDINARY.search(stem):
        return False
    return stem.strip("-._") == "" or name.isupper() or _OWNER.search(_snake(stem)) is not None


def _snake(stem: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem)


def _named(found: re.Match[str]) -> str:
    name, quote = found["name"], found["quote"] or ""
    value = found["quoted"] if quote else found["bare"]
    return (
        found[0]
        if not _secret_value(name, bool(found["strong"]), value, bool(quote))
        else f"{name}{found['sep']}{quote}{MASK}"
    )


def _secret_value(name: str, strong: bool, value: str, quoted: bool) -> bool:
    if MASK in value or value.startswith(("<", "[", "{", "$", "(")) or _WORDS.match(value) or _CODE.match(value):
        return False
    if strong:
        is_path = value.startswith(("/", "./", "~/")) and "credential" in name.lower()
        return not is_path and (quoted or len(value) >= 3)
    if not _owned(name):
        return False
    if not re.fullmatch(r"[A-Za-z0-9._~+/=:-]{8,}", value) or value.isdigit():
        return False
    return any(c.isdigit() for c in value) or (len(value) >= 24 and not value.islower() and "_" not in value)


def _wandb_key(found: re.Match[str]) -> str:
    text, at = found.string, found.start()
    start = text.rfind("\n", 0, at) + 1
    if _COMMIT_NEAR.search(text, max(start, at - 40), at) or not _KEY_NEAR.search(text, max(start, at - 200), at):
        return found[0]
    return MASK


def redacted(value: _T) -> _T:
    """A copy of any tree of dataclasses, tuples, lists and dicts with every string redacted."""
    result: Any = _walk(value)
    return result  # type: ignore[no-any-return]


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _walk(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_walk(item) for item in value)
    if isinstance(value, list):
        return [_walk(item) for item in value]
    if isinstance(value, dict):
        return {_walk(key): _entry(key, item) for key, item in value.items()}
    return value


def _entry(key: Any, item: Any) -> Any:
    if isinstance(key, str) and isinstance(item, str) and item and secret_name(key):
        return item if _WORDS.match(item) or item.startswith(("$", "<")) else MASK
    return _walk(item)
