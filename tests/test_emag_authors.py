"""What the authors' code has beside the method: each switch against a plain loop of its own, in fp64."""

import pytest
import torch

import emag
from emag.errors import Unsupported
from emag.lab.evaluate.protocol import read
from emag.lab.evaluate.spec import parse
from emag.lab.pages.catalogue import short
from emag.methods.common.values import to_plain
from emag.methods.condition.cads import CLOCKS, ramp
from emag.methods.emag import statistics
from emag.methods.emag.compat import PRESETS, Compat
from emag.schedules import Window
from reference import LAYERS, at_step, live_of, replaced, scheduler_steps, statistic_of, tensors, trace
from test_reference_loops import BETA, CFG_SCALE, EMAG_SCALE, Clean, Loop, OfficialSD3, close, sd3_window
from test_reference_loops import Window as Steps
from tiny import CASES

PUBLISHED = Window.published(250, 50, 50)


def agrees(loop, name, rules, count=10, atol=5e-4):
    """A guided run makes the predictions and latents of a plain loop."""
    case = CASES[name]
    pipe = case.pipe()
    expected = loop(pipe, case.call(num_inference_steps=count, guidance_scale=CFG_SCALE)).run()
    with emag.guide(pipe, *rules) as run, scheduler_steps(pipe) as steps:
        pipe(**case.call(num_inference_steps=count, guidance_scale=CFG_SCALE))
    for step, prediction, latent in zip(steps, expected.predictions, expected.latents, strict=True):
        close(step.prediction[:2].double(), prediction, atol=atol, rtol=atol)
        close(step.after[:2].double(), latent, atol=atol, rtol=atol)
    return run.stats, expected


def EMAG(name="sd3", variant="map", scale=EMAG_SCALE, **more):
    return emag.EMAG(scale, variant, **{"layers": LAYERS[name], "beta": BETA, "window": PUBLISHED, **more})


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


# the code beside APG, CADS and CFG on DiT: both rows in one pass, an average that freezes and stays applied


class Doubled(Loop):
    """Averages of both rows in one clean pass, statistic after the update, applied down to the end of the run."""

    combination = "cond"

    def guided(self, x, t, i):
        (uncond, cond), seen = self.both(x, t)
        if self.window.averages(i):
            self.take(seen)
        pick, r = None, self.window.count - 1 - i
        if r <= self.window.start - self.window.delta:
            pick = self.largest(self.statistics)
        self.model.see = {} if pick is None else {
            pick: lambda q, k, v, image: self.mixed(q, k, v, image, self.averages[pick])}
        null, weak = self.model(x, t, "both").chunk(2)
        guided = getattr(self, self.combination)(x, t, uncond, cond, null, weak)
        return torch.cat([guided[:, :3], cond[:, 3:]], 1), None if pick is None else [pick] * len(x)

    def both(self, x, t):
        answer, seen = self.clean(x, t, "both")
        return answer.chunk(2), seen

    def take(self, seen):
        self.statistics = {}
        for block, (q, k, image) in seen.items():
            live, old = live_of(self.variant, q, k, image), self.averages.get(block)
            self.averages[block] = live if old is None else BETA * old + (1 - BETA) * live
            self.statistics[block] = (self.averages[block] - live).abs().mean()

    def cond(self, x, t, uncond, cond, null, weak):
        return uncond + 1.5 * (weak + EMAG_SCALE * (cond - weak) - uncond)

    def cfg(self, x, t, uncond, cond, null, weak):
        return uncond + 1.5 * (cond - uncond) + EMAG_SCALE * (cond - null)

    def apg(self, x, t, uncond, cond, null, weak):
        """On three channels, in x0; scale 4, cap 5, momentum -0.5."""
        bar = self.path.scheduler.alphas_cumprod.double()[int(t)]
        point = x[:, :3]
        pushed = weak + EMAG_SCALE * (cond - weak)
        inner, other = ((point - (1 - bar).sqrt() * p[:, :3]) / bar.sqrt() for p in (pushed, uncond))
        self.momentum = inner - other - 0.5 * getattr(self, "momentum", 0)
        rows = []
        for move, towards in zip(self.momentum, inner):
            move = move * min(1.0, 5 / float(move.norm()))
            along = towards * float((move * towards).sum() / towards.square().sum())
            rows.append(towards + 3 * (move - along))
        return (point - bar.sqrt() * torch.stack(rows)) / (1 - bar).sqrt()


