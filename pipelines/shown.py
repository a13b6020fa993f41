"""Text that others wrote, as a terminal may have it: what could drive one is written out."""


def printable(text: str) -> str:
    """A text whose control, format and other unprintable characters are written out, as \\x1b is."""
    return "".join(char if char.isprintable() else _written_out(char) for char in text)


def printable_lines(text: str) -> str:
    """As `printable`, but line feeds and tabs stay."""
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def escaped(text: str) -> str:
    """As `printable`, with backslashes doubled, so that the text can be had back: `unicode_escape` of Python reads it."""
    return "".join(char if char.isprintable() and char != "\\" else _written_out(char) for char in text)


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
