"""The authors' doubled DiT paths, windows that hold, and their published protocols."""

import pytest
import torch

import emag
from emag.lab.evaluate.protocol import read
from emag.lab.evaluate.spec import parse
from emag.lab.pages.catalogue import short
from emag.methods.common.values import to_plain
from emag.methods.condition.cads import CLOCKS, ramp
from emag.methods.emag.compat import PRESETS
from emag.schedules import Window
from emag_authors import EMAG, agrees
from reference import LAYERS, at_step, live_of, tensors, trace
from reference_loops import BETA, EMAG_SCALE, Loop
from reference_loops import Window as Steps
from tiny import CASES

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
