"""The fenced blocks of README.md and docs/, and what a reader is told about each.

A block of `sh` is run. One that cannot be has a comment in the line above, `<!-- not run here: REASON -->`. Its
commands, and those of a `console` transcript, must at least parse.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
_NOT_RUN = re.compile(r"<!-- not run here: (\S.*) -->")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    not_run: str = ""

    @property
    def file(self) -> str:
        """The file that a block of settings stands for: its first line says so."""
        found = re.match(r"# ([\w.-]+\.toml)\b", self.text)
        return found.group(1) if found and self.language == "toml" else ""

    def commands(self) -> list[str]:
        """Its lines that call cxr-edge, continued ones in one piece, without prompt, comment and redirection."""
        lines = self.text.replace("\\\n", " ").splitlines()
        lines = [re.sub(r"^\s*(\$ )?((TF_CONFIG='[^']*'|sudo) +)*", "", line) for line in lines]
        return [re.split(r" (>>?|\||&|&&) ?", line)[0] for line in lines if re.match(r"cxr-edge ", line)]


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        reason = _NOT_RUN.fullmatch(lines[start - 1])
        text = "".join(f"{one}\n" for one in lines[start + 1 : number])
        found.append(Block(page.name, start + 1, lines[start][3:].strip(), text, reason.group(1) if reason else ""))
        start = None
    assert start is None, f"{page.name}: the block of line {start} does not end"
    return found


def words(command: str) -> list[str]:
    """The arguments of a command of the docs; what stands for words left out ("…") is left out."""
    return [word for word in shlex.split(command, comments=True)[1:] if word != "…"]
