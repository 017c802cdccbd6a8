"""Characters that no writer meant: bytes read with a wrong table, escapes that nobody undid, marks without letters."""

from __future__ import annotations

import re
import unicodedata

# from a character to its byte: Latin-1, and what cp1252 has in place of the control characters
_BYTES = {chr(b): b for b in range(256)} | {bytes([b]).decode("cp1252", "ignore") or chr(b): b for b in range(256)}
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|&#x?[0-9a-fA-F]{2,6};")
_ACCENTED = re.compile(r"(?<!\w)[À-ÖØ-öø-ÿ]{3,}(?!\w)")
_ABOUT = re.compile(r"(?i)mojibake|encod|decod|utf|unicode|escap|codepoint|code point|ascii|hex|byte|\\u|&#")


def misread(text: str) -> int:
    """How many characters of the text are UTF-8 that was read as Latin-1 or cp1252 ("Ã©" for "é")."""
    return len(_UTF8.findall(bytes(_BYTES.get(char, 0x20) for char in text)))


def damage(prompt: str, text: str) -> str:
    """Why the characters are damaged, or an empty string."""
    broken = sum(text.count(char) for char in "\ufffd\ufffe\x00") + sum(1 for c in text if "\ue000" <= c <= "\uf8ff")
    if broken >= 3 and broken > 0.02 * len(text):
        return f"{broken} broken characters"
    # variation selectors and the keycap's frame belong to emoji (Unicode Technical Standard 51)
    marks = sum(
        unicodedata.category(c) in ("Mn", "Me") and not "\ufe00" <= c <= "\ufe0f" and c != "\u20e3" for c in text
    )
    if marks >= 6 and marks > 2 * sum(char.isalpha() for char in text):
        return f"{marks} combining marks with nothing to combine with"
    if _ABOUT.search(prompt):
        return ""
    if misread(text) >= 3 or len(_ACCENTED.findall(text)) >= 3:
        return "wrongly decoded characters"
    escapes = _ESCAPE.findall(text)
    if len(escapes) >= 4 and 3 * len("".join(escapes)) > len(text):
        return f"{len(escapes)} characters are written as escapes: {escapes[0]}"
    bare = "".join(text.split())
    if len(bare) >= 8 and set(bare) <= set("?□_¿") and len(set(bare)) == 1:
        return f"nothing but `{bare[0]}`"
    return ""
