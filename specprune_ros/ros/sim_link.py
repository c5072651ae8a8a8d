"""The bridge's side of the conversation with the policy node: chunks, resets, status, waiting.

Everything runs in the caller's thread: callbacks are served while one of the waits is in progress,
so that the simulator is never touched from two threads (GL contexts belong to one).
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from specprune_ros.msg import ActionChunk, VlaStatus

from ..errors import ActionError
from .conversions import ns_to_text, stamp_to_ns
from .resets import reset_number, reset_start
from .sim_chunks import ChunkContract, PlayableChunk, playable_chunk
from .sim_outputs import LATCHED

RESET_SERVICE = "vla_node/reset_episode"
RETRY_S = 0.5  # between two calls of a service that refused
CLOCK_RETRY_S = 0.02  # the same where only /clock was slower than the call
_MAX_SPIN_S = 0.1  # services that come up wake nobody


class PolicyLink:
    """Receives chunks and starts episodes at the policy node.

    rejected: chunks that could not be played, with the reason logged.
    """

    def __init__(self, node: Node, contract: ChunkContract, chunk_timeout: float,
                 stopping: Callable[[], bool]) -> None:
        """stopping: whether the waits shall end; looked at ten times a second."""
        self._node = node
        self._log = node.get_logger()
        self._contract = contract
        self._timeout = chunk_timeout
        self._stopping = stopping
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._instruction = ""
        self._earliest_ns = 0
        self._exact = False
        self._episode = 0  # as vla_node counts
        self._newest: PlayableChunk | None = None
        self._answered_ns = 0  # stamp of the observation that was answered last
        self._seen_ns = 0  # stamp of the newest chunk of the policy, expected or not
        self._status: VlaStatus | None = None
        self._complaints: set[str] = set()
        self._rejection = ""
        self.rejected = 0
        self._chunks = node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, 10)
        self._states = node.create_subscription(VlaStatus, "vla_status", self._on_status, LATCHED)
        self._reset = node.create_client(Trigger, RESET_SERVICE)
        self._reset_name = node.resolve_service_name(RESET_SERVICE)

    def close(self) -> None:
        self._executor.shutdown()

    # ---- waiting -----------------------------------------------------------------------------

    def spin_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Serve callbacks until ``condition()`` holds; False after ``timeout`` wall seconds.

        Raises ExternalShutdownException when it is time to stop, or the context was shut down.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            self._check_up()
            remaining = deadline - time.monotonic()
            if remaining <= 0.0:
                return False
            self._executor.spin_once(timeout_sec=min(remaining, _MAX_SPIN_S))
        return True

    def serve(self, callbacks: int = 10) -> None:
        """Serve up to this many callbacks that are ready, without waiting."""
        for _ in range(callbacks):
            self._check_up()
            self._executor.spin_once(timeout_sec=0.0)

    def _check_up(self) -> None:
        if self._stopping() or not self._node.context.ok():
            raise ExternalShutdownException

    # ---- episodes ----------------------------------------------------------------------------

    def begin_episode(self, stamp_ns: int, set_clock: Callable[[], None],
                      patience: float | None = None) -> bool:
        """Have the policy node start an episode of observations from ``stamp_ns`` on.

        ``set_clock`` publishes that time. Clock, joint states, pictures and the service travel
        without order among them, so a node whose clock was still behind would take what is on its
        way of the last episode for the new one's: it is asked again. Waits without end
        (``patience`` None) or at most that many wall seconds; returns whether the node agreed.
        Chunks that come meanwhile are not taken.
        """
        self.expect("", 0, exact=True)
        self._seen_ns = 0
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            set_clock()
            answer = self._call_reset()
            start = None if answer is None else reset_start(answer)
            if answer is not None and (start is None or start >= stamp_ns):
                self._episode = reset_number(answer) or 0
                self._content("the policy node has started the episode")
                return True
            if start is not None:
                self._complain("clock", f"the clock of vla_node is at {ns_to_text(start)} s, the "
                               f"simulated time is {ns_to_text(stamp_ns)} s; trying again")
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self.spin_until(lambda: False, RETRY_S if answer is None else CLOCK_RETRY_S)

    def await_instruction(self, instruction: str) -> None:
        """Wait until the policy node knows the instruction, ``chunk_timeout`` at most.

        An observation that overtakes it would be answered for the previous task.
        """
        if self._node.count_publishers("vla_status"):
            self.spin_until(lambda: self._status is not None
                            and self._status.instruction == instruction, self._timeout)

    def _call_reset(self) -> str | None:
        """The policy node's answer, None if it refused or gave none."""
        if not self._reset.service_is_ready():
            ready = self.spin_until(self._reset.service_is_ready, min(self._timeout, 2.0))
            if not ready:
                self._complain("service", f"waiting for service {self._reset_name}: is "
                               "vla_node up and configured?")
                return None
        future = self._reset.call_async(Trigger.Request())
        if not self.spin_until(future.done, self._timeout):
            self._reset.remove_pending_request(future)
            self._complain("answer", f"no answer from {self._reset_name} in "
                           f"{self._timeout:g} s{self._policy_state()}; trying again")
            return None
        answer = future.result()
        if not answer.success:
            self._complain("refusal", f"{self._reset_name} refused: {answer.message}"
                           f"{self._policy_state()}; trying again")
            return None
        return answer.message

    # ---- chunks ------------------------------------------------------------------------------

    def expect(self, instruction: str, stamp_ns: int, exact: bool) -> None:
        """From now on take chunks for ``instruction`` computed at ``stamp_ns`` (or later, unless
        ``exact``); forget the one held."""
        self._instruction, self._earliest_ns, self._exact = instruction, stamp_ns, exact
        self._newest = None

    def await_chunk(self, republish: Callable[[], None]) -> PlayableChunk:
        """The chunk that :meth:`expect` asked for; ``republish`` is called at every time-out.

        A hold of that stamp is one: vla_node has no other answer to the observation. Where it has
        answered another one since (it tried again after a hold), its next query would be due after
        this observation: then it is asked to start anew. So it is, at once, where somebody else
        has started an episode: then the observation is forgotten, or the next query due elsewhere.
        But only once: the answer to that may come late, and each reset ends a query.
        """
        asked = False
        while True:
            interrupted = self.spin_until(
                lambda: self._newest is not None or self._left_behind(), self._timeout)
            if self._newest is not None:
                break
            if interrupted:
                self._log.info("vla_node has started another episode; the world goes on in it")
                self._episode = self._status.episode
            else:
                self._complain("chunk", f"no chunk for the observation at "
                               f"{self._earliest_ns / 1e9:.3f} s after {self._timeout:g} s"
                               f"{self._policy_state()}; publishing it again")
            if (interrupted and not asked) or self._seen_ns > self._answered_ns:
                self._seen_ns, asked = 0, True
                self._episode = reset_number(self._call_reset() or "") or self._episode
            republish()
        self._content("chunks arrive again")
        chunk, self._newest = self._newest, None
        self._answered_ns = chunk.stamp_ns
        return chunk

    def _left_behind(self) -> bool:
        """Whether vla_node is in a later episode than the one this node has begun."""
        return 0 < self._episode < (self._status.episode if self._status else 0)

    def take_newest(self) -> PlayableChunk | None:
        """The newest chunk that has arrived since the last call, None without one."""
        chunk, self._newest = self._newest, None
        return chunk

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            chunk = playable_chunk(message, self._contract)
        except ActionError as error:
            self.rejected += 1
            if str(error) != self._rejection:  # the same defect is reported once in a row
                self._rejection = str(error)
                self._log.warning(f"chunk rejected ({self.rejected} so far): {error}")
            return
        self._rejection = ""
        stamp_ns = stamp_to_ns(message.header.stamp)
        fits = stamp_ns == self._earliest_ns if self._exact else stamp_ns >= self._earliest_ns
        if message.instruction == self._instruction and not chunk.hold:
            self._seen_ns = stamp_ns
        if chunk.hold:  # the one that ends an episode has the stamp with which the next begins
            fits = fits and chunk.episode >= self._episode
        if message.instruction != self._instruction or not fits:
            self._log.debug(f"chunk at {chunk.stamp:.3f} s for {message.instruction!r} is not the "
                            "one expected; ignored")
        elif self._newest is None or chunk.stamp_ns > self._newest.stamp_ns:
            self._newest = replace(chunk, received=time.monotonic())

    def _on_status(self, message: VlaStatus) -> None:
        self._status = message

    # ---- logs: once when something begins, once when it ends ---------------------------------

    def _complain(self, kind: str, text: str) -> None:
        if kind not in self._complaints:
            self._complaints.add(kind)
            self._log.warning(text)

    def _content(self, text: str) -> None:
        if self._complaints:
            self._log.info(text)
        self._complaints.clear()

    def _policy_state(self) -> str:
        if self._status is None or not self._status.fault_text:
            return ""
        return f" (vla_node: {self._status.fault_text})"
