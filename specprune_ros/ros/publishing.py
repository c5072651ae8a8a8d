"""Publishing from a thread that the shutdown of ROS does not wait for."""
from __future__ import annotations

from typing import Any

from rclpy.context import Context


def publish_while_up(publisher: Any, message: Any, context: Context) -> None:
    """Publish, unless the context is shut down: SIGINT does that in the middle of a query."""
    if not context.ok():
        return
    try:
        publisher.publish(message)
    except Exception:
        # The context may have gone between the question and the deed; nothing else may pass.
        if context.ok():
            raise
