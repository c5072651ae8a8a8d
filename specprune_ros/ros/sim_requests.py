"""Which episode sim_bridge_node plays next: by its parameters, and at whose request."""
from __future__ import annotations

from collections.abc import Callable, Iterable

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from .sim_parameters import BridgeParameters

Wait = Callable[[Callable[[], bool], float], bool]  # as PolicyLink.spin_until

PLAY_SERVICE = "~/play_episode"
_WAIT_S = 1.0


class EpisodeQueue:
    """Task and initial state of each next episode; with ``on_request``, when it may begin.

    ``task`` and ``seed`` count from the next episode on; a seed that is set is the initial state of
    that episode, and each further one adds one. With ``on_request`` an episode begins for each call
    of ``~/play_episode``, which is refused while one is played.
    """

    def __init__(self, node: Node, parameters: BridgeParameters, tasks: int) -> None:
        """tasks: how many the suite has."""
        self._tasks = tasks
        self._task, self._init_state = parameters.task, parameters.seed
        self._number = 0  # of the next episode
        self._on_request = parameters.on_request
        self._asked = not self._on_request
        self._playing = False
        node.add_on_set_parameters_callback(self._on_set)
        if self._on_request:
            node.create_service(Trigger, PLAY_SERVICE, self._on_play)

    def begin(self, wait: Wait) -> tuple[int | None, int]:
        """Wait until an episode may begin; its task (None: the state decides) and initial state."""
        while not wait(lambda: self._asked, _WAIT_S):
            pass
        self._playing = True
        self._init_state += 1
        self._number += 1
        return self._task, self._init_state - 1

    def end(self) -> None:
        """The episode is over."""
        self._playing = False
        self._asked = not self._on_request

    def _on_play(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._asked:
            begun = self._number - 1 if self._playing else self._number
            response.message = f"episode {begun} is not over"
            return response
        self._asked = response.success = True
        task = "by the initial state" if self._task is None else self._task
        response.message = f"episode {self._number}: initial state {self._init_state}, task {task}"
        return response

    def _on_set(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        values = {p.name: p.value for p in parameters}
        task = values.get("task", -1)
        if task >= self._tasks:
            return SetParametersResult(
                successful=False, reason=f"task is {task}; the suite has {self._tasks} tasks")
        if "task" in values:
            self._task = None if task < 0 else task
        if "seed" in values:
            self._init_state = values["seed"]
        return SetParametersResult(successful=True)