def doubled(combination):
    class Kind(Doubled):
        pass

    Kind.combination = combination
    return lambda pipe, call: Kind(pipe, call, "map", LAYERS["dit"], Steps(8, 3, 4, 10))


HELD = Window.index(8, 3, 4, hold=True)


@pytest.mark.parametrize(("combination", "rules"), [
    ("cond", (EMAG("dit", window=HELD, compat="dit-doubled"), emag.CFG(1.5, channels=3))),
    ("apg", (EMAG("dit", window=HELD, compat="dit-doubled"), emag.APG(4.0, 0.0, 5.0, -0.5, channels=3))),
    ("cfg", (emag.CFG(1.5, channels=3), EMAG("dit", scale=1 + EMAG_SCALE, window=HELD, compat="dit-cfg")))])
def test_the_authors_doubled_dit_paths(combination, rules):
    # APG's step is made in x0: at the last step 1 / sigma makes 1e-2 of the rounding that all others have
    stats, made = agrees(doubled(combination), "dit", rules, atol=1e-2 if combination == "apg" else 5e-4)
    assert [None if p is None else list(p) for p in stats.picks] == made.picks
    assert stats.evaluations == stats.planned == 10 * 4 * 4
    frozen = made.picks[6:]  # after the stop, at r = 4
    assert len(set(map(tuple, frozen))) == 1 and len(frozen) == 4


# windows that hold


@pytest.mark.parametrize(("window", "phases"), [
    (Window.index(6, 2, 3, hold=True), "off watch watch apply apply hold hold hold"),
    (Window.index(6, 2, 3), "off watch watch apply apply off off off"),
    (Window.index(6, 5, 3, hold=True), "off watch watch watch watch off hold hold"),  # applied only from start - delta on
    (Window.progress(0.25, 0.25, 0.625, hold=True), "off off watch watch apply hold hold hold"),
    (Window.sigma(0.9, 0.2, 0.45, hold=True), "off watch watch apply apply hold hold hold"),
    (Window.published(250, 50, 100, hold=True), "watch apply apply apply apply hold hold hold"),
    (Window.index(1, 0, 3, hold=True), "off off off off off off off off")])  # nothing averaged that could be held
def test_phases_of_a_window_that_holds(window, phases):
    assert window.phases(tuple(1 - i / 8 for i in range(8))) == tuple(phases.split())


def test_a_held_average_is_that_of_the_last_step_averaged(monkeypatch):
    seen = trace(monkeypatch)
    pipe = CASES["sd3"].pipe()
    with emag.guide(pipe, EMAG(variant="query", window=Window.index(7, 2, 3, hold=True))) as run:
        CASES["sd3"].run(pipe, num_inference_steps=8)
    assert all(len(updates) == 5 for updates in seen.watched.values())
    assert [effect is not None for effect in run.stats.effects] == [i >= 2 for i in range(8)]
    assert len({run.stats.picks[i] for i in range(4, 8)}) == 1


def test_a_window_that_holds_can_be_written_in_every_way():
    rule = EMAG(window=Window.index(150, 50, 50, hold=True))
    [data] = emag.records.recipe.to_data([rule])
    assert emag.records.recipe.from_data([data])[0] == rule and data["emag"]["window"]["hold"] is True
    assert emag.records.recipe.parse("emag=2,window=index:150:50:50:hold").window == Window.index(150, 50, 50, hold=True)
    scaled = emag.records.recipe.parse("emag=2,window=published:150:50:50:base=249:hold").window
    assert scaled == Window.published(150, 50, 50, 249, hold=True)
    assert short(to_plain(scaled)) == "published:150:50:50:base=249:hold"
    for wrong in ("index:150:50", "index:150:50:50:on", "index:hold:150:50:50"):
        with pytest.raises(emag.BadValue, match="window"):
            emag.records.recipe.parse(f"emag=2,window={wrong}")


# APG on some channels; CADS by the step's number


def test_apg_on_some_channels_is_apg_of_these_channels():
    cond, uncond = tensors(1, 2)
    rule = emag.APG(4.0, 0.3, 2.0, 0.5)
    whole, part = (emag.APG(4.0, 0.3, 2.0, 0.5, channels=n) for n in (None, 3))
    step, states = at_step(), ({}, {})
    for _ in range(2):
        out = part.apply(cond, {"cond": cond, "uncond": uncond}, step, states[0])
        expected = whole.apply(cond[:, :3], {"cond": cond[:, :3], "uncond": uncond[:, :3]}, step, states[1])
        assert torch.equal(out[:, :3], expected) and torch.equal(out[:, 3:], cond[:, 3:])
    assert not torch.allclose(out[:, :3], rule.apply(cond, {"cond": cond, "uncond": uncond}, step, {})[:, :3])
    with pytest.raises(emag.BadValue):
        emag.APG(2.0, channels=0)


