"""The licence as a model card says it, and the line that is printed of it."""

from pathlib import Path

import pytest

from fetch.card import licence, licence_line


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nlicense: apache-2.0\n---\n# x\n", "apache-2.0"),
        ("---\r\nlicense: apache-2.0\r\n---\r\n# x\r\n", "apache-2.0"),
        (
            "---\nlicense: other\nlicense_name: tongyi-qianwen\nlicense_link: LICENSE\n---\n",
            "other: tongyi-qianwen (LICENSE)",
        ),
        ("---\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense_link: https://x/y\n---\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: mit # words\ntags: [a]\n---\n", "mit"),
        ("---\nlicense: {a: b}\n---\n", None),
        ("---\nlicense: null\n---\n", None),
        ("---\ntags: [a]\n---\n", None),
        ("---\n- license\n---\n", None),
        ("---\nlicense: [unclosed\n---\n", None),
        ("---\n" + "[" * 1000 + "\n---\n", None),
        ("# no front matter\nlicense: mit\n", None),
        ("", None),
        ('---\nlicense: "mit\\x1b[31m\\nerror: all lost"\n---\n', "mit [31m error: all lost"),
        ("---\nlicense: " + "x" * 1000 + "\n---\n", "x" * 200 + "..."),
    ],
)
def test_the_card_names_the_licence(tmp_path: Path, card: str, said: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert licence(tmp_path) == said


def test_a_folder_without_a_card_and_one_that_is_no_text(tmp_path: Path) -> None:
    assert licence(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n")
    assert licence(tmp_path) is None


@pytest.mark.parametrize(
    ("said", "documents", "line"),
    [
        ("mit", ["README.md", "LICENSE"], "licence: mit (LICENSE, README.md kept in out)"),
        ("mit", [], "licence: mit; the source has no text of it"),
        (None, ["README.md"], "licence: none named; read README.md kept in out"),
        (None, [], "licence: none, and no model card: nothing says that you may use it"),
    ],
)
def test_the_line_says_what_is_kept_and_what_is_not_known(said: str | None, documents: list[str], line: str) -> None:
    assert licence_line(said, documents, Path("out")) == line
