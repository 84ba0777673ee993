"""Switches by which the authors' code paths differ from the method as we run it, and their presets."""

from dataclasses import dataclass, replace
from typing import Literal

from ...core import FiniteFields, Side
from ...errors import BadValue
from ..common.values import make_value

AveragedPass = Literal["clean", "perturbed"]
StatScope = Literal["sample", "batch", "batch+cfg"]
StatAgainst = Literal["old", "updated"]
QueryStatistic = Literal["logits", "mae"]
EmaDtype = Literal["float32", "float16", "bfloat16"]
UpdateRows = Literal["cond", "cond+uncond"]
Renorm = Literal["row", "text", "none"]
Preset = Literal["clean", "sd3-official", "dit-official", "dit-doubled", "sd3-cfg", "dit-cfg"]


@dataclass(frozen=True)
class Compat(FiniteFields):
    """Switches of `EMAG`: how the average is kept, read and used.

    The defaults are the method; anything else is for reproduction of the authors' code paths. Presets hold sets of
    them by name, e.g. "sd3-official". Values that cannot be, and switches of which one would silently undo the other,
    are refused (`BadValue`).

    Args:
        accumulate_in: pass whose attention is averaged, "clean" or "perturbed" (the weak one). "perturbed" needs
            every_step=True and stat_lag=1.
        stat_lag: step whose statistic picks the block: 0 is this one, 1 the previous one.
        stat_scope: rows a statistic is taken over: those of a "sample", of the "batch", or "batch+cfg"
            (with rows="all"). Of more than one sample it is the mean, or for "entropy" the lower median.
        stat_against: the average before its update ("old") or after it ("updated").
        query_statistic: what statistic "auto" means for queries, "logits" or "mae".
        ema_dtype: storage of the average: "float32", "float16" or "bfloat16".
        update_from: rows that update the average. "cond+uncond" updates one average twice a step, conditional rows
            first.
        rows: rows of the weak pass: "cond", or "all", the unconditional ones too.
        resume: start the weak pass at the first block that differs; False runs the whole network.
        every_step: run the weak pass at every step, needed or not.
        channels: guide only the first so many channels, at least 1; None guides all.
        weak_row: the row of the weak prediction, "cond" or "uncond". "uncond" needs rows="all"; where the average is
            not applied, its weak prediction is the plain unconditional one.
        groups: sizes of the groups that the listed layers form, e.g. (2, 2); one block is picked in each. None is one
            group.
        spaced: of the picked blocks, use one, drawn per image and step. Needs at least two groups.
        renorm: rows of the map after the replacement. "row" divides them by their sum; "text" fills what the other
            columns leave of 1 by those of the text; "none" leaves them.
        text_scale: what the columns of the text are multiplied by before that, at least 0; 1 leaves them.

    >>> from emag.methods.emag.compat import PRESETS, Compat
    >>> Compat() == PRESETS["clean"], PRESETS["sd3-official"].rows
    (True, 'all')
    >>> Compat(update_from="cond+uncond").updates  # of one average, in each step
    2
    """

    accumulate_in: AveragedPass = "clean"
    stat_lag: Literal[0, 1] = 0
    stat_scope: StatScope = "sample"
    stat_against: StatAgainst = "old"
    query_statistic: QueryStatistic = "logits"
    ema_dtype: EmaDtype = "float32"
    update_from: UpdateRows = "cond"
    rows: Literal["cond", "all"] = "cond"
    resume: bool = True
    every_step: bool = False
    channels: int | None = None
    weak_row: Side = "cond"
    groups: tuple[int, ...] | None = None
    spaced: bool = False
    renorm: Renorm = "row"
    text_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple(self.groups))
        for wrong, text in self._conflicts():
            if wrong:
                raise BadValue(f"compat {text}")

    def _conflicts(self) -> tuple[tuple[bool, str], ...]:
        """Values that cannot be, and switches of which one would silently undo the other."""
        perturbed, groups = self.accumulate_in == "perturbed", self.groups
        return (
            (perturbed and not self.stat_lag,
             "accumulate_in='perturbed' needs stat_lag=1: this step's statistic comes too late"),
            (perturbed and not self.every_step,
             "accumulate_in='perturbed' needs every_step=True: steps that only average need a weak pass too"),
            (perturbed and self.update_from != "cond",
             "accumulate_in='perturbed' sees the weak pass alone; use update_from='cond', with rows='all' for both rows"),
            ((self.stat_scope == "batch+cfg") != (self.rows == "all") and self.stat_scope != "sample",
             "stat_scope='batch+cfg' goes with rows='all', and 'batch' with rows='cond'"),
            (self.rows == "all" and self.update_from != "cond", "rows='all' keeps the halves apart; use update_from='cond'"),
            (self.weak_row == "uncond" and self.rows != "all", "weak_row='uncond' needs rows='all': else there is none"),
            (self.channels is not None and self.channels < 1, f"channels must be at least 1 or None, got {self.channels}"),
            (groups is not None and not all(type(size) is int and size > 0 for size in groups or (0,)),
             f"groups are sizes of groups of layers, e.g. (2, 2), got {groups}"),
            (self.spaced and (groups is None or len(groups) < 2), "spaced draws one of several groups, e.g. groups=(2, 2)"),
            (not 0 <= self.text_scale < float("inf"), f"text_scale must be at least 0, got {self.text_scale}"),
        )

    @property
    def needs_uncond(self) -> bool:
        """True where the unconditional rows must be in the same network call."""
        return self.rows == "all" or self.update_from != "cond"

    @property
    def updates(self) -> int:
        """How often a step updates an average."""
        return 1 if self.update_from == "cond" else 2

    @property
    def reweighs(self) -> bool:
        """True where the rows of the map change even if the average is the live map."""
        return self.text_scale != 1


_SD3 = Compat(accumulate_in="perturbed", stat_lag=1, stat_scope="batch+cfg", query_statistic="mae", ema_dtype="float16",
              rows="all", resume=False, every_step=True)
_DIT = Compat(stat_scope="batch", stat_against="updated", query_statistic="mae", update_from="cond+uncond", resume=False,
              every_step=True, channels=3)
_DIT_DOUBLED = replace(_DIT, stat_scope="batch+cfg", update_from="cond", rows="all")  # beside APG, CADS and CFG
PRESETS: dict[Preset, Compat] = {
    "clean": Compat(), "sd3-official": _SD3, "dit-official": _DIT, "dit-doubled": _DIT_DOUBLED,
    "sd3-cfg": replace(_SD3, weak_row="uncond"), "dit-cfg": replace(_DIT_DOUBLED, weak_row="uncond"),
}


def compat(value: Preset | dict | Compat) -> Compat:
    """A preset by name, or switches given as data."""
    if isinstance(value, Compat):
        return value
    if isinstance(value, dict):
        return make_value("compat", Compat, value)
    if value not in PRESETS:
        raise BadValue(f"compat {value!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[value]
