"""Text that grows: what was handed out is never taken back, and no more is held back than must be."""

from hypothesis import given
from hypothesis import strategies as st

from shipvlm.runtime.text import certain, cut

ALPHABET = "ab \u00e4\ufffd\n"
STOPS = st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3).map(tuple)


@given(text=st.text(ALPHABET, max_size=30), stop=STOPS)
def test_cut_is_the_shortest_text_before_a_stop_string(text: str, stop: tuple[str, ...]) -> None:
    found, stopped = cut(text, stop)
    assert stopped == any(each in text for each in stop)
    assert found == min((text.split(each)[0] for each in stop if each in text), key=len, default=text)


@given(parts=st.lists(st.text(ALPHABET, max_size=4), max_size=10), stop=STOPS)
def test_what_is_certain_begins_every_later_text(parts: list[str], stop: tuple[str, ...]) -> None:
    text, handed = "", ""
    for part in parts:
        text += part
        if cut(text, stop)[1]:
            break
        now = certain(text, stop)
        assert now.startswith(handed)
        handed = now
    assert cut(text, stop)[0].rstrip().startswith(handed)


@given(text=st.text("ab", max_size=30))
def test_without_stop_strings_letters_are_certain_at_once(text: str) -> None:
    assert certain(text, ()) == text


def test_only_the_beginning_of_a_stop_string_is_held_back() -> None:
    assert certain("one two", ("two three",)) == "one"
    assert certain("one two", ("north",)) == "one two"
    assert certain("one two w", ("works", "ono")) == "one two"
    assert certain("one two \ufffd", ()) == "one two"
