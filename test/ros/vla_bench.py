"""vla_node in the process of a test, with a policy that has no network, and the world around it."""
from fake_policy import FakePolicy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from vla_rig import Rig

from specprune_ros.ros.vla_node import VlaNode


class Loader:
    """Makes the node's policies; ``error`` is raised instead while it is set.

    ``meanwhile`` is called as part of loading.
    """

    def __init__(self):
        self.policies = []
        self.error = None
        self.meanwhile = lambda: True

    def __call__(self, settings, warn):
        assert self.meanwhile()
        if self.error:
            raise self.error
        self.policies.append(FakePolicy(settings))
        return self.policies[-1]


class Bench:
    """A node under test, and the world around it."""

    def __init__(self, ros, **parameters):
        self.loader = Loader()
        compressed = parameters.get("image_transport") == "compressed"
        cameras = parameters.get("cameras", ["primary", "wrist"])
        self.rig = Rig(ros, cameras, compressed)
        self.ros = ros
        values = {"use_sim_time": True, "autostart": False, **parameters}
        overrides = [Parameter(name.replace("__", "."), value=v) for name, v in values.items()]
        self.node = ros.add(VlaNode(self.loader, context=ros.context,
                                    parameter_overrides=overrides))

    @property
    def policy(self):
        return self.loader.policies[-1]

    def up(self):
        """Configure, activate, and give the node an arm and a task."""
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self.rig.start()
        return self

    def set(self, **parameters):
        """Set parameters of the node; __ in a name stands for a dot."""
        for name, value in parameters.items():
            result = self.rig.set_parameter(name.replace("__", "."), value)
            assert result.successful, result.reason
        return self
