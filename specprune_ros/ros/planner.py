"""When to query the policy, and with what. Plain Python; stamps are integer nanoseconds."""
from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from ..errors import ObservationError
from .arm_state import ArmSample, ArmTracker, JointReading
from .conversions import NANOSECONDS
from .inputs import ImageSet, ImageSynchronizer
from .vla_parameters import VlaSettings
from .wording import about, staleness

_READY_SETS = 16  # sets kept while a query runs; the frame ring looks back 11 periods at most
JOINT_STATES = "joint_states"


def camera_input(camera: str) -> str:
    """Name of a camera among the inputs of VlaStatus, and its topic's prefix."""
    return f"camera/{camera}"


@dataclass(frozen=True)
class TimedSet:
    """One picture per camera and the state of the arm at that time, None where it is not used."""

    pictures: ImageSet
    arm: ArmSample | None

    @property
    def stamp(self) -> int:
        return self.pictures.stamp


@dataclass(frozen=True)
class Job:
    """Work for the inference thread: frames for the frame ring, then at most one query.

    early: the controller asked for the query before its time; the next one is due as if it had
    not been.
    """

    observe: tuple[TimedSet, ...]
    query: TimedSet | None
    instruction: str
    episode: int
    settings: VlaSettings
    early: bool = False


class QueryPlanner:
    """Collects inputs and hands out jobs. Not thread-safe; times are ns on the ROS clock.

    Joint states are matched to a set of pictures once one of its stamp or later has come, so that
    the nearest is known and the result does not depend on which topic is faster.
    """

    def __init__(self, settings: VlaSettings, needs_arm: bool) -> None:
        """``needs_arm``: no query without proprio; otherwise the arm is used if it reports."""
        self.settings = settings
        self.needs_arm = needs_arm
        self.arm = ArmTracker(settings, with_proprio=needs_arm)
        self.sync = ImageSynchronizer(settings["cameras"], _ns(settings["sync_slop"]))
        self.instruction = ""
        self.episode = 0
        self.arm_mismatches = 0
        self.inputs = (*map(camera_input, settings["cameras"]), JOINT_STATES)
        self.newest: dict[str, int] = {}  # stamp of the newest message of each input
        self.received: Counter[str] = Counter()  # messages of each input, good or bad
        self._ready: deque[ImageSet] = deque(maxlen=_READY_SETS)
        self._last_set: TimedSet | None = None
        self._first_picture: int | None = None  # stamp, since pictures were last forgotten
        self._reconsider = False  # whether a new episode may start from the last set
        self._busy = False  # a query is being run
        self._last_query: int | None = None  # stamp
        self._replan = False  # the controller wants a query as soon as possible
        self._too_late = False  # the newest set was too old for a query that was due
        self._not_before: int | None = None  # what is older than this belongs to another episode
        self._clock_unknown = False  # whether inputs came while the clock was not known

    @property
    def unsynchronised(self) -> int:
        """Observations that could not be assembled because of their stamps."""
        return self.sync.unmatched + self.arm_mismatches

    def apply(self, settings: VlaSettings) -> None:
        """Use other settings; raises ConfigurationError as ArmTracker.apply does."""
        self.arm.apply(settings)
        self.settings = settings
        self.sync.slop = _ns(settings["sync_slop"])

    def check_stamp(self, stamp: int, now: int) -> None:
        """Check that a stamp can be of now; call it before the message is used for anything.

        ``input_timeout`` is allowed for: a picture may overtake the /clock message of its time.

        Raises:
            ObservationError: it lies farther in the future. Kept, it would pass for the newest
                until that time has come.
        """
        if now == 0:  # simulated time that has not begun: nothing to compare with
            self._clock_unknown = True
            return
        latest = now + _ns(self.settings["input_timeout"])
        if self._clock_unknown:
            self._clock_unknown = False
            self.time_went_back(latest)  # drops what would have been refused
        if stamp > latest:
            raise ObservationError(
                f"stamped {about((stamp - now) / NANOSECONDS)} in the future of the node's clock."
                " The message is not used. Check the clocks of publisher and node, and "
                "use_sim_time")

    def note(self, name: str, stamp: int) -> None:
        """Note that a message of an input has come, good or bad."""
        self.newest[name] = stamp
        self.received[name] += 1

    def add_image(self, camera: str, stamp: int, image: Any) -> None:
        """Take a picture, of any type. Stamps that jump back start a new episode."""
        last = self._last_set.stamp if self._last_set else None
        if last is not None and stamp < last - _ns(self.settings["input_timeout"]):
            self.time_went_back(stamp)
        if self._not_before is not None and stamp < self._not_before:
            return
        if self._first_picture is None:
            self._first_picture = stamp
        complete = self.sync.add(camera, stamp, image)
        if complete is not None:
            self._ready.append(complete)

    def add_joints(self, reading: JointReading) -> None:
        """Take a joint state; raises JointStateError as ArmTracker.add does.

        One of before the last reset is left out: the arm may have been somewhere else.
        """
        if self._not_before is None or reading.stamp >= self._not_before:
            self.arm.add(reading)

    def set_instruction(self, text: str) -> bool:
        """Take the task; returns whether it is another one, which starts a new episode.

        The newest pictures stay: the new task starts from them.

        Raises:
            ObservationError: it is empty. There is no task then until one comes.
        """
        text = text.strip()
        if not text:
            self.instruction = ""
            raise ObservationError("the instruction is empty. Publish the task in natural "
                                   "language, e.g. 'pick up the red cube'.")
        if text == self.instruction:
            return False
        self.instruction = text
        if self._last_query is not None or self._busy:
            self._next_episode()
        self._reconsider = True
        return True

    def restart(self) -> None:
        """Start a new episode from the pictures that are there (the node was activated)."""
        if self._last_query is not None or self._busy:
            self._next_episode()
        self._reconsider = True

    def reset(self, now: int) -> None:
        """Start a new episode from pictures and joint states that are not older than now."""
        self._next_episode()
        self._forget_pictures()
        self.arm.forget_motion()
        self._not_before = now

    def time_went_back(self, now: int) -> bool:
        """Drop what lies in the future since a clock jump; returns whether anything did.

        If so, a new episode starts. Messages of the new time that overtook the clock stay.
        """
        known = (self._last_query, *self.newest.values(), self._not_before)
        if not any(stamp is not None and stamp > now for stamp in known):
            return False
        self._next_episode()
        self.sync.forget_after(now)
        self._ready = deque((s for s in self._ready if s.stamp <= now), maxlen=_READY_SETS)
        self._last_set = self._first_picture = None
        self.arm.forget_after(now)
        self._not_before = None
        self.newest = {name: min(stamp, now) for name, stamp in self.newest.items()}
        return True

    def time_went_forward(self) -> bool:
        """Forget what lies before a gap in time; returns whether a new episode started."""
        began = self._last_query is not None or self._busy
        if began:
            self._next_episode()
        self._last_set = self._first_picture = None
        self.arm.forget_motion()
        return began

    def clock_changed(self) -> bool:
        """Forget every input: their stamps are of another clock; returns whether a new episode
        started."""
        began = self._last_query is not None or self._busy
        if began:
            self._next_episode()
        self._forget_pictures()
        self.arm.forget_after(-1)
        self.newest.clear()
        self._not_before = None
        self._clock_unknown = False
        return began

    def next_job(self, now: int) -> Job | None:
        """What to do next, or None if there is nothing to do."""
        if now == 0:  # simulated time that has not begun: nothing is known to be new
            return None
        sets = self._matched_sets()
        again = not sets and self._reconsider and self._last_set is not None
        if again:
            sets = [self._last_set]
        if not sets:
            return None
        self._last_set = sets[-1]
        if not self.instruction:
            return None
        self._reconsider = False
        stamp = sets[-1].stamp
        due = self._due(stamp)
        early = self._replan and not due
        self._busy = (due or early) and self._fresh(stamp, now)
        self._too_late = (due or early) and not self._busy and not again
        self._replan = self._replan and not self._busy
        return Job(tuple(sets[:-1] if self._busy else sets), sets[-1] if self._busy else None,
                   self.instruction, self.episode, self.settings, early)

    def finished(self, job: Job, success: bool, replan: bool = False) -> None:
        """Note the outcome of a job's query; after a failure the next observation tries again.

        ``replan``: the frames of the job made the controller ask for a query at once.
        """
        self._busy = False
        if job.episode != self.episode:
            return
        if job.query is None:
            self._replan = self._replan or replan
        elif job.early:
            return
        elif success:
            self._last_query = job.query.stamp
        else:
            self.sync.allow_again()

    def ages(self, now: int) -> list[float | None]:
        """Seconds since the stamp of the newest message of each of ``inputs``."""
        return [(now - self.newest[name]) / NANOSECONDS if name in self.newest else None
                for name in self.inputs]

    def missing(self, now: int) -> list[str]:
        """What keeps the node from querying, in words; empty if nothing does."""
        needed = self.inputs if self.needs_arm else self.inputs[:-1]
        if now == 0:  # no age is known
            problems = ["clock: simulated time has not begun. Publish /clock, or set use_sim_time "
                        "to false", *(staleness(name, None, 0) for name in needed
                                      if name not in self.newest)]
        else:
            problems = [staleness(name, age, self.settings["input_timeout"])
                        for name, age in zip(needed, self.ages(now))]
        if self.needs_arm and not self.arm.ready:
            problems.append("robot_description: none yet. Publish a URDF on it (transient local) "
                            "or set the parameter robot_description_file")
        if not self.instruction:
            problems.append("instruction: none yet. Publish the task as std_msgs/String")
        problems = [problem for problem in problems if problem]
        if not problems and self._out_of_step(now):
            problems.append(
                f"no pictures whose stamps agree within sync_slop ({self.settings['sync_slop']} s)"
                " and a joint state near them. Check the stamps of the publishers, or raise "
                "sync_slop")
        if not problems and self._too_late:
            problems.append(
                f"pictures come when they are more than {self._longest_age:g} s old: what the "
                "policy makes of them would come too late. Check the latency of the cameras and "
                "the clocks, or raise guard.max_age")
        return problems

    def _fresh(self, stamp: int, now: int) -> bool:
        """Whether a chunk for an observation would come in time to be played."""
        return (abs(now - stamp) <= _ns(self.settings["input_timeout"])
                and now - stamp < _ns(self._longest_age))

    @property
    def _longest_age(self) -> float:
        """Age (s) of an observation at which the guard will refuse its chunk."""
        chunk = self.settings["chunk_length"] * self.settings["control_period"]
        return min(chunk, self.settings["guard.max_age"] or chunk)

    def _due(self, stamp: int) -> bool:
        if self._last_query is None:
            return True
        # A tenth of a period early still counts: stamps jitter.
        periods = self.settings["replan_steps"] - 0.1
        return stamp - self._last_query >= _ns(periods * self.settings["control_period"])

    def _matched_sets(self) -> list[TimedSet]:
        """The sets of pictures whose arm state is decided."""
        matched = []
        while self._ready:
            pictures = self._ready[0]
            if self._must_wait_for_arm(pictures.stamp):
                break
            self._ready.popleft()
            found = self.arm.samples.nearest(pictures.stamp)
            near = max(_ns(self.settings["control_period"]), self.sync.slop)
            if found is not None and abs(found[0] - pictures.stamp) <= near:
                matched.append(TimedSet(pictures, found[1]))
            elif self.needs_arm:
                self.arm_mismatches += 1
            else:
                matched.append(TimedSet(pictures, None))
        return matched

    def _must_wait_for_arm(self, stamp: int) -> bool:
        newest = self.arm.samples.newest
        if newest is None:
            return self.needs_arm
        if newest >= stamp:
            return False
        # The arm reports later than the cameras, unless it has stopped to report.
        return self.needs_arm or (
            self._ready[-1].stamp - newest <= _ns(self.settings["input_timeout"]))

    def _out_of_step(self, now: int) -> bool:
        """Whether pictures come, but none that can be matched."""
        since = self._last_set.stamp if self._last_set else self._first_picture
        if self._busy or since is None:
            return False
        return now - since > 2 * _ns(self.settings["input_timeout"])

    def _next_episode(self) -> None:
        self.episode += 1
        self._last_query = None
        self._replan = False

    def _forget_pictures(self) -> None:
        self.sync.clear()
        self._ready.clear()
        self._last_set = self._first_picture = None
        self._reconsider = False


def _ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
