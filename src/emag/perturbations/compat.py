"""Switches by which the authors' two code paths differ from the method as we run it, and their presets."""

from dataclasses import dataclass

from ..errors import BadValue
from ..finite import Finite

CHOICES = {
    "accumulate_in": ("clean", "perturbed"),
    "stat_lag": (0, 1),
    "stat_scope": ("sample", "batch", "batch+cfg"),
    "stat_against": ("old", "updated"),
    "query_statistic": ("logits", "mae"),
    "ema_dtype": ("float32", "float16", "bfloat16"),
    "update_from": ("cond", "cond+uncond"),
    "rows": ("cond", "all"),
}


@dataclass(frozen=True)
class Compat(Finite):
    """How the average is kept, read and used. The defaults are the method; anything else is for reproduction.

    accumulate_in: pass whose attention is averaged. stat_lag: 1 picks by the previous step's statistic.
    stat_scope: rows a statistic is averaged over. stat_against: the average before or after its update.
    query_statistic: what "auto" means for queries. ema_dtype: storage. update_from: "cond+uncond" updates one average
    twice a step, conditional rows first. rows: rows of the weak pass. resume: start it at the first block that differs.
    every_step: run it at every step, needed or not. channels: guide only the first so many channels, None guides all.
    """

    accumulate_in: str = "clean"
    stat_lag: int = 0
    stat_scope: str = "sample"
    stat_against: str = "old"
    query_statistic: str = "logits"
    ema_dtype: str = "float32"
    update_from: str = "cond"
    rows: str = "cond"
    resume: bool = True
    every_step: bool = False
    channels: int | None = None

    def __post_init__(self) -> None:
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise BadValue(f"compat {field} must be one of {choices}, got {getattr(self, field)!r}")
        if self.accumulate_in == "perturbed" and not self.stat_lag:
            raise BadValue("compat accumulate_in='perturbed' needs stat_lag=1: this step's statistic comes too late")
        if (self.stat_scope == "batch+cfg") != (self.rows == "all") and self.stat_scope != "sample":
            raise BadValue("compat stat_scope='batch+cfg' goes with rows='all', and 'batch' with rows='cond'")
        if self.rows == "all" and self.update_from != "cond":
            raise BadValue("compat rows='all' keeps the halves apart; use update_from='cond'")

    @property
    def needs_uncond(self) -> bool:
        """True where the unconditional rows must be in the same network call."""
        return self.rows == "all" or self.update_from != "cond"


PRESETS = {
    "clean": Compat(),
    "sd3-official": Compat(accumulate_in="perturbed", stat_lag=1, stat_scope="batch+cfg", query_statistic="mae",
                           ema_dtype="float16", rows="all", resume=False, every_step=True),
    "dit-official": Compat(stat_scope="batch", stat_against="updated", query_statistic="mae",
                           update_from="cond+uncond", resume=False, every_step=True, channels=3),
}


def compat(value: "str | dict | Compat") -> Compat:
    """A preset by name, or switches given as data."""
    if isinstance(value, Compat):
        return value
    if isinstance(value, dict):
        return Compat(**value)
    if value not in PRESETS:
        raise BadValue(f"compat {value!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[value]
