import functools
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_data.records import TASKS
from calib_data.scoring import choice_letter, score, score_ocr
from calib_data.texts import Number, plain, read_number, similarity, words, yes_or_no
from shipvlm.errors import InputError

TEXT = st.text(max_size=40)
SOME_TEXT = TEXT.filter(lambda text: text.strip())
ASCII = st.text(st.sampled_from("ab cA1,.-$"), max_size=20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The RED  ball. ", ["red", "ball"]),
        ("twenty-one", ["20", "1"]),
        ("Three dogs", ["3", "dogs"]),
        ("It's a t-shirt!", ["its", "t", "shirt"]),
        ("1,000 or 3.5 or 3,5", ["1000", "or", "3.5", "or", "3,5"]),
        ("-3 to 5-3", ["-3", "to", "5", "3"]),
        ("\uff21\uff22\uff11\uff12", ["ab12"]),
        ("Straße", ["strasse"]),
        ("A", ["a"]),
        ("+", ["+"]),
        ("an apple, the pear", ["apple", "pear"]),
        ("“红色”。", ["红色"]),
        (" ", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("answer", "references", "value", "parsed"),
    [
        ("Two", ["2"], 1.0, "ok"),
        ("a red square", ["Red Square."], 1.0, "ok"),
        ("red", ["blue", "RED"], 1.0, "ok"),
        ("red square", ["red"], 0.0, "ok"),
        ("B", ["A"], 0.0, "ok"),
        ("  \n", ["red"], 0.0, "empty"),
        ("?!", ["red"], 0.0, "unparsable"),
        ("+", ["+"], 1.0, "ok"),
    ],
)
def test_vqa(answer, references, value, parsed):
    result = score("vqa", answer, references)
    assert (result.value, result.parsed, result.similarity) == (value, parsed, None)


@pytest.mark.parametrize(
    ("answer", "reference", "value", "parsed"),
    [
        ("Yes.", "yes", 1.0, "ok"),
        ("NO, it does not", "no", 1.0, "ok"),
        ("The sentence is wrong, so no", "yes", 0.0, "ok"),
        ("yes or no", "yes", 0.0, "unparsable"),
        ("nothing known", "no", 0.0, "unparsable"),
        ("", "no", 0.0, "empty"),
        ("yes yes", "Yes", 1.0, "ok"),
    ],
)
def test_consistency(answer, reference, value, parsed):
    result = score("consistency", answer, [reference])
    assert (result.value, result.parsed, result.similarity) == (value, parsed, None)


@pytest.mark.parametrize("references", [["perhaps"], ["yes", "no"], ["yes and no"]])
def test_consistency_refuses_references_that_decide_nothing(references):
    with pytest.raises(InputError, match="yes"):
        score("consistency", "yes", references)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.50", "12.5"),
        ("$12.5", "12.5"),
        ("12,50 €", "12.5"),
        ("EUR 12.50", "12.5"),
        ("￥1,234", "1234"),
        ("1.234,50", "1234.5"),
        ("1,234.50", "1234.5"),
        ("1 234.50", "1234.5"),
        ("1'234'567", "1234567"),
        ("1.234.567", "1234567"),
        ("1.234", "1.234"),
        (".5", "0.5"),
        ("0.50", "0.5"),
        ("-3", "-3"),
        ("-$3", "-3"),
        ("88元", "88"),
        ("\uff11\uff12", "12"),
        ("0", "0"),
    ],
)
def test_read_number(text, value):
    assert read_number(text) == Number(Decimal(value), False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "007",
        "12.05.2023",
        "2023-05-12",
        "555-1234",
        "1,23,456",
        "12.50 x",
        "TOTAL 12",
        "1.2.3",
        "12 34",
        ".",
        "$",
        "5.",
    ],
)
def test_read_number_refuses_what_is_no_number(text):
    assert read_number(text) is None