def test_cads_by_the_steps_number_noises_12_steps_of_28():
    steps = [at_step(index=i, sigmas=(0.5,) * 28, alphas=(0.5,) * 28, time=0.9) for i in range(28)]
    ramps = [ramp(CLOCKS["index"](step), 0.6, 1.0) for step in steps]
    assert sum(gamma < 1 for gamma in ramps) == 12 and ramps[0] == 0.0 and ramps == sorted(ramps)
    cads, values = emag.CADS(0.25, 0.6, 1.0, 1.0, over="index"), {"y": torch.ones(2, 3, 4).cumsum(1)}
    noisy = [cads.condition(values, step)["y"] is not values["y"] for step in steps]
    assert noisy == [gamma < 1 for gamma in ramps]


def test_cads_may_leave_pooled_vectors_alone():
    values = {"text": torch.randn(2, 5, 8), "pooled": torch.randn(2, 8)}
    step, cads = at_step(time=0.9), emag.CADS(0.3, 0.1, 0.8, 0.0, pooled=False)
    out = cads.condition(values, step)
    assert out["pooled"] is values["pooled"] and not torch.equal(out["text"], values["text"])
    alone = {"embedding": values["pooled"]}  # a class embedding is all the condition there is
    assert not torch.equal(cads.condition(alone, step)["embedding"], alone["embedding"])


# the published protocols


def rules_of(name):
    asked = read(name)
    given = asked.run if "classes" in asked.run else {**asked.run, "prompts": ["a frog"]}
    return {one.label: one.rules for one in parse(given).recipes}


def test_the_dit_protocol_is_the_authors():
    rows = rules_of("emag-dit")
    cfg, apg = emag.CFG(1.5, channels=3), emag.APG(4.0, channels=3)
    window = Window.index(150, 50, 50)
    cads, held = rows["cads"][0], Window.index(150, 50, 50, hold=True)
    assert rows["cfg"] == (cfg,) and rows["apg"] == (apg,) and rows["cads"] == (cads, cfg)
    assert rows["emag"] == (emag.EMAG(3.0, "map", window=window, compat="dit-official"), cfg)
    beside = emag.EMAG(3.0, "map", window=held, compat="dit-doubled")
    assert rows["emag+apg"] == (beside, apg) and rows["emag+cads"] == (cads, beside, cfg)
    assert [ramp(t / 1000, cads.tau1, cads.tau2) for t in (523, 524, 525, 999)] == [1, 1, 0, 0] and cads.null
    phases = window.phases(tuple(1 - i / 250 for i in range(250)))
    assert (phases.count("watch") + phases.count("apply"), phases.count("apply")) == (101, 51)


def test_the_default_window_on_dit_is_the_authors_at_their_steps():
    from emag.hosts.defaults import entry
    window = entry("emag", ("DiTTransformer2DModel",)).values["window"]
    sigmas = tuple(1 - i / 250 for i in range(250))
    assert window.phases(sigmas) == Window.index(150, 50, 50).phases(sigmas)


def test_the_sd3_protocols_cads_is_the_authors():
    rows = rules_of("emag-table2")
    for name in ("cads", "emag+cads", "emag-q+cads"):
        assert rows[name][0] == emag.CADS(over="index", null=True, pooled=False)


@pytest.mark.parametrize("name", ["emag-dit", "emag-table2"])
def test_a_check_keeps_the_windows_place_in_a_run(name):
    asked = read(name)
    for recipe, data in asked.check().run["recipes"].items():
        for one in data.get("rules", ()):
            window = one.get("emag", {}).get("window")
            if window:
                carried = Window(**window)
                own = next(rule for rule in rules_of(name)[recipe] if rule.name == "emag").window
                sigmas = tuple(1 - i / 250 for i in range(250))
                assert carried.phases(sigmas) == own.phases(sigmas) and "apply" in carried.phases(sigmas[::31])


def test_presets_are_told_apart():
    assert len(set(PRESETS.values())) == len(PRESETS)
