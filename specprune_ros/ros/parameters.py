"""Parameters of a node from one table: declared, checked, changed live, documented."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar, Union

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..errors import ConfigurationError

Value = Union[bool, int, float, str, "tuple[int, ...]", "tuple[float, ...]", "tuple[str, ...]"]


class Change(Enum):
    """When a parameter can be changed; the text is what a user is told."""

    LIVE = "at any time; used from the next query on"
    NEXT_EPISODE = "at any time; used from the next episode on"
    UNCONFIGURED = "while the node is unconfigured"
    START = "read-only; set it at start"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. The ROS type follows from the default (tuples are arrays).

    low, high: inclusive range of a number, or of each element of an array.
    choices: the strings that are allowed; empty for any. Where on or off is among them, booleans
        are taken for these: YAML makes one of a bare on or off.
    derived: a start value that is not given follows from others (Settings.started).
    """

    name: str
    default: Value
    description: str
    change: Change = Change.LIVE
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    derived: bool = False

    @property
    def type(self) -> Parameter.Type:
        """The ROS type, e.g. DOUBLE or STRING_ARRAY."""
        default = list(self.default) if isinstance(self.default, tuple) else self.default
        return Parameter.Type.from_parameter_value(default)

    @property
    def read_only(self) -> bool:
        return self.change is Change.START

    @property
    def takes_booleans(self) -> bool:
        return not {"on", "off"}.isdisjoint(self.choices)

    def take(self, value: object) -> Value:
        """Return a value as ROS gives it in the type of the default.

        Raises:
            ConfigurationError: it has another type, where ROS does not check that itself.
        """
        if self.takes_booleans:
            if isinstance(value, bool):
                return "on" if value else "off"
            if not isinstance(value, str):
                raise ConfigurationError(f"{self.name} is {value!r}, which is no string; choose "
                                         f"one of {', '.join(self.choices)}")
        return _frozen(value)

    def check(self, value: Value) -> None:
        """Raise ConfigurationError unless the value lies in the range and among the choices."""
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                raise ConfigurationError(f"{self.name} is {item}; it must be finite")
            if self.choices and item not in self.choices:
                raise ConfigurationError(
                    f"{self.name} is {item!r}; choose one of {', '.join(self.choices)}")
            if self.low is not None and item < self.low or (
                    self.high is not None and item > self.high):
                raise ConfigurationError(
                    f"{self.name} is {item}; it must lie between {self.low} and {self.high}")


S = TypeVar("S", bound="Settings")


