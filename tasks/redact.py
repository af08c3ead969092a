"""Take secrets out of what is kept of an attempt: error messages, tracebacks, log lines.

Only what looks like a secret by its shape, or by the name before it, is found: a guard against accidents, not a licence
to log secrets.
"""

import re

HIDDEN = "[redacted]"
NAMES = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization|cookie)"
VALUE = r"""(?!\[redacted)("[^"\n]*"|'[^'\n]*'|[^\s,;)}\]]+)"""
PATTERNS = (
    # user:password@ in a URL
    (re.compile(r"(?<=://)([^\s:/@]*):[^\s@/]+@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1 {HIDDEN}"),
    # name=value, "name": "value", name: value; not "/etc/passwd: no such file"
    (re.compile(rf"({NAMES}[\w-]{{0,40}}[\"']?\s{{0,3}}=\s{{0,3}}){VALUE}", re.I), rf"\1{HIDDEN}"),
    (re.compile(rf"((?<!/){NAMES}[\w-]{{0,40}}[\"']?\s{{0,3}}:\s{{0,3}}){VALUE}", re.I), rf"\1{HIDDEN}"),
    # tokens known by their prefix; JSON Web Tokens; AWS keys
    (re.compile(r"\b(?:sk|pk|ghp|gho|ghs|glpat|xox[abp])[-_][A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), HIDDEN),
)  # fmt: skip


def redact(text: str) -> str:
    """Return `text` with everything that looks like a secret replaced. Safe to repeat."""
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text
