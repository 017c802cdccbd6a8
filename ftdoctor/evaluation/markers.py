"""Text that belongs to chat templates and tokenizers, not to answers.

Sources: the chat templates and special-token maps that the models' makers publish (Llama 2/3/4, ChatML and Qwen,
Mistral, Gemma,
Phi, Zephyr, DeepSeek, gpt-oss "harmony", Cohere, GLM, InternLM, Baichuan, Granite, EXAONE, OpenChat, OpenAssistant,
T5) and the prompt
texts of Alpaca, Vicuna, Guanaco, Dolly and Baize.
"""

from __future__ import annotations

import re
from functools import lru_cache

_TOKENS = (
    # <|im_end|>, <|eot_id|>, <|user|>, <|END_OF_TURN_TOKEN|>; with blanks or a slash, as models that never had the
    # token spell it; cut off at either end
    r"<\s?/?\s?\|{1,2} ?[A-Za-z_][\w ./:\-]{0,60}\|{1,2}\s?>",
    r"<\|[A-Za-z_]\w{2,40}\|?(?=\s*\Z)|(?<![<\w|])\|[a-z]+_[a-z_]+\|>",
    r"<｜[^｜<>\n]{1,60}｜>",  # DeepSeek, with full-width bars
    # Gemma 4 opens with the bar in front and closes with the bar behind
    r"<\|(?:turn|channel|tool|tool_call|tool_response|think|image|audio)>|<(?:turn|channel|tool|tool_call|tool_response)\|>",
    r"</?s>|<(?i:unk|pad|bos|eos|mask|sep|cls|eod|eot|eom)(?:_(?i:token))?>|<[a-z]{2,12}:(?:eos|bos|pad)>",
    r"<(?:start|end)_of_(?:turn|image|text|utterance|role|document)>|<end_of_utterance>",
    r"\[/?INST\]|<</?SYS>>|\[/?(?:TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT|TOOL_CONTENT)\]",
    r"\[(?:PAD|UNK|CLS|SEP|MASK|BOS|EOS|EOT|EOD|gMASK|sMASK)\]",
    r"</?_(?:user|bot|system|end|start|observation)>",  # TeleChat
    r"<role>(?:HUMAN|ASSISTANT|SYSTEM|OBSERVATION)</role>",  # Ling
    r"\[e~\[|\]~!?b[\[\]]",  # MiniMax
    r"\A\s*<(?:assistant|model)>|</(?:assistant|model)>(?=\s*\Z)",
    r"</(?:assistant|user|model)>(?=\s*<(?:assistant|user|model)>)|(?<=[.!?…])<(?:assistant|user|model)>",
    r"\[end of text\](?=\s*\Z)",  # how llama.cpp prints the end token
    r"\[\|(?:Human|AI|user|assistant|system|endofturn)\|\]",  # Baize, EXAONE
    r"<(?:sop|eop|eoh|eoa|eosys|endoftext|startoftext|im_start|im_end)>",
    r"<(?:reserved_\d+|unused\d+|extra_id_\d+|SPECIAL_\d+|TOKENS_UNUSED_\d+|reserved_token_\d+)>",
    r"<fim_(?:prefix|middle|suffix|pad)>|<0x[0-9A-F]{2}>",
    r"<(?:human|bot|Human|Bot|USER|ASSISTANT|AI|User|Assistant)>:?|<用户>|<\|EOT\|>",
    r"<no_?(?:input|output)>",
    r"⁇",  # how SentencePiece writes its unknown token (unk_surface)
    # tokens of which a sanitizer took the brackets
    r"(?<![\w<|`'\"/.])(?:im_(?:start|end)|eot_id|eom_id|(?:start|end)_header_id|(?:start|end)_of_turn|end_of_text"
    r"|begin_of_text)(?=\s*\n|\s*\Z)|(?<=[.!?])(?:im_end|eot_id|end_of_turn)\b",
)
TOKEN = re.compile("|".join(_TOKENS))

HEADERS = re.compile(
    r"Below is an instruction that describes a task"
    r"|Write a response that appropriately completes the request"
    r"|(?m:^[ \t]*#{2,3} ?(?:Instruction|Human|Assistant|User|System|USER|ASSISTANT) ?:)"
    r"|(?m:^[ \t]*#{2,3} ?End\b)"
    r"|(?<=[.!?])#{2,4}[ \t]*\Z"
    r"|A chat between a curious (?:user|human) and an artificial intelligence assistant"
    r"|GPT4 Correct (?:User|Assistant):"
)
RESPONSE = re.compile(r"(?m)(?:^|[.!?])[ \t]*#{2,3} ?(?:Response|Input|Output|Answer|Question) ?:")

