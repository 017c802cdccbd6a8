"""Secrets go, ordinary text stays byte for byte."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.faces.redact import MASK, redact, redacted, secret_name
from ftdoctor.findings import Evidence, Fix

ALNUM = string.ascii_letters + string.digits
HEX40 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"
HF = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"

SECRETS = {
    "hf": (HF, "login(token='{}')"),
    "hf bare": (HF, "using {} to download"),
    "hf lower case": ("hf_" + "abcdefghijklmnopqrstuvwxyzabcdefgh", "got {}"),
    "hf env": (HF, "export HF_TOKEN={}"),
    "wandb env": (HEX40, "WANDB_API_KEY={}"),
    "wandb json": (HEX40, '  "wandb_api_key": "{}",'),
    "wandb login": (HEX40, "$ wandb login --relogin {}"),
    "wandb prompt": (HEX40, "wandb: Paste an API key from your profile and hit enter: {}"),
    "wandb netrc": (HEX40, "machine api.wandb.ai login user password {}"),
    "openai": ("sk-proj-Ab12Cd34Ef56Gh78Ij90Kl12Mn34", "OPENAI_API_KEY={}"),
    "openai bare": ("sk-Ab12Cd34Ef56Gh78Ij90Kl12Mn34Op56Qr78", "Incorrect API key provided: {}."),
    "anthropic": ("sk-ant-api03-Ab12Cd34Ef56Gh78Ij90", "key {}"),
    "github": ("ghp_Ab12Cd34Ef56Gh78Ij90Kl12Mn34Op56Qr78", "remote: {}"),
    "github fine": ("github_pat_11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ0123456789", "{}"),
    "gitlab": ("glpat-Ab12Cd34Ef56Gh78Ij90", "PRIVATE-TOKEN: {}"),
    "aws id": ("AKIAIOSFODNN7EXAMPLE", "aws_access_key_id = {}"),
    "aws secret": ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "AWS_SECRET_ACCESS_KEY={}"),
    "aws secret python": (
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "environ({{'AWS_SECRET_ACCESS_KEY': '{}', 'HOME': '/root'}})",
    ),
    "slack": ("xoxb-123456789012-abcdefghijkl", "SLACK={}"),
    "slack hook": ("T00000000/B00000000/XXXXXXXXXXXX", "https://hooks.slack.com/services/{}"),
    "google": ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "key={}"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dBjftJeZ4CVP", "cookie {}"),
    "bearer": ("abc123def456ghi789", "curl -H 'Authorization: Bearer {}'"),
    "header": ("Zm9vOmJhcg==", "authorization: Basic {}"),
    "cookie": ("session=abc123; other=1", "Cookie: {}"),
    "url password": ("hunter2", "postgres://mlflow:{}@db.internal:5432/runs"),
    "url password with @": ("p@ss", "http://user:{}@proxy:3128"),
    "url token": (HF, "https://{}@huggingface.co/org/model"),
    "git url": ("ghp_Ab12Cd34Ef56Gh78Ij90", "https://x-access-token:{}@github.com/org/repo.git"),
    "signed url": ("0a1b2c3d4e5f", "https://cdn-lfs.hf.co/x?response=1&Signature={}&Key-Pair-Id=K1"),
    "query": ("abcdef", "https://example.org/api?token={}&x=1"),
    "password yaml": ("correcthorse", "  db_password: {}"),
    "password quoted": ("two words", 'password = "{}"'),
    "option": ("abcd1234efgh", "python train.py --hub_token {} --epochs 3"),
    "option list": ("abcd1234efgh", "['train.py', '--hub_token', '{}', '--epochs']"),
    "escaped json": ("abcd1234efgh", r"{{\"hub_token\": \"{}\"}}"),
    "own env": ("abcd1234efgh", "MYCORP_TOKEN={}"),
    "azure": ("AbCd1234==", "AccountKey={};EndpointSuffix=core.windows.net"),
    "private key": ("MIIEvQIBADANBgkq", "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"),
    "neptune": ("eyJ" + "hcGlfYWRkcmVzcyI6Imh0dHBz" * 4, "NEPTUNE_API_TOKEN={}"),
}

ORDINARY = [
    "tokens: 1234",
    "total_tokens: 123456789, trained tokens=98765432",
    "num_input_tokens_seen: 1048576000",
    "tokenizer: meta-llama/Llama-3.1-8B-Instruct",
    "tokenizer_config: ./tok2/config.json",
    "special_tokens: {'pad_token': '<|end_of_text|>', 'eos_token': '<|eot_id|>'}",
    "token_type_ids: [0, 0, 0, 1, 1]",
    "pad_token: <|end_of_text|>",
    "pad_token: PADDING_TOKEN_0001",
    "eos_token='</s>' bos_token='<s>' unk_token='<unk>'",
    "EOS_TOKEN=endoftext_0123456789",
    "image_token: image_soft_token_262144",
    "decoder_start_token: start1234567890",
    "Setting pad_token to eos_token: 128009",
    "hf_transfer, hf_hub_download and hf_overrides are not installed",
    "HF_HUB_ENABLE_HF_TRANSFER=1 HF_HOME=/data/hf_cache",
    "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    "models--org--x/snapshots/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b/config.json",
    "wandb: git commit: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    "NCCL INFO ncclCommInitRank comm 0x55d0c8 rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1000 commId 0x5f3b2c7d1e8a9b04 - Init START",
    "store_based_barrier_key:1 has keys default_pg/0//cuda//0",
    "NCCL unique id: 3f2a9c0d1e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5",
    "https://huggingface.co/org/model/resolve/main/config.json",
    "tcp://10.0.0.1:29500 rdzv_endpoint=node-1:29400",
    'File "/home/user/secret_project/train.py", line 12, in main',
    "token=None, use_auth_token=False, hub_token: null",
    "Invalid user token. The token from HF_TOKEN environment variable is invalid.",
    "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66aa-0a1b2c3d4e5f6a7b8c9d0e1f;9f86d081-884c)",
    "wandb_project: my-project  wandb_entity: null  wandb_watch: false",
    "key: 0x7f3a, value: torch.Size([1, 2, 3]); cache_key=abc123def456",
    "self.token = token if token is not None else self.hub_token",
    "api_key=self.api_key, password=os.environ['DB_PASSWORD']",
    "{'loss': '1.92', 'grad_norm': '0.8', 'learning_rate': '1.9e-04', 'tokens_per_second_per_gpu': 1234.5}",
    "Basic understanding-of-the-problem; bearer of news",
    "sk-learn 1.5; task-1234567890abcdefghij; disk-0123456789abcdefghij",
    "OMP_NUM_THREADS=8 CUDA_VISIBLE_DEVICES=0,1 MASTER_ADDR=10.0.0.1",
    "GOOGLE_APPLICATION_CREDENTIALS=/var/run/gcp/key.json PWD=/home/user/run1",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>",
    "chat_template: tokenizer_default",
    "AssertionError: key: hunter",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_go(name: str) -> None:
    secret, line = SECRETS[name]
    text = line.format(secret)
    shown = redact(text)
    body = secret[8:] if len(secret) > 16 else secret
    assert body not in shown
    assert MASK in shown
    assert redact(shown) == shown


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


@given(st.sampled_from(list(SECRETS.values())), st.text(max_size=60), st.text(max_size=60))
def test_secrets_go_in_any_surroundings(case: tuple[str, str], before: str, after: str) -> None:
    secret, line = case
    shown = redact(f"{before}\n{line.format(secret)}\n{after}")
    assert (secret[8:] if len(secret) > 16 else secret) not in shown


@given(st.text(alphabet=ALNUM, min_size=34, max_size=34))
def test_every_token_of_the_hub_goes(body: str) -> None:
    assert body not in redact(f"requests: hf_{body}, done")


@given(st.text(max_size=300))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(alphabet=string.ascii_lowercase + " .,", max_size=200))
def test_prose_without_names_stays(text: str) -> None:
    assert redact(text) == text


def test_names() -> None:
    assert all(
        map(
            secret_name,
            ("HF_TOKEN", "hub_token", "axolotl.hub_token", "wandb_api_key", "password", "AWS_SECRET_ACCESS_KEY"),
        )
    )
    assert not any(
        map(
            secret_name,
            ("pad_token", "EOS_TOKEN", "tokens", "tokenizer", "max_tokens", "learning_rate", "special_tokens"),
        )
    )


def test_trees_of_dataclasses_are_copied_and_mapping_keys_count() -> None:
    fix = Fix("t", {"axolotl.hub_token": "plainword", "axolotl.bf16": True}, env={"HF_TOKEN": "x", "A": "b"})
    shown = redacted((fix, Evidence("log", "a.log", 1, 1, f"HF_TOKEN={HF}")))
    assert shown[0].config_patch == {"axolotl.hub_token": MASK, "axolotl.bf16": True}
    assert shown[0].env == {"HF_TOKEN": MASK, "A": "b"}
    assert "AbCd" not in shown[1].excerpt
    assert fix.config_patch["axolotl.hub_token"] == "plainword"


@pytest.mark.parametrize(
    "text",
    ["a" * 131072, "token" * 26000, "a." * 65536, "http://" * 18000, "password:" * 14000, "wandb " + "0" * 131072, "eyJ" * 43000,
     "=token=" * 18000, "--token " * 16000, "authorization " * 9000, "-----BEGIN PRIVATE KEY-----" * 4000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_lines_take_no_time(text: str) -> None:
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 4.0
