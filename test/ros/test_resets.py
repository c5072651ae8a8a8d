"""The answer to a reset: what vla_node writes, sim_bridge_node reads."""
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.ros.conversions import ns_to_text
from specprune_ros.ros.resets import reset_answer, reset_number, reset_start


@given(st.integers(0, 10**6), st.integers(0, 2**62))
def test_the_time_arrives_to_the_nanosecond(episode, start):
    answer = reset_answer(episode, start)
    assert (reset_number(answer), reset_start(answer)) == (episode, start)
    seconds, _, rest = ns_to_text(start).partition(".")
    assert len(rest) == 9 and int(seconds + rest) == start


def test_other_answers_say_nothing_of_a_time_or_number():
    assert reset_start("") is None
    assert reset_number("") is None and reset_number("a new episode") is None
    assert reset_start("episode 3 from 1.5 s") is None
