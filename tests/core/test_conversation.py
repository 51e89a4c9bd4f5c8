"""A flow can be tested as a dialogue."""

from collections.abc import Generator

import pytest

from railcore.testing.conversation import Conversation


def division() -> Generator[str, int, str]:
    first = yield "first"
    try:
        second = yield "second"
    except TimeoutError:
        return "lost"
    return str(first // second)


def test_each_answer_leads_to_the_next_question() -> None:
    talk = Conversation(division())

    asked = [talk.asks]
    talk.answer(6)
    asked.append(talk.asks)
    talk.answer(3)

    assert asked == ["first", "second"]
    assert talk.result == "2"
    assert talk.is_over


def test_a_failure_arrives_where_the_flow_waits() -> None:
    talk = Conversation(division())

    talk.answer(6)
    talk.fail(TimeoutError())

    assert talk.result == "lost"


def test_an_exception_of_the_flow_reaches_the_test() -> None:
    talk = Conversation(division())
    talk.answer(6)

    with pytest.raises(ZeroDivisionError):
        talk.answer(0)


def test_there_is_no_result_before_the_end() -> None:
    with pytest.raises(AssertionError, match="has not ended"):
        _ = Conversation(division()).result


def test_nothing_is_asked_after_the_end() -> None:
    talk = Conversation(division())
    talk.answer(6)
    talk.answer(3)

    with pytest.raises(AssertionError, match="asks for nothing more"):
        talk.answer(1)
