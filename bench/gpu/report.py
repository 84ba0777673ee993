"""What the measurements of the GPU suite come to: ratios within a session, targets, floors, tables."""

import statistics
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from gpu.lines import EVERY, FORMATS, FUSED, MAP, QUERY, STORED
from gpu.measure import added
from timed.shapes import SHAPES

GB = 1e9
TARGETS = {QUERY: (0.26, 0.3), MAP: (0.32, 2.8), FUSED: (0.32, 2.8), EVERY: (0.12, None)}
AT = "sd3/eager/1"
PLAIN_KERNELS, NAME = 8, 90


def summary(data: dict[str, Any]) -> dict[str, Any]:
    """Everything derived: per group and line its figures, the targets, equal picks, floors of the map line."""
    groups: dict[str, dict[str, Any]] = {}
    for key in data["lines"]:
        group, name = key.rsplit("/", 1)
        groups.setdefault(group, {})[name] = figures(data, group, name)
    usual = data.get("settings", {}).get("steps") in (None, SHAPES["sd3"].steps)
    return {"groups": groups, "targets": targets(groups.get(AT, {}) if usual else {}), "picks": picks(data),
            "floors": floors(data, groups)}


def figures(data: dict[str, Any], group: str, name: str) -> dict[str, Any]:
    """Median seconds, spread, and ratios to the plain line of the same session."""
    line, base = data["lines"][f"{group}/{name}"], _plain(data, group)
    if not line.get("repeats"):
        return {"failed": line.get("failed", "")}
    seconds = [repeat["seconds"] for repeat in line["repeats"]]
    found: dict[str, Any] = {"seconds": statistics.median(seconds), "spread": [min(seconds), max(seconds)]}
    found |= {"evaluations": line["evaluations"], "finite": line["finite"]}
    times, peaks = list(_against(line, base, "seconds")), list(_against(line, base, "peak"))
    found["ratio"] = statistics.median(a / b for a, b in times) if times else None
    found["peak_over"] = statistics.median(a - b for a, b in peaks) if peaks else None
    found["floor"] = line["evaluations"] / base["evaluations"] if base.get("evaluations") else None
    return {**found, **({"failed": line["failed"]} if "failed" in line else {})}


def _plain(data: dict[str, Any], group: str) -> dict[str, Any]:
    return data["lines"].get(f"{group}/{SHAPES[group.split('/')[0]].plain}", {})


def _against(line: dict[str, Any], base: dict[str, Any], field: str) -> Iterator[tuple[float, float]]:
    """Each repeat's value and the median of the plain line's in the same session."""
    for repeat in line["repeats"]:
        own = [other[field] for other in base.get("repeats", []) if other["session"] == repeat["session"]]
        if own and None not in own and repeat[field] is not None:
            yield repeat[field], statistics.median(own)


def targets(group: dict[str, Any]) -> list[dict[str, Any]]:
    """What the documentation promises, and whether it holds; reached is None where it was not measured."""
    found = []
    for name, (most, memory) in TARGETS.items():
        line = group.get(name, {})
        ratio, over = line.get("ratio"), line.get("peak_over")
        found.append(_target(name, "time over CFG", most, None if ratio is None else ratio - 1))
        if memory is not None:
            found.append(_target(name, "GB over CFG", memory, None if over is None else over / GB))
    return found


def _target(name: str, what: str, most: float, measured: float | None) -> dict[str, Any]:
    return {"line": name, "what": what, "at_most": most, "measured": measured,
            "reached": None if measured is None else measured <= most}


def picks(data: dict[str, Any]) -> dict[str, float]:
    """Share of picked blocks that are those of maps in float32, by line."""
    found = {}
    for key, line in data["lines"].items():
        group, name = key.rsplit("/", 1)
        full = data["lines"].get(f"{group}/{STORED.format(FORMATS[0])}", {}).get("picks")
        if name.startswith(MAP) and full and line.get("picks"):
            found[key] = _share(line["picks"], full)
    return found


