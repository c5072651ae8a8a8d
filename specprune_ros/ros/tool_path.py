"""Where the tool was at the queries of the running episode, for RViz, Foxglove and others."""
from __future__ import annotations

from collections import deque

from geometry_msgs.msg import Point, PoseStamped, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from nav_msgs.msg import Path

from .messages import header
from .query import QueryResult

MOST_POSES = 600  # the newest; an episode of LIBERO has 65 queries


class ToolPath:
    """Collects poses of the tool in the base frame; starts anew with every episode."""

    def __init__(self) -> None:
        self._poses: deque[PoseStamped] = deque(maxlen=MOST_POSES)
        self._episode: int | None = None

    def add(self, result: QueryResult) -> None:
        """Take the pose that belongs to the observation of a query, if the arm reported one."""
        job = result.job
        if job.episode != self._episode:
            self._poses.clear()
            self._episode = job.episode
        if job.query.arm is None:
            return
        pose = job.query.arm.pose
        x, y, z = map(float, pose.position)
        qx, qy, qz, qw = map(float, pose.quaternion_xyzw)
        self._poses.append(PoseStamped(
            header=header(job.query.stamp, job.settings),
            pose=PoseMessage(position=Point(x=x, y=y, z=z),
                             orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))))

    def message(self, result: QueryResult) -> Path:
        """The path so far, stamped as the query."""
        return Path(header=header(result.job.query.stamp, result.job.settings),
                    poses=list(self._poses))
