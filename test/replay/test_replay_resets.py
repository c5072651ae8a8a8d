"""Episodes that the recorded node began without a message: calls of reset_episode."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.replay.resets import RecordedEpisodes, Status


def calls(statuses, script, own_instruction=False):
    """Calls at each step: "s" is the next status, any other text an instruction's delivery."""
    episodes = RecordedEpisodes(statuses, own_instruction)
    found = []
    for step in script:
        if step == "s":
            found.append(episodes.at_status())
        else:
            found.append((episodes.before_instruction(step), episodes.after_instruction()))
    return found


def test_without_changes_nothing_is_called():
    assert calls([Status(3, "lift")] * 3, ["lift", "s", "s", "s"]) == [(0, 0), 0, 0, 0]


def test_an_instruction_begins_its_episode_itself():
    statuses = [Status(0, "lift"), Status(1, "place")]
    assert calls(statuses, ["s", "place", "s"]) == [0, (0, 0), 0]
    assert calls(statuses, ["s", "s", "place"]) == [0, 0, (0, 0)]


def test_a_call_is_made_at_its_status():
    assert calls([Status(0, "lift"), Status(1, "lift"), Status(2, "lift")],
                 ["s", "s", "s"]) == [0, 1, 1]


def test_a_call_before_an_instruction_is_made_before_it_is_delivered():
    statuses = [Status(0, "lift"), Status(1, "lift"), Status(1, "place")]
    assert calls(statuses, ["s", "place", "s", "s"]) == [0, (1, 0), 0, 0]
    assert calls(statuses, ["s", "s", "place", "s"]) == [0, 1, (0, 0), 0]


def test_a_call_after_an_instruction_is_made_after_it():
    statuses = [Status(0, "lift", 10, 5), Status(1, "place", 10, 5), Status(2, "place", 12, 6)]
    assert calls(statuses, ["s", "place", "s", "s"]) == [0, (0, 0), 0, 1]
    # The statuses were recorded before the instruction was.
    assert calls(statuses, ["s", "s", "s", "place"]) == [0, 0, 0, (0, 1)]


def test_a_call_that_overtook_the_answer_to_an_instruction_comes_first():
    statuses = [Status(0, "lift", 10, 5), Status(1, "place", 10, 5), Status(1, "place", 10, 5),
                Status(2, "place", 10, 5)]
    assert calls(statuses, ["s", "place", "s", "s", "s"]) == [0, (1, 0), 0, 0, 0]


def test_with_an_instruction_of_ones_own_every_episode_begins_by_a_call():
    statuses = [Status(0, "lift"), Status(1, "place"), Status(2, "place")]
    assert calls(statuses, ["s", "s", "s"], own_instruction=True) == [0, 1, 1]


def test_a_node_that_was_started_again_calls_nothing():
    assert calls([Status(5, "lift"), Status(0, ""), Status(0, "lift")],
                 ["s", "s", "lift", "s"]) == [0, 0, (0, 0), 0]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.integers(0, 1)),
                max_size=12))
def test_no_more_episodes_are_called_for_than_the_recording_had(steps):
    """However statuses and instructions interleave, calls never exceed the episodes begun."""
    statuses, episode = [Status(0, "a")], 0
    for more, instruction, images in steps:
        episode += more
        statuses.append(Status(episode, instruction, statuses[-1].images_received + images))
    script, delivered = [], "a"
    for status in statuses:
        if status.instruction != delivered:
            delivered = status.instruction
            script.append(delivered)
        script.append("s")
    made = sum(step if isinstance(step, int) else sum(step) for step in calls(statuses, script))
    assert 0 <= made <= episode