@given(st.decimals(0, 10**9, places=2), st.sampled_from(["", "$", "€", "USD "]))
def test_read_number_reads_what_python_writes(value, currency):
    assert read_number(f"{currency}{value:,.2f}") == Number(value, False)
    assert read_number(f"{value:.2f}") == Number(value, False)
    swapped = f"{value:,.2f}".translate(str.maketrans(",.", ".,"))
    assert read_number(swapped) == Number(value, False)


@pytest.mark.parametrize(
    ("answer", "reference", "value", "parsed"),
    [
        ("$1,234.50", "1234.5", 1.0, "ok"),
        ("12.60", "12.50", 0.0, "ok"),
        ("5%", "5", 0.0, "ok"),
        ("5 %", "5%", 1.0, "ok"),
        ("twelve", "12", 0.0, "unparsable"),
        ("The total is 12", "12", 0.0, "unparsable"),
        ("Green  Tea", "Green Tea", 1.0, "ok"),
        ("green tea", "Green Tea", 0.0, "ok"),
        ("007", "7", 0.0, "unparsable"),
        ("7", "007", 0.0, "ok"),
        ("ｶﾌｪ", "カフェ", 1.0, "ok"),
        ("", "12", 0.0, "empty"),
    ],
)
def test_ocr(answer, reference, value, parsed):
    result = score("ocr", answer, [reference])
    assert (result.value, result.parsed) == (value, parsed)


def test_ocr_similarity_and_tolerance():
    assert score("ocr", "Grean Tea", ["Green Tea"]).similarity == pytest.approx(8 / 9)
    assert score("ocr", "tea", ["coffee", "ten"]).similarity == pytest.approx(2 / 3)
    assert score("ocr", "", ["ten"]).similarity == 0.0
    assert score_ocr("104", ["100"], relative_tolerance=0.05).value == 1.0
    assert score("ocr", "106", ["100"], relative_tolerance=0.05).value == 0.0


def distance(left: str, right: str) -> int:
    """Levenshtein's, by its definition."""

    @functools.cache
    def of(i, j):
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (left[i - 1] != right[j - 1]))

    return of(len(left), len(right))


@given(ASCII, ASCII)
def test_similarity_against_the_definition_of_the_distance(left, right):
    left, right = plain(left), plain(right)
    longer = max(len(left), len(right))
    expected = 1 - distance(left, right) / longer if longer else 1.0
    assert similarity(left, right) == pytest.approx(expected, abs=1e-12)


@given(ASCII, st.lists(ASCII.filter(str.strip), min_size=1, max_size=3))
def test_documents_against_the_definition_of_anls(answer, references):
    said = " ".join(answer.lower().split())
    expected = 0.0
    for reference in references:
        meant = " ".join(reference.lower().split())
        apart = distance(said, meant) / max(len(said), len(meant))
        expected = max(expected, 1 - apart if apart < 0.5 else 0.0)
    assert score("document", answer, references).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("B. a cat", "B"),
        ("(B) a cat", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (B), a cat.", "B"),
        ("Answer: B", "B"),
        ("Option B is right", "B"),
        ("A", "A"),
        ("A. cat", "A"),
        ("A cat", None),
        ("The answer is A cat", None),
        ("I think so", None),
        ("a cat", None),
        ("B or C", None),
        ("The answer is B. The answer is C.", None),
        ("Because", None),
        ("42", None),
    ],
)
def test_the_letter_of_a_choice(answer, letter):
    assert choice_letter(answer) == letter