def _share(some: list[Any], full: list[Any]) -> float:
    pairs = [(a, b) for one, other in zip(some, full, strict=True) if one and other for a, b in zip(one, other, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def floors(data: dict[str, Any], groups: dict[str, Any]) -> dict[str, Any]:
    """By line of maps: seconds of its traffic at the speed of a copy, and the least time over the plain line so."""
    found = {}
    for shape, held in data["storage"].items():
        group = groups.get(f"{shape}/eager/1", {})
        names = {MAP: held.get("auto"), FUSED: held.get("auto"), **{STORED.format(kind): kind for kind in FORMATS}}
        plain = group.get(SHAPES[shape].plain, {}).get("seconds")
        for name, kind in names.items():
            if kind in held.get("formats", {}) and plain and group.get(name, {}).get("floor"):
                seconds = held["formats"][kind]["bytes"] / held["copy"]
                found[f"{shape}/{name}"] = {"seconds": seconds, "ratio": group[name]["floor"] + seconds / plain}
    return found


def show(data: dict[str, Any], console: Console) -> None:
    """Print all tables."""
    derived = summary(data)
    for group, lines in derived["groups"].items():
        console.print(speed_table(group, lines))
    for table in (target_table(derived), map_table(data, derived), sync_table(data), *map(kernel_table, *_profiles(data))):
        if table.row_count:
            console.print(table)
    for text in data["left"]:
        console.print(f"not measured in this call: {text}")


def speed_table(group: str, lines: dict[str, Any]) -> Table:
    table = Table("line", "s/image", "spread", "x plain", "evaluations", "x plain (floor)", "peak over plain, GB", box=None,
                  title=group)
    for name, line in lines.items():
        if "seconds" not in line:
            table.add_row(name, line["failed"][:80])
            continue
        low, high = line["spread"]
        over = line["peak_over"] and line["peak_over"] / GB
        name += "" if line["finite"] else " (not finite)"
        table.add_row(name, f"{line['seconds']:.3f}", f"{low:.3f}-{high:.3f}", _number(line["ratio"]),
                      str(line["evaluations"]), _number(line["floor"]), _number(over))
    return table


def target_table(derived: dict[str, Any]) -> Table:
    table = Table("line", "what", "at most", "measured", "reached", box=None, title=f"targets at {AT}, 28 steps")
    for one in derived["targets"]:
        if one["measured"] is not None:
            table.add_row(one["line"], one["what"], f"{one['at_most']:+.2f}", f"{one['measured']:+.3f}",
                          "yes" if one["reached"] else "no")
    return table


def map_table(data: dict[str, Any], derived: dict[str, Any]) -> Table:
    table = Table("maps", "seconds of traffic", "floor, x plain", "picks as float32's", box=None, title="averaged maps")
    for key, floor in derived["floors"].items():
        shape, name = key.split("/")
        share = derived["picks"].get(f"{shape}/eager/1/{name}")
        table.add_row(key, _number(floor["seconds"]), _number(floor["ratio"]), _number(share))
    return table


def sync_table(data: dict[str, Any]) -> Table:
    table = Table("line", "waits for the device", "where", box=None, title="synchronisation inside the network's calls")
    for key, line in data["sync"].items():
        text = line.get("failed") or line.get("synchronises") or line.get("skipped") or "no"
        table.add_row(key, text[:80], (line.get("at") or [""])[-1])
    return table


def _profiles(data: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]], list[dict[str, Any]]]:
    """Keys, lines and plain lines of what was profiled."""
    good = {key: line for key, line in data["profile"].items() if "kernels" in line}
    base = {key: f"{key.split('/')[0]}/{SHAPES[key.split('/')[0]].plain}" for key in good}
    keys = [key for key in good if base[key] in good]
    return keys, [good[key] for key in keys], [good[base[key]] for key in keys]


def kernel_table(key: str, line: dict[str, Any], plain: dict[str, Any]) -> Table:
    """The plain line's largest kernels, or what another line adds."""
    title = f"{key}, {line['steps']} steps: busy {line['busy']:.0f} of {line['wall']:.0f} ms"
    rows = list(line["kernels"].items())[:PLAIN_KERNELS] if line is plain else added(line, plain)
    table = Table("ms" if line is plain else "ms added", "kernel", box=None, title=title)
    for name, spent in rows:
        table.add_row(f"{spent:+.2f}", name[:NAME])
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
