"""What a run holds for one condition of ComfyUI: its branches' states, and what its latest clean pass recorded.

A prompt may come as several conditions with areas, masks and times of their own. ComfyUI evaluates each and joins the
answers; what a branch has seen inside the network belongs to one of them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from ...core import Perturbation, Rule, State, Step, Tokens
from ...engine.course import Course
from ...engine.network import Network
from ...engine.trajectory import Trajectory
from ...errors import NoEffect
from ...maths.streams import Streams


@dataclass
class Ahead:
    """What is known of a run before it begins."""

    levels: Trajectory
    uncond: bool

    def trajectory(self) -> Trajectory:
        """The noise levels."""
        return self.levels


@dataclass
class Site:
    """One condition. seen: the step of its latest clean pass; rows: its rows in it."""

    course: Course
    looked: bool = False
    seen: Step | None = None
    rows: slice = field(default_factory=lambda: slice(None))
    recorded: dict[int, Tokens] = field(default_factory=dict)
    kept: dict[int, Tokens] = field(default_factory=dict)

    @property
    def states(self) -> dict[Perturbation, State]:
        """By branch."""
        return self.course.states


class Sites:
    """The conditions of one run, each begun when its first evaluation comes."""

    def __init__(self, network: Network, rules: Sequence[Rule], ahead: Ahead, streams: Streams):
        self.network, self.rules, self.ahead, self.streams = network, rules, ahead, streams
        self.found: dict[Hashable, Site] = {}
        self.now: Step | None = None
        self.lead: Hashable = None
        self.plan = self._course().plan

    def reach(self, step: Step, lead: Hashable) -> None:
        """Begin a step; `lead` is the condition that stands for the prompt."""
        self.now, self.lead = step, lead
        for site in self.found.values():
            _reach(site, step)

    def at(self, key: Hashable, grid: tuple[int, ...]) -> Site:
        """The site of a condition, evaluated over a grid of image tokens."""
        if key not in self.found:
            assert self.now is not None
            self.found[key] = site = Site(self._course())
            site.course.introduce(grid)
            _reach(site, self.now)
        return self.found[key]

    def leading(self) -> Site:
        """The site of the condition that stands for the prompt."""
        return self.found[self.lead]

    def prove_effect(self) -> None:
        """Raise `NoEffect` where no condition had any."""
        errors = []
        for site in self.found.values():
            try:
                site.course.prove_effect()
            except NoEffect as error:
                errors.append(error)
        if errors and len(errors) == len(self.found):
            raise errors[0]

    def _course(self) -> Course:
        course = Course(self.network, self.rules, self.ahead, {})
        course.begin(self.streams)
        return course


def _reach(site: Site, step: Step) -> None:
    for state in site.states.values():
        state.reach(step)
