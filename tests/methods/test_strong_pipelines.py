"""NAG, VSF and PLADIS at work in pipelines."""

from dataclasses import dataclass, replace

import pytest
import torch

import emag
from emag.core import COND, Perturbation, Rule, State
from emag.errors import NoEffect, Unsupported
from emag.methods import METHODS
from emag.methods.attention.nag import NAG
from emag.methods.attention.vsf import VSF
from reference import Model, Path, tensors
from spy import network_outputs, scheduler_steps
from strong import STREAMS, by_hand, close
from tiny import CASES

# in pipelines


LAYERS = (1, 2)
RULES = {"nag": METHODS["nag"](3.0, 1.5, 0.7, 0.0, layers=LAYERS), "vsf": METHODS["vsf"](1.5, 0.2, layers=LAYERS),
         "pladis": METHODS["pladis"](2.0, layers=LAYERS)}
on_sd3_and_pixart = pytest.mark.parametrize("case", ["sd3", "pixart"])
each_rule = pytest.mark.parametrize("name", RULES)


def run(case, *rules, **more):
    """What the scheduler got, and the finished run."""
    pipe = CASES[case].pipe()
    with scheduler_steps(pipe) as got, emag.guide(pipe, *rules) as handle:
        CASES[case].run(pipe, **more)
    return torch.stack(got), handle


@each_rule
def test_a_run_is_a_plain_loop_with_the_attention_written_out(name):
    pipe, call = CASES["sd3"].pipe(), CASES["sd3"].call((8, 9), num_inference_steps=3)
    model, path = Model(pipe, call), Path(pipe, call)
    model.see = {at: lambda q, k, v, image: by_hand(name, q, k, v, image) for at in LAYERS}
    x, known = path.x, []
    for i, t in enumerate(path.timesteps):
        uncond, cond = model(x, t, "both").chunk(2)
        known.append(uncond + 4.0 * (cond - uncond))
        x = path.step(known[-1], i, x)
    got, _ = run("sd3", RULES[name], num_inference_steps=3)
    close(got.double(), torch.stack(known), atol=2e-3, rtol=2e-3)


@dataclass(frozen=True)
class Nothing(Perturbation):
    """A weak branch that changes nothing."""

    first: int
    other: int = 0

    @property
    def blocks(self):
        return (self.first,)

    @property
    def resume(self):
        return self.first

    def start(self, sigmas, streams):
        state = State()
        state.proves, state.differed = True, torch.tensor(True)
        return state


@dataclass(frozen=True)
class Compare(Rule):
    """Takes down how far branches that change nothing are from the clean prediction."""

    kind = "weak"

    @property
    def weak(self):
        return Nothing(0), Nothing(2), Nothing(2, 1)

    def apply(self, pred, branches, step, state):
        APART.extend(float((branches[b] - branches[COND]).abs().max() / branches[COND].abs().max()) for b in self.weak)
        return pred


APART = []


@on_sd3_and_pixart
@pytest.mark.parametrize("names", [("nag",), ("vsf",), ("pladis",), ("pladis", "nag")])
def test_weak_passes_hold_the_strong_effect_whole(case, names):
    """From the first block on, resumed, and two branches in one batch: nothing weak, so the clean prediction."""
    APART.clear()
    run(case, *(RULES[name] for name in names), Compare(), num_inference_steps=3)
    assert len(APART) == 9 and max(APART) < 2e-5


@on_sd3_and_pixart
@each_rule
def test_weak_passes_without_it_would_be_seen(monkeypatch, case, name):
    APART.clear()
    kind = type(RULES[name].perturbation.start((0.9,), STREAMS))
    strengthen = kind.strengthen
    monkeypatch.setattr(kind, "strengthen", lambda self, block, call, sdpa, rows: (
        sdpa(call.q) if rows.uncond is None else strengthen(self, block, call, sdpa, rows)))
    run(case, RULES[name], Compare(), num_inference_steps=2)
    assert max(APART) > 1e-3


