"""Text from outside, made safe to print and to write down: a server or a file must not steer a terminal."""


def plain(text: str, longest: int | None = None) -> str:
    """`text` on one line, without what steers a terminal; cut to `longest` characters, which is shown by `...`."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return shown if longest is None or len(shown) <= longest else shown[:longest] + "..."
