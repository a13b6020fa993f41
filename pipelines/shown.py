"""What a terminal may have: text that others wrote, with what could drive one written out, and commands to copy."""

import shlex


def printable(text: str) -> str:
    """A text whose control, format and other unprintable characters are written out, as \\x1b is."""
    return "".join(char if char.isprintable() else _written_out(char) for char in text)


def printable_lines(text: str) -> str:
    """As `printable`, but line feeds and tabs stay."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def escaped(text: str) -> str:
    """As `printable`, with backslashes doubled, so that the text can be had back: `unicode_escape` of Python reads it."""
    return "".join(char if char.isprintable() and char != "\\" else _written_out(char) for char in text)


def fork_command(run_id: str, round: int | None = None) -> str:
    """The command that forks a run after a round, or after one yet to be named."""
    point = f"{run_id}@{'ROUND' if round is None else round}"
    return f"mart run --run-id NEW --fork {shlex.quote(point)}"


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