@pytest.mark.parametrize("weak", [emag.EMAG(2.0, layers=(2, 3), beta=0.5, window=emag.Window.progress(0, 0.2, 1)),
                                  METHODS["pag"](3.0, (2,))], ids=["emag", "pag"])
@each_rule
def test_with_a_weak_rule_both_act(name, weak):
    """In one guidance, the block both work in included."""
    both, handle = run("sd3", RULES[name], weak, num_inference_steps=4)
    alone, _ = run("sd3", RULES[name], num_inference_steps=4)
    other, _ = run("sd3", weak, num_inference_steps=4)
    assert handle.stats.evaluations == handle.stats.planned
    assert handle.stats.effect > 1e-3
    assert not torch.allclose(both, alone, atol=1e-3) and not torch.allclose(both, other, atol=1e-3)


@each_rule
def test_a_resumed_weak_pass_is_the_full_one(name):
    full = {"resume": False}
    rules = [emag.EMAG(2.0, layers=(2, 3), window=emag.Window.progress(0, 0.2, 1), compat=compat)
             for compat in ("clean", full)]
    made = [run("sd3", RULES[name], rule, num_inference_steps=4)[0] for rule in rules]
    close(made[0], made[1], atol=1e-4, rtol=1e-4)


@on_sd3_and_pixart
@pytest.mark.parametrize(("name", "touched"), [("nag", False), ("vsf", False), ("pladis", True)])
def test_unconditional_rows(case, name, touched):
    """NAG and VSF leave them as they are, bit for bit; PLADIS sharpens them too."""
    first = []
    for rules in ((), (RULES[name],)):
        pipe = CASES[case].pipe()
        with network_outputs(pipe) as seen, emag.guide(pipe, *rules):
            CASES[case].run(pipe, num_inference_steps=2)
        first.append(seen[0].chunk(2))
    assert torch.equal(first[0][0], first[1][0]) != touched
    assert not torch.allclose(first[0][1], first[1][1], atol=1e-4)


