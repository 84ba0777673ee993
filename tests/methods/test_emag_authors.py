"""What the authors' code has beside the method: each switch against a plain loop of its own, in fp64."""

import pytest
import torch

import emag
from emag.errors import Unsupported
from emag.methods.emag import statistics
from emag.methods.emag.compat import Compat
from emag.schedules import Window
from emag_authors import EMAG, PUBLISHED, agrees
from reference import LAYERS, live_of, replaced, scheduler_steps, statistic_of, trace
from reference_loops import CFG_SCALE, EMAG_SCALE, Clean, OfficialSD3, close, sd3_window
from tiny import CASES

# the columns of the map that are averaged, and how its rows are brought to 1 again


class Renormed(Clean):
    """The method, with the authors' renormalisations."""

    renorm, text_scale = "row", 1.0

    def mixed(self, q, k, v, image, average):
        live = live_of(self.variant, q, k, image)
        new = (1 - self.strength) * live + self.strength * average.double()
        return replaced(self.variant, q, k, v, image, new, self.renorm, self.text_scale)


ROWS = [("text", "row", 1.0), ("text", "text", 1.0), ("text", "none", 1.0), ("text", "row", 2.0), ("image", "text", 1.0),
        ("image", "none", 1.0), ("image", "row", 0.5), ("image", "none", 2.0), ("map", "row", 2.0), ("map", "none", 0.5)]


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize(("variant", "renorm", "text_scale"), ROWS)
def test_columns_and_rows_of_the_map(variant, renorm, text_scale, strength):
    class Kind(Renormed):
        pass

    Kind.renorm, Kind.text_scale = renorm, text_scale
    rule = EMAG(variant=variant, strength=strength, compat=Compat(renorm=renorm, text_scale=text_scale))
    stats, made = agrees(lambda pipe, call: Kind(pipe, call, variant, LAYERS["sd3"], sd3_window(10), strength), "sd3",
                         (rule,))
    assert [None if p is None else list(p) for p in stats.picks] == made.picks


@pytest.mark.parametrize("renorm", ["row", "text"])
@pytest.mark.parametrize("variant", ["image", "text"])
def test_renormalised_rows_sum_to_1(monkeypatch, variant, renorm):
    from emag.maths.attention import Attention
    from test_attention import average_of, sdpa_of, series
    average = average_of(variant, renorm=renorm)
    for call in series():
        average.observe(call)
    ones = Attention(call.q, call.k, torch.ones_like(call.v), call.image)
    out, _ = average.output(ones, sdpa_of(ones), torch.ones(3, dtype=torch.bool))
    if variant == "text" or renorm == "row":
        close(out, torch.ones_like(out), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", [emag.EMAG(2.0, "text", layers=(1, 2), window=PUBLISHED),
                                  emag.EMAG(2.0, "map", layers=(1, 2), window=PUBLISHED, compat={"text_scale": 2.0})])
@pytest.mark.parametrize("name", ["dit", "pixart"])
def test_the_part_of_the_text_needs_a_text(name, rule):
    pipe, calls = CASES[name].pipe(), []
    pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(Unsupported, match="no text"), emag.guide(pipe, rule):
        CASES[name].run(pipe)
    assert calls == []


# groups of layers


class Groups(Clean):
    """The method with one pick in each group of layers, all of them replaced at once; or one of the winners."""

    groups, spaced = ((0, 1), (2, 3)), None

    def guided(self, x, t, i):
        cond, seen = self.clean(x, t, "cond")
        statistics = self.take(seen) if self.window.averages(i) else None
        uncond = self.clean(x, t, "uncond")[0]
        weak = cond
        if self.window.applies(i):
            weak = torch.cat([self.row(x, t, row, statistics, i) for row in range(len(x))])
        return uncond + CFG_SCALE * (weak + EMAG_SCALE * (cond - weak) - uncond), None

    def row(self, x, t, row, statistics, i):
        picks = [max(group, key=lambda block: float(statistics[block][row])) for group in self.groups]
        if self.spaced is not None:
            picks = [pick for pick in picks if pick in self.spaced[i][row]]
        self.model.see = {pick: self.seen(pick, row) for pick in picks}
        return self.model(x, t, "cond", slice(row, row + 1))

    def seen(self, pick, row):
        return lambda q, k, v, image: self.mixed(q, k, v, image, self.averages[pick][row:row + 1])


def grouped(groups):
    class Kind(Groups):
        pass

    Kind.groups = groups
    return lambda pipe, call: Kind(pipe, call, "map", tuple(b for group in groups for b in group), sd3_window(10))


@pytest.mark.parametrize("groups", [((0, 1), (2, 3)), ((3,), (2, 0, 1))])
def test_one_block_of_each_group(groups):
    layers = tuple(block for group in groups for block in group)
    rule = EMAG(layers=layers, compat={"groups": [len(group) for group in groups]})
    stats, _ = agrees(grouped(groups), "sd3", (rule,))
    assert stats.picks == (None,) * 10 and stats.evaluations == stats.planned


def test_one_group_is_none():
    runs = []
    for compat in (Compat(), Compat(groups=(2,))):
        pipe = CASES["sd3"].pipe()
        with emag.guide(pipe, EMAG(compat=compat)) as run:
            runs.append((CASES["sd3"].run(pipe), run.stats.picks))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