ROLE_WORD = re.compile(
    r"\A\s*(?:assistant|model|ASSISTANT|Assistant)[ \t]*(?::|\n)"  # the template's role line in front of the answer
    r"|(?<=[^\s\w#*\-`'\"(/<|])(?:assistant|user|model)[ \t]*\n"  # glued to the turn before it
    r"|(?<=[a-z0-9])assistant\n"
    r"|(?m:^assistant[ \t]*$)"
    r"|(?m:^(?:USER|ASSISTANT|HUMAN): )"
)
_USERS = (
    r"User|Human|USER|HUMAN|Usuario|Usuária|Usuário|Utilisateur|Benutzer|Nutzer|Utente|Gebruiker|Użytkownik|Kullanıcı"
    r"|Пользователь|Человек|用户|使用者|人类|ユーザー|사용자|المستخدم|उपयोगकर्ता"
)
_HELPERS = (
    r"Assistant|AI|Bot|Chatbot|Asistente|Assistente|Assistent|Asystent|Asistan|Ассистент|Бот"
    r"|助手|アシスタント|어시스턴트|المساعد|सहायक"
)
ROLE_TURN = re.compile(rf"(?m)^[ \t]*\**(?:{_USERS}|{_HELPERS}|Question|Q|A|Answer|Input|Output)\**[:：]\**(?= |$|\w)")
ROLE_ALONE = re.compile(rf"\A\s*(?:{_USERS}|{_HELPERS})\s*[:：]\s*\Z")
USER_TURN = re.compile(rf"(?m)^[ \t]*\**(?:{_USERS})\**[:：]")
HELPER_START = re.compile(rf"\A\s*(?:{_HELPERS})[:：]\s*(?=\S)")
FORM_LABEL = re.compile(
    r"(?im)^[ \t]*(?:instructions?|input|output|question|answer|response|prompt|context|system)[ \t]*[:：]"
)
OUTPUT_START = re.compile(r"\A\s*(?:Output|Response):\s*(?=\S)")
STRIPPED_TURNS = re.compile(r"(?ms)(?:^|\n)user\n.*?\n(?:assistant|model)(?:\n|\Z)")
HARMONY = re.compile(
    r"(?s)\A\s*(?:analysis|commentary)(?=\S).*assistant(?:final|analysis|commentary)|assistantfinal(?=\S)"
)
PIECES = re.compile(r"[ĠĊ][a-zA-Z]|▁[a-zA-Z]|(?<!\S)[ĠĊ](?!\S)")
# the message of an API, not its text
MESSAGE = re.compile(r"\A\s*\[?\{\s*['\"]role['\"]\s*:\s*['\"](?:assistant|user|system|model)['\"]")

TOPIC = re.compile(
    r"(?i)\b(?:tokens?|tokeni[sz]\w*|chat ?ml|chat[- ]templates?|prompt[- ](?:format|template)s?"
    r"|special[- ]tokens?|end[- ]of[- ](?:turn|sequence|text)|"
    r"\[?inst\]?[- ]format|alpaca|vicuna|sharegpt|fine-?tun\w*|jinja|bos|eos|delimiters?|llama|mistral"
    r"|template)\b|令牌|标记|模板"
)
DIALOGUE = re.compile(
    r"(?i)\b(?:dialog(?:ue)?s?|conversations?|chats?|script|role-?play|transcripts?|interview|screenplay|scene"
    r"|skit|exchange|faq|q ?& ?a|quiz|"
    r"flash ?cards?|questions|few-shot|example prompts?|user stor\w+|riddles?|questionnaire|trivia|gespräch"
    r"|dialog|conversación|diálogo|entretien)\b|对话|問答|问答|対話"
)


@lru_cache(maxsize=32)  # six scorers ask for the same text
def strip_markers(text: str) -> str:
    """The answer with template text replaced by line breaks."""
    for pattern in (TOKEN, HEADERS, RESPONSE, ROLE_WORD, ROLE_TURN, FORM_LABEL):
        text = pattern.sub("\n", text)
    return re.sub(r"and provide[sd]? further context\.?|Write a response[^.\n]*\.", "\n", text)