@pytest.mark.parametrize(
    ("task", "answer", "references", "value", "parsed"),
    [
        ("choice", "B", ["B", "a cat"], 1.0, "ok"),
        ("choice", "C", ["B", "a cat"], 0.0, "ok"),
        ("choice", "A cat.", ["B", "a cat"], 1.0, "ok"),
        ("choice", "a dog", ["B", "a cat"], 0.0, "unparsable"),
        ("document", "Grean Tea", ["green tea"], 8 / 9, "ok"),
        ("document", "ab", ["ac"], 0.0, "ok"),  # just half of it: not near enough
        ("chart", "104", ["100"], 1.0, "ok"),
        ("chart", "106", ["100"], 0.0, "ok"),
        ("chart", "-95", ["-100"], 1.0, "ok"),
        ("chart", "5%", ["0.05"], 1.0, "ok"),
        ("chart", "5", ["5%"], 0.0, "ok"),
        ("chart", "0", ["0"], 1.0, "ok"),
        ("chart", "0.01", ["0"], 0.0, "ok"),
        ("chart", "yes", ["Yes"], 1.0, "ok"),
        ("chart", "nan", ["12"], 0.0, "ok"),
        ("chart", "The value is 12", ["12"], 0.0, "ok"),
        ("contains", "It says STOP here.", ["stop"], 1.0, "ok"),
        ("contains", "It says go", ["stop", "halt"], 0.0, "ok"),
        ("contains", "...", ["stop"], 0.0, "unparsable"),
        ("contains", "a\nb", ["A b"], 1.0, "ok"),
        ("formula", "x ^ { 2 } + 1", ["x^{2}+1"], 1.0, "ok"),
        ("formula", "X^{2}+1", ["x^{2}+1"], 0.0, "ok"),
    ],
)
def test_rules_of_public_sets(task, answer, references, value, parsed):
    result = score(task, answer, references)
    assert (result.value, result.parsed, result.similarity) == (pytest.approx(value), parsed, None)


@given(TEXT, TEXT)
def test_similarity_is_symmetric_and_bounded(left, right):
    assert similarity(left, right) == similarity(right, left)
    assert 0.0 <= similarity(left, right) <= 1.0
    assert (similarity(left, right) == 1.0) == (plain(left) == plain(right))


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("a red ball and a blue cup", "red ball", 2 * 2 / (5 + 2)),  # red ball and blue cup
        ("dog dog dog", "dog cat", 2 * 1 / (3 + 2)),
        ("two dogs", "2 dogs", 1.0),
        ("红色的球", "红球", 2 * 2 / (4 + 2)),
        ("杯子 cup", "cup", 2 * 1 / (3 + 1)),
        ("cat", "dog", 0.0),
    ],
)
def test_caption_by_hand(answer, reference, value):
    assert score("caption", answer, [reference]).value == pytest.approx(value, abs=1e-12)


@given(
    st.lists(st.sampled_from(["dog", "cat", "red", "3"]), min_size=1),
    st.lists(st.sampled_from(["dog", "cat", "3"]), min_size=1),
)
def test_caption_against_precision_and_recall(answer, reference):
    common = sum(min(n, Counter(reference)[word]) for word, n in Counter(answer).items())
    precision, recall = common / len(answer), common / len(reference)
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    result = score("caption", " ".join(answer), ["zebra", " ".join(reference)])
    assert result.value == pytest.approx(expected)
    assert result.value == pytest.approx(score("caption", " ".join(reference), [" ".join(answer)]).value)


@given(SOME_TEXT)
def test_a_reference_answers_itself(text):
    for task in ("vqa", "caption", "ocr"):
        result = score(task, text, ["something else", text])
        assert (result.value, result.parsed) == (1.0, "ok")
    if yes_or_no(text):
        assert score("consistency", text, [text]).value == 1.0


@given(st.sampled_from(TASKS), TEXT, st.sampled_from(["yes", "No."]))
def test_every_answer_gets_a_score(task, answer, reference):
    result = score(task, answer, [reference])
    assert 0.0 <= result.value <= 1.0
    assert (result.parsed == "empty") == (not answer.strip())
    assert result.parsed == "ok" or result.value == 0.0
    assert (result.similarity is None) == (task != "ocr")


def test_bad_questions_are_refused():
    with pytest.raises(InputError, match="unknown task 'poetry'"):
        score("poetry", "a", ["a"])
    with pytest.raises(InputError, match="at least one reference"):
        score("vqa", "a", [])
    with pytest.raises(InputError, match="blank"):
        score("vqa", "a", ["a", " "])