def test_a_drawn_winner_is_a_winner_and_each_images_own(monkeypatch):
    def made(spaced, seeds=(8, 9)):
        pipe = CASES["sd3"].pipe()
        with monkeypatch.context() as patch:
            seen = trace(patch)
            with emag.guide(pipe, EMAG(layers=(0, 1, 2, 3), compat={"groups": (2, 2), "spaced": spaced})) as run:
                image = CASES["sd3"].run(pipe, seeds)
        return image, [pick for pick in seen.tracker.picks if pick is not None], run.stats.picks

    image, winners, picks = made(True)
    assert all(one in both for one, both in zip(winners[0].tolist(), made(False)[1][0].tolist()))
    assert {at in (2, 3) for row in picks if row for at in row} == {True, False}  # now from the one group, now the other
    for row, seed in enumerate((8, 9)):
        close(made(True, (seed,))[0], image[row:row + 1], atol=1e-4, rtol=1e-4)


# the entropy of a batch


def test_a_batchs_entropy_is_the_lower_median():
    entropy = torch.tensor([3.0, 1.0, 2.0, 10.0])
    assert torch.equal(statistics.over_rows("entropy", -entropy), torch.full((4,), -2.0))
    assert torch.equal(statistics.over_rows("entropy", -entropy[:3]), torch.full((3,), -2.0))
    assert torch.equal(statistics.over_rows("mae", entropy), torch.full((4,), 4.0))


class Entropy(Clean):
    """The authors' first mode: the block whose lower median of the rows' entropies is lowest."""

    def guided(self, x, t, i):
        cond, seen = self.clean(x, t, "cond")
        uncond = self.clean(x, t, "uncond")[0]
        if self.window.averages(i):
            self.take(seen)
        picks, weak = None, cond
        if self.window.applies(i):
            pick = min(self.layers, key=lambda block: self.median(*seen[block]))
            picks, weak = [pick] * len(x), torch.cat([self.weak(x, t, row, pick) for row in range(len(x))])
        return uncond + CFG_SCALE * (weak + EMAG_SCALE * (cond - weak) - uncond), picks

    def median(self, q, k, image):
        return sorted((-statistic_of("entropy", "map", None, q, k, image)).tolist())[(len(q) - 1) // 2]


def test_the_pick_of_a_batch_by_entropy():
    rule = EMAG(statistic="entropy", compat=Compat(stat_scope="batch"))
    stats, made = agrees(lambda pipe, call: Entropy(pipe, call, "map", LAYERS["sd3"], sd3_window(10)), "sd3", (rule,))
    assert [None if p is None else list(p) for p in stats.picks] == made.picks


# CFG with the weak unconditional row


class CfgSD3(OfficialSD3):
    """u + w (c - u) + s (c - u~), u~ of the perturbed pass; outside the window u~ is u."""

    def guided(self, x, t, i):
        uncond, cond = self.clean(x, t, "both")[0].chunk(2)
        pick = self.largest(self.statistics) if self.window.applies(i) else None
        self.model.see = {block: self.attention(block, block == pick, self.window.averages(i)) for block in self.layers}
        weak = self.model(x, t, "both").chunk(2)[0]
        return uncond + CFG_SCALE * (cond - uncond) + 1.5 * (cond - weak), None if pick is None else [pick] * len(x)


@pytest.mark.parametrize("combiner", [True, False])
def test_cfg_with_the_weak_unconditional_row_on_sd3(combiner):
    """After CFG the push is added as it is; before the host's own CFG it goes through that, and is given for it."""
    push = EMAG(scale=1 + 1.5 / (1 if combiner else CFG_SCALE), compat="sd3-cfg")
    rules = (emag.CFG(CFG_SCALE), push) if combiner else (push,)
    stats, made = agrees(lambda pipe, call: CfgSD3(pipe, call, "map", LAYERS["sd3"], sd3_window(10)), "sd3", rules,
                         atol=2e-3)
    assert [None if p is None else list(p) for p in stats.picks] == made.picks
    assert stats.evaluations == stats.planned == 10 * 4 * 4


def test_outside_the_window_the_weak_unconditional_row_is_the_plain_one():
    """So it is CFG at w + s there, also where the weak pass is spared."""
    made, window, lean = [], Window.index(7, 2, 4), Compat(rows="all", weak_row="uncond")
    for *rules, evaluations in (
            (emag.CFG(5.5), 8 * 2 * 4), (emag.CFG(4.0), EMAG(scale=2.5, window=window, compat="sd3-cfg"), 8 * 4 * 4),
            (emag.CFG(4.0), EMAG(scale=2.5, window=window, compat=lean), 8 * 2 * 4 + 2 * 2 * 3)):
        pipe = CASES["sd3"].pipe()
        with scheduler_steps(pipe) as steps, emag.guide(pipe, *rules) as run:
            CASES["sd3"].run(pipe)
        assert run.stats.evaluations == run.stats.planned == evaluations
        made.append(steps)
    for cfg, *pushed in list(zip(*made, strict=True))[:2]:  # the window applies at steps 2 and 3
        assert all(torch.allclose(one.prediction, cfg.prediction, atol=1e-5) for one in pushed)
    assert all(not torch.allclose(one.prediction, made[0][2].prediction, atol=1e-3) for one in (made[1][2], made[2][2]))