@pytest.mark.parametrize("name", ["nag", "vsf"])
def test_alone_it_takes_both_branches_and_no_cfg(name):
    """CFG(1.0) combines: the conditional prediction, while the unconditional rows give the negative text."""
    got, handle = run("sd3", RULES[name], emag.CFG(1.0), num_inference_steps=2)
    assert handle.stats.evaluations == 2 * 2 * 4
    pipe = CASES["sd3"].pipe()
    with network_outputs(pipe) as seen, emag.guide(pipe, RULES[name]):
        CASES["sd3"].run(pipe, num_inference_steps=2)
    close(got[0], seen[0].chunk(2)[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["nag", "vsf"])
@pytest.mark.parametrize(("case", "more"), [("true-cfg", {}), ("flux", {}), ("sd3", {"guidance_scale": 1.0}), ("dit", {})])
def test_hosts_without_both_rows_or_without_text_are_refused(name, case, more):
    with pytest.raises(Unsupported, match=r"network call|needs text"):
        run(case, replace(RULES[name], layers=(1,)), num_inference_steps=2, **more)


@pytest.mark.parametrize("case", ["true-cfg", "flux"])
def test_pladis_works_on_flux(case):
    got, handle = run(case, RULES["pladis"], num_inference_steps=2)
    plain, _ = run(case, num_inference_steps=2)
    assert not torch.allclose(got, plain, atol=1e-3)
    assert handle.stats.evaluations == handle.stats.clean


def test_self_attention_and_missing_cross_attention_are_refused():
    with pytest.raises(Unsupported, match="cross=True"):
        run("pixart", replace(RULES["pladis"], cross=False), num_inference_steps=2)
    with pytest.raises(Unsupported, match="no cross-attention"):
        run("sd3", replace(RULES["pladis"], cross=True), num_inference_steps=2)


def test_a_negative_prompt_like_the_prompt_has_no_effect():
    call = CASES["sd3"].call((8, 9))
    same = {f"negative_{name}": call[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    with pytest.raises(NoEffect, match="never differed"):
        run("sd3", RULES["nag"], num_inference_steps=2, **same)


def test_one_text_token_has_no_effect():
    call = CASES["sd3"].call((8, 9))
    one = {f"{sign}prompt_embeds": call[f"{sign}prompt_embeds"][:, :1] for sign in ("", "negative_")}
    with pytest.raises(NoEffect, match="the branch on blocks"):
        run("sd3", RULES["pladis"], num_inference_steps=2, **one)


@each_rule
def test_after_the_block_the_pipeline_is_as_before(name):
    pipe = CASES["sd3"].pipe()
    before = CASES["sd3"].run(pipe, num_inference_steps=2)
    with pytest.raises(RuntimeError, match="stop"), emag.guide(pipe, RULES[name]):
        CASES["sd3"].run(pipe, num_inference_steps=2, callback_on_step_end=_stop)
    assert torch.equal(CASES["sd3"].run(pipe, num_inference_steps=2), before)


def _stop(*_):
    raise RuntimeError("stop")


@each_rule
def test_every_block_by_default(name):
    from emag.hosts.defaults import resolve

    for model, cross in (("SD3Transformer2DModel", None), ("PixArtTransformer2DModel", True)):
        rule = resolve(METHODS[name](), (model,), 6)
        assert rule.layers == (0, 1, 2, 3, 4, 5) and rule.cross is cross
        assert rule.perturbation.cross == bool(cross) and rule.perturbation.strong


# the negative text from a pass of its own


@pytest.mark.parametrize("rule", [lambda **m: NAG(5.0, alpha=0.5, sigma_end=0.3, **m), lambda **m: VSF(2.0, 0.1, **m)],
                         ids=["nag", "vsf"])
@pytest.mark.parametrize("name", ["sd3", "pixart"])
def test_a_negative_pass_gives_what_the_unconditional_rows_give(rule, name):
    """The same negative, once in the unconditional rows and once named: the same predictions, for one evaluation more."""
    case, got = CASES[name], []
    cross = {"cross": True} if name == "pixart" else {}
    names = {"encoder_hidden_states": "negative_prompt_embeds", "pooled_projections": "negative_pooled_prompt_embeds",
             "encoder_attention_mask": "negative_prompt_attention_mask"}
    call = case.call()
    own = {argument: call[given] for argument, given in names.items() if call.get(given) is not None}
    for more in ({}, {"negative": "bad"}):
        pipe = case.pipe()
        with scheduler_steps(pipe) as steps, emag.guide(pipe, rule(**cross, **more), conditions={"bad": own}) as guided:
            case.run(pipe)
        got.append((steps[0], guided.stats))
    (inside, one), (apart, other) = got
    torch.testing.assert_close(apart, inside, atol=2e-4 * float(inside.abs().max()), rtol=1e-4)
    acts = 8 if rule().name == "vsf" else other.evaluations // 4 - 16
    assert one.evaluations == 8 * 2 * 4 and other.evaluations == other.planned == (16 + acts) * 4 and 0 < acts <= 8


@pytest.mark.parametrize("name", ["flux", "true-cfg"])
def test_nag_and_emag_on_flux(name):
    """Distilled Flux has no unconditional rows, true-CFG Flux has them in a call of their own."""
    case = CASES[name]
    pipe, window = case.pipe(), emag.Window.progress(0, 0, 1)
    bad = {"encoder_hidden_states": tensors(70, 1, 1, 7, 12)[0], "pooled_projections": tensors(71, 1, 1, 10)[0]}
    rules = (NAG(5.0, alpha=0.25, sigma_end=0.0, negative="bad"), emag.EMAG(1.5, layers=(1, 2), window=window))
    with network_outputs(pipe) as answers, scheduler_steps(pipe) as given:
        with emag.guide(pipe, *rules, conditions={"bad": bad}) as run:
            case.run(pipe)
    assert run.stats.evaluations == run.stats.planned
    acts = (run.stats.evaluations - run.stats.clean - 7 * 4) // 5
    assert 0 < acts <= 8
    if name == "flux":
        _, c, _, d, weak = answers[:5]  # negative, clean; then negative, clean, weak
        close(given[0], c)
        close(given[1], d + 0.5 * (d - weak))