class Settings(Mapping):
    """The values of all parameters at one time, and how often they had been changed by then.

    Immutable, so that a query can go on with the settings it started with. A node's own settings
    are a subclass with its table, and with what its values must satisfy together.
    """

    specs: tuple[ParameterSpec, ...] = ()

    def __init__(self, values: Mapping[str, Value] | None = None, revision: int = 0) -> None:
        """Take the default for what ``values`` lack."""
        values = values or {}
        self.revision = revision
        self._values = {spec.name: spec.default for spec in self.specs}
        unknown = sorted(set(values) - set(self._values))
        if unknown:
            raise ConfigurationError(f"unknown parameters: {', '.join(unknown)}")
        self._values.update({name: _frozen(value) for name, value in values.items()})

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @classmethod
    def started(cls: type[S], given: Mapping[str, Value]) -> S:
        """The settings at start, from the values that are given."""
        return cls(given)

    def completed(self, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """What changes with values that somebody changes; raises ConfigurationError as a veto."""
        return values

    def changed(self: S, values: Mapping[str, Value]) -> S:
        """Return the settings with other values and the next revision, checked.

        Where these settings do not fit together already (they came from a file), only the values
        that change are checked: a user mends one after another.

        Raises:
            ConfigurationError: the reason for a veto.
        """
        values = self.completed(values)
        settings = type(self)({**self._values, **values}, self.revision + 1)
        try:
            self.check()
        except ConfigurationError:
            for spec in self.specs:
                if spec.name in values:
                    spec.check(settings[spec.name])
        else:
            settings.check()
        return settings

    def check(self) -> None:
        """Raise ConfigurationError where a value, or values together, make no sense."""
        for spec in self.specs:
            spec.check(self[spec.name])


class ParameterServer(Generic[S]):
    """Declares the parameters on a node, keeps its settings and decides about changes.

    Changes are made in the executor's thread; ``settings`` may be read from any thread.
    """

    def __init__(self, node: Node, kind: type[S], apply: Callable[[S], None],
                 changed: Callable[[], None]) -> None:
        """Declare every parameter of ``kind``.

        ``apply`` is called with changed settings before they are set, and vetoes them by a
        ConfigurationError; ``changed`` is called after they were set.

        Raises:
            rclpy.exceptions.ParameterException: a start value has the wrong type or lies outside
                its range. Values that do not fit together only show in Settings.check().
        """
        self._node, self._apply, self._changed = node, apply, changed
        self._specs = {spec.name: spec for spec in kind.specs}
        declared = node.declare_parameters(
            "", [(spec.name, spec.type if spec.derived else _thawed(spec.default), descriptor(spec))
                 for spec in kind.specs])
        self.settings: S = kind.started({
            p.name: self._start_value(p) for p in declared if p.type_ != Parameter.Type.NOT_SET})
        self._show({p.name: p.value for p in declared})
        self.configured = False  # set by the node: which parameters may change
        self._showing = False
        node.add_on_set_parameters_callback(self._on_set)

    def _start_value(self, declared: Parameter) -> Value:
        try:
            return self._specs[declared.name].take(declared.value)
        except ConfigurationError as error:
            raise ParameterException(str(error), declared.name) from error

    def note(self, name: str, value: Value) -> None:
        """Show a value that came another way; it is no change by a user and has no revision."""
        before = self.settings
        if before[name] != value:
            self.settings = type(before)({**before, name: value}, before.revision)
            self._quietly_show(before)

    def _quietly_show(self, shown: Mapping[str, object]) -> None:
        self._showing = True
        try:
            self._show(shown)
        finally:
            self._showing = False

    def _show(self, shown: Mapping[str, object]) -> None:
        """Set the node's parameters to the settings where what they show is something else."""
        other = [Parameter(name, value=_thawed(value)) for name, value in self.settings.items()
                 if not _same(shown[name], value)]
        if other:
            self._node.set_parameters(other)

    def _on_set(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        if self._showing:
            return SetParametersResult(successful=True)
        # Others, such as use_sim_time and QoS overrides, are not ours to judge.
        try:
            values = {p.name: self._specs[p.name].take(p.value)
                      for p in parameters if p.name in self._specs}
            values = {name: v for name, v in values.items() if v != self.settings[name]}
            if not values:
                return SetParametersResult(successful=True)
            for name in values:
                if self.configured and self._specs[name].change is Change.UNCONFIGURED:
                    raise ConfigurationError(f"{name} can only be changed while the node is "
                                             "unconfigured: call the cleanup transition first")
            before, settings = self.settings, self.settings.changed(values)
            self._apply(settings)
            self.settings = settings
            self._quietly_show({**before, **values})  # what changes along with what was set
            self._changed()
        except ConfigurationError as veto:
            # Some clients, rqt_reconfigure among them, show neither the refusal nor its reason.
            self._node.get_logger().warning(f"parameters stay as they were: {veto}")
            return SetParametersResult(successful=False, reason=str(veto))
        return SetParametersResult(successful=True)


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """Return what ``ros2 param describe`` and rqt show of a parameter."""
    result = ParameterDescriptor(
        name=spec.name, type=spec.type.value, description=spec.description,
        read_only=spec.read_only, dynamic_typing=spec.takes_booleans)
    notes = [f"Changed {spec.change.value}."]
    if spec.choices:
        notes.append(f"One of: {', '.join(spec.choices)}.")
    if spec.low is not None and spec.type is Parameter.Type.INTEGER:
        result.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high))]
    elif spec.low is not None and spec.type is Parameter.Type.DOUBLE:
        result.floating_point_range = [
            FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high))]
    elif spec.low is not None:
        notes.append(f"Each from {spec.low} to {spec.high}.")
    result.additional_constraints = " ".join(notes)
    return result


def _same(shown: object, value: object) -> bool:
    """Whether two values are equal and of one kind: True is not 1, and not on."""
    if shown is None or isinstance(shown, bool) != isinstance(value, bool):
        return False
    return _frozen(shown) == value


def _frozen(value: object) -> Value:
    return value if isinstance(value, (bool, int, float, str)) else tuple(value)


def _thawed(value: Value) -> object:
    return list(value) if isinstance(value, tuple) else value
