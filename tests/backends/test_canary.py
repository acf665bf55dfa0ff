"""Is a right answer told from a wrong one, and is a canary file what it says?"""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.canary import Answer, CanaryFileError, Findings, Question, read, shipped
from backends.sglang import known_models

QUESTION = Question("What is 17 plus 25?", ("42", "forty-two"))


@pytest.mark.parametrize(
    "text",
    ["42", "It is **42**.", "17 + 25 = 42", "Forty-Two, of course", "The answer: 42!"],
)
def test_an_expected_word_is_found_whatever_stands_around_it(text: str) -> None:
    assert QUESTION.is_answered_by(text)


@pytest.mark.parametrize("text", ["", "420", "142", "42.5", "3.42", "41", "42nd", "fortytwo"])
def test_a_part_of_another_word_or_number_is_no_answer(text: str) -> None:
    assert not QUESTION.is_answered_by(text)


@pytest.mark.parametrize("text", ["32768", "32,768", "32 768", "= 32\u202f768."])
def test_thousands_may_be_set_apart(text: str) -> None:
    assert Question("2^15?", ("32768",)).is_answered_by(text)


@pytest.mark.parametrize(
    ("right", "of", "least", "is_passed"),
    [(9, 10, 0.9, True), (8, 10, 0.9, False), (7, 10, 0.7, True), (2, 2, 1.0, True), (0, 0, 1, 0)],
)
def test_a_replica_passes_with_the_share_that_is_asked_for(
    right: int, of: int, least: float, is_passed: bool
) -> None:
    answers = [Answer(QUESTION, "x", n < right) for n in range(of)]
    assert Findings(tuple(answers), least).is_passed is bool(is_passed)


def test_wrong_answers_are_told_and_cut_short() -> None:
    told = Findings(
        (Answer(QUESTION, "la " * 500, False), Answer(QUESTION, "42", True)), 1.0
    ).told()
    assert told.startswith("1 of 2 canary answers are right, 2 are needed\n")
    assert "'What is 17 plus 25?' -> 'la la" in told
    assert "(expected: 42 or forty-two)" in told
    assert len(told) < 300


def test_an_engine_that_gives_no_answer_is_told_in_one_line() -> None:
    other = replace(QUESTION, ask="What is 17 plus 26?")
    answers = tuple(Answer(each, "no answer: refused", False) for each in (QUESTION, other))
    told = Findings(answers, 1.0).told()
    assert told == ("0 of 2 canary answers are right, 2 are needed; each was 'no answer: refused'")


@pytest.mark.parametrize("model", known_models())
def test_every_model_with_a_launch_line_has_a_canary(model: str) -> None:
    canary = shipped(model)
    assert canary is not None
    assert canary.model == model
    assert len(canary.questions) > 10
    assert len({each.prompt for each in canary.questions}) == len(canary.questions)
    assert canary.fields["temperature"] == 0
    assert any(each.before for each in canary.questions)


def test_other_models_have_none() -> None:
    assert shipped("nobody's") is None
    assert shipped("../canaries/llama2-70b") is None


def test_a_long_question_has_what_is_to_be_remembered_first(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: m\nquestions:\n"
        "  - {remember: It is 7., filler: La la., times: 3, ask: And now, expect: ['7']}\n"
    )
    (question,) = read(path).questions
    assert question.prompt == "It is 7.\n\nLa la. La la. La la.\n\nAnd now"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[1]", "no mapping"),
        ("model: m", "questions: at least one"),
        ("questions: [{ask: a, expect: [b]}]", "model: a name"),
        ("{model: m, least_right: 2, questions: [{ask: a, expect: [b]}]}", "least_right: 2"),
        ("{model: m, request: {model: x}, questions: [{ask: a, expect: [b]}]}", "request: "),
        ("{model: m, questions: [{ask: a, expect: b}]}", "a list of texts"),
        ("{model: m, questions: [{ask: a, expect: [b], hint: c}]}", "unknown: hint"),
        ("{model: m, questions: [{ask: 'say 7', expect: ['7']}]}", "repeats the question"),
        ("{model: m, questions: [{ask: a, expect: [b], times: x}]}", "times is a number"),
        ("model: [", "while parsing"),
    ],
)
def test_a_file_that_is_none_says_what_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(CanaryFileError, match=why) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CanaryFileError, match=r"nowhere\.yaml"):
        read(tmp_path / "nowhere.yaml")
