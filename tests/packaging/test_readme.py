"""What the README tells a user to type exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from edge_ad.cli import VERBS, cli

ROOT = Path(__file__).parents[2]
TEXTS = ("README.md", "docs/training.md", "scripts/demo")


def _commands(name: str) -> list[list[str]]:
    """The ``edge-ad`` command lines of a file, without what stands before them, as words."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = (
        re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if name.endswith(".md") else [text]
    )
    inline = re.findall(r"`(edge-ad [^`]+)`", text) if name.endswith(".md") else []
    lines = [line for block in blocks for line in block.splitlines()] + inline
    matches = [re.match(r"(?:show )?edge-ad (.*)", line) for line in lines]
    return [shlex.split(match.group(1), comments=True) for match in matches if match]


COMMANDS = [words for name in TEXTS for words in _commands(name)]


def _parse(words: list[str]) -> dict[str, object]:
    """Parse a command line as click does, short of opening its files.

    Raises:
        click.UsageError: an option or an argument is unknown, or a choice is.
    """
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    if command is None:
        raise click.UsageError(f"no verb {words[0]}")
    context, words = click.Context(command, parent=context), words[1:]
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no verb {words[0]}")
        command, context, words = found, click.Context(found, parent=context), words[1:]
    values, left, _ = command.make_parser(context).parse_args(list(words))
    if left:
        raise click.UsageError(f"left over: {left}")
    for parameter in command.params:
        value = values.get(parameter.name)
        kind: Any = parameter.type
        if isinstance(kind, (click.Choice, click.IntRange, click.FloatRange)) and isinstance(value, str):
            # The demo's own variable stands for a number.
            number: Any = re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
            kind.convert(number, parameter, context)
        if parameter.required and not value:
            raise click.UsageError(f"{parameter.name} is missing")
    return dict(values)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_line_parses(words: list[str]) -> None:
    if words[0] == "VERB":
        words = ["train", *words[1:]]
    if "--help" in words:
        assert words[0] in VERBS
        return
    _parse(words)


def test_there_are_command_lines_to_parse() -> None:
    verbs = {words[0] for words in COMMANDS}
    assert {
        "train",
        "evaluate",
        "convert",
        "info",
        "verify",
        "run",
        "recalibrate",
        "rollback",
        "bench",
        "prepare",
        "benchmark",
        "import",
        "teachers",
        "distill",
    } <= verbs


@pytest.mark.parametrize(
    "line",
    [
        "train data -o run --size huge",
        "train data -o run --no-such-option 1",
        "train data extra -o run",
        "train data",
        "teachers forget n",
    ],
)
def test_a_wrong_line_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        _parse(shlex.split(line))


def test_the_two_commands_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for script in ("scripts/demo", "scripts/test"):
        assert f"./{script} " in text
        assert os.access(ROOT / script, os.X_OK)
    assert "./scripts/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize(
    "script", ["scripts/demo", "scripts/test", "scripts/setup", "scripts/show", ".ci/run"]
)
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_every_extra_is_in_the_table() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = declared.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert extras == table
