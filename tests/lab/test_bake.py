"""Baking: what a teacher shows, the adapter that learns it, going on, and what is refused."""

import json
import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import emag
from emag.engine.reading import read_network
from emag.engine.swaps import lora_layers, scale_lora
from emag.engine.undo import Undo
from emag.errors import BadValue, Unsupported
from emag.hosts.lookup import denoisers, host_of
from emag.lab.bake import teacher, work
from emag.lab.bake.adapter import FILE, adapter_at
from emag.lab.bake.baker import Baker, BakeSettings, errors_of, held_out
from emag.lab.bake.lessons import Lessons, read_lesson, write_lesson
from emag.lab.draw.sampling import DrawSettings
from emag.records.baked import Baked, baked_facts, read_baked, warn_of_baked
from emag.testing.cases import every
from shell import run  # noqa: F401  a fixture
from tiny import CASES, sd3, sd3_call

peft = pytest.importorskip("peft")
CPU = torch.device("cpu")
close = torch.testing.assert_close
TEACHER = (emag.EMAG(1.5, layers=(1, 2)), emag.CFG(4.0))


def follow(pipe, rules=TEACHER, seeds=(8, 9), **more):
    return teacher.follow(pipe, rules, sd3_call(seeds, **more), seeds)


def learnt(lesson, tmp_path, name="a"):
    write_lesson(tmp_path / f"{name}.safetensors", lesson, {"who": name})
    return Lessons([read_lesson(tmp_path / f"{name}.safetensors", {"who": name})])


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "flux", "true-cfg", "chroma", "cogview4", "wan", "qwen",
                                  "cogvideox", "kandinsky5", "lumina2", "hidream", "hunyuan", "ltx-2", "sdxl-control"])
def test_what_is_recorded_is_what_the_network_and_the_scheduler_saw(name):
    """Without guidance, the network on recorded inputs says what its scheduler was given, bit for bit or nearly so."""
    case = every()[name]
    pipe = case.pipe()
    host, network = host_of(pipe), read_network(denoisers(pipe, host_of(pipe))[0])
    lesson = teacher.follow(pipe, (), {**case.call((8, 9)), **({host.scale: host.off} if host.scale else {})}, (8, 9))
    with torch.no_grad():
        for inputs, guided in zip(lesson.inputs, lesson.guided):
            close(teacher.predicted(network, inputs, guided), guided, atol=1e-5, rtol=1e-5)
    assert len(lesson.guided) == len(lesson.inputs) > 1
    assert "step" not in vars(pipe.scheduler) and not network.module._forward_pre_hooks


def test_the_guided_prediction_is_that_of_both_branches():
    """CFG written out: the network on the recorded conditional inputs, and on those of the negative prompt."""
    pipe, call = sd3(), sd3_call()
    lesson = follow(pipe, (emag.CFG(4.0),))
    network = read_network(pipe.transformer)
    for inputs, guided in zip(lesson.inputs, lesson.guided):
        null = {**inputs, "encoder_hidden_states": call["negative_prompt_embeds"],
                "pooled_projections": call["negative_pooled_prompt_embeds"]}
        with torch.no_grad():
            c, u = (teacher.predicted(network, one, guided) for one in (inputs, null))
        close(guided, u + 4 * (c - u), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["flux", "qwen", "hunyuan", "sdxl-control", "wan"])
def test_rows_that_are_drawn_are_those_that_were_recorded(name, tmp_path):
    """Any rows in any number, whatever the network takes: positions, sizes, residuals, tuples of them."""
    pipe, call = every()[name].pipe(), every()[name].call((8, 9))
    host, network = host_of(pipe), read_network(denoisers(pipe, host_of(pipe))[0])
    lessons = learnt(teacher.follow(pipe, (), {**call, **({host.scale: host.off} if host.scale else {})}, (8, 9)), tmp_path)
    inputs, guided = lessons.rows(torch.tensor([5, 0, 3, len(lessons) - 1, 2]))
    with torch.no_grad():
        close(teacher.predicted(network, inputs, guided), guided, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["true-cfg", "chroma", "wan", "qwen"])
def test_of_two_calls_a_step_the_conditional_one_is_recorded(name):
    """Under guidance as without it: the same inputs at the first step, one each step; the guided prediction is another."""
    pipe, call = every()[name].pipe(), every()[name].call((8, 9))
    host = host_of(pipe)
    plain, both = (teacher.follow(pipe, (), one, (8, 9)) for one in ({**call, host.scale: host.off}, call))
    assert len(both.inputs) == len(both.guided) == len(plain.inputs)
    for value, other in zip(plain.inputs[0].values(), both.inputs[0].values(), strict=True):
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert (both.guided[0] - plain.guided[0]).abs().max() > 1e-3 * plain.guided[0].abs().max()


def test_a_teacher_with_a_memory_is_followed_in_order():
    """EMAG's and a momentum's predictions of the later steps are those of the whole run, not of its end alone."""
    for rules in (TEACHER, (emag.APG(4.0, momentum=-0.5, eta=0.0, norm_threshold=0.0),)):
        lesson, pipe = follow(sd3(), rules), sd3()
        images = pipe(**sd3_call(output_type="latent")).images
        with emag.guide(pipe, *rules):
            guided = pipe(**sd3_call()).images
        close(lesson.images, guided)
        assert not torch.allclose(guided, images)
    plain, whole = follow(sd3(), (emag.CFG(4.0),)), follow(sd3(), TEACHER)
    assert torch.equal(plain.inputs[0]["hidden_states"], whole.inputs[0]["hidden_states"])
    assert not torch.allclose(plain.guided[-1], whole.guided[-1])


def test_a_stateless_teacher_says_the_same_at_any_time():
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": ["a photo of a frog", "a photo of a ship"], "num_inference_steps": 4, "guidance_scale": 2.5}
    rules = (emag.PAG(1.5), emag.CFG(3.0))
    teacher.check_times(pipe, rules, "random")
    lesson = teacher.follow(pipe, rules, call, (1, 2))
    for number, sigma in ((0, 1.0), (2, 0.5)):
        x = lesson.inputs[number]["hidden_states"]
        close(teacher.answer_at(pipe, rules, call, x, sigma).guided[0], lesson.guided[number], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rule", "says"), [
    (emag.EMAG(1.5, layers=(1,)), "running average"), (emag.CADS(), "condition anew"), (emag.Momentum(), "earlier steps"),
    (emag.APG(4.0, momentum=-0.5, eta=0.0, norm_threshold=0.0), "earlier steps")])
def test_the_wrong_pairing_is_refused(rule, says):
    with pytest.raises(BadValue, match=f"{says}.*leave out --times random"):
        teacher.check_times(sd3(), (emag.CFG(4.0), rule), "random")
    teacher.check_times(sd3(), (emag.CFG(4.0), rule), "trajectory")


def test_pipelines_that_cannot_be_followed_are_refused():
    pipe = every()["z-image"].pipe()
    with pytest.raises(Unsupported, match="a list of rows"):
        teacher.follow(pipe, (), every()["z-image"].call(), (8, 9))
    assert "step" not in vars(pipe.scheduler)
    with pytest.raises(Unsupported, match="no latents and noise levels"):
        teacher.check_random(CASES["dit"].pipe())
    with pytest.raises(Unsupported, match="where it is told"):  # its schedule is shifted
        teacher.answer_at(sd3(), (), sd3_call(), torch.randn(2, 4, 8, 8), 0.5)


def test_an_untrained_adapter_is_the_network_and_a_trained_one_learns(tmp_path):
    pipe = sd3()
    lessons, unseen = learnt(follow(pipe), tmp_path), learnt(follow(pipe, seeds=(20, 21)), tmp_path, "b")
    network = read_network(pipe.transformer)
    before = errors_of(network, lessons, CPU)
    baker = Baker(network, lessons, BakeSettings(rank=4, iterations=60, rows=16, lr=3e-3))
    assert torch.equal(errors_of(network, lessons, CPU), before)
    assert all(not p.requires_grad for name, p in network.module.named_parameters() if "lora" not in name)
    for _ in range(60):
        baker.advance()
    assert errors_of(network, lessons, CPU).mean() < 0.8 * before.mean()
    found = held_out(network, unseen, CPU)
    assert found.before == pytest.approx(float(errors_of(read_network(sd3().transformer), unseen, CPU).mean()), rel=1e-4)
    assert found.low <= found.left <= found.high and found.images == 2


def test_a_range_of_scales_in_closed_form():
    """A linear network and CFG of two linear predictions: one LoRA, at the weight of each scale, is all of them exactly."""
    rng = torch.Generator().manual_seed(3)
    cond, null, points = (torch.randn(4, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False)).double()
    layer[0].weight.data.copy_(cond)
    network = peft.get_peft_model(layer, peft.LoraConfig(r=4, lora_alpha=4, target_modules=["0"]))
    lora = network.base_model.model[0]
    told = Baked("cfg=5", 5.0, ranged=True)
    # what is least squares over shares 1/2 and 1 alone: the prediction moves by weight B A x
    lora.lora_A["default"].weight.data.copy_(torch.eye(4))
    moves = [(w, (w - 1) * points @ (cond - null).T) for w in (3.0, 5.0)]
    rows = torch.cat([told.weight(w) * points for w, _ in moves])
    lora.lora_B["default"].weight.data.copy_(torch.linalg.lstsq(rows, torch.cat([move for _, move in moves])).solution.T)
    way, far = (cond - null) @ points[0], []
    for w in (1.0, 1.5, 2.0, 4.0, 5.0):  # most were not learnt from
        undo = Undo()
        scale_lora(network, told.weight(w), undo)
        guided = points @ null.T + w * points @ (cond - null).T
        close(network(points), guided, atol=1e-6, rtol=0)
        far.append(float((network(points)[0] - points[0] @ cond.T) @ way))
        undo.close()
    assert abs(far[0]) < 1e-12 and far == sorted(far) and len(set(far)) == len(far)  # the plain network, then ever further
    with pytest.raises(BadValue, match=r"learnt the scales 1 to 5: w=5\.5 cannot"):
        told.weight(5.5)
    with pytest.raises(BadValue, match="learnt one scale, 5: w=2 cannot"):
        Baked("cfg=5", 5.0).weight(2.0)
    assert told.at(0.5) == Baked("cfg=5", 3.0, ranged=True) and told.at(0.0) is None
    with pytest.raises(BadValue, match=r"weight cannot be 1\.2"):
        told.at(1.2)


@pytest.mark.slow
def test_an_adapter_learns_a_range_and_at_scale_1_is_the_network(tmp_path):
    teaches = work.Teacher(emag.load("shapes"), (emag.CFG(3.0),), ("a red circle", "a blue ring"), DrawSettings(3), 4, 2, 2,
                           "trajectory", 2)
    teaches.pipe.set_progress_bar_config(disable=True)
    work.check(teaches)
    learnt_from, held = work.lessons(teaches, tmp_path)
    assert {share: len(rows) for share, rows in learnt_from.groups.items()} == {0.5: 6, 1.0: 6} and len(held.groups) == 2
    half = teaches.show(range(0, 2))  # at a share of 1/2, CFG of 3 is CFG of 2
    whole = teacher.follow(teaches.pipe, (emag.CFG(2.0),), *teaches.call(range(0, 2)))
    assert all(map(torch.equal, half.guided, whole.guided))
    network = read_network(teaches.pipe.transformer)
    before = errors_of(network, learnt_from, CPU, plain=True)
    baker = Baker(network, learnt_from, BakeSettings(rank=4, iterations=6, rows=6, lr=1e-2))
    weights, layer = [], lora_layers(network.module)[0]
    hook = network.module.register_forward_pre_hook(lambda *_: weights.append(layer.scaling["baked"]))
    for _ in range(6):
        baker.advance()
    hook.remove()
    assert weights == [0.5, 1.0] * 3  # each strength in turn, at its weight
    assert (errors_of(network, learnt_from, CPU) < before).all()
    inputs, guided = held.rows(torch.arange(2))
    with torch.no_grad(), adapter_at(network, 0.0):
        off = teacher.predicted(network, inputs, guided)
    with torch.no_grad():
        on = teacher.predicted(network, inputs, guided)
        network.module.disable_adapters()
        plain = teacher.predicted(network, inputs, guided)
    assert torch.equal(off, plain) and not torch.equal(on, plain)
    network.module.enable_adapters()
    path, _ = work.finish(teaches, baker, held, tmp_path)
    assert read_baked(path) == Baked("cfg=3", 3.0, ranged=True)
    pipe = emag.load("shapes", lora=f"{path}:w=2")
    assert set(lora_layers(pipe.transformer)[0].scaling.values()) == {0.5} and pipe.emag_baked.scale == 2
    for asked, says in (("w=3.5", "learnt the scales 1 to 3"), ("w=much", "is a number"), ("1.5", "at weights 0 to 1")):
        with pytest.raises(BadValue, match=says):
            emag.load("shapes", lora=f"{path}:{asked}")


def test_the_adapter_of_a_network_in_16_bits_learns_in_32(tmp_path):
    """In 16 bits the small steps of the optimizer would round to none."""
    pipe, dtype = sd3(), torch.bfloat16
    lessons = learnt(follow(pipe, (emag.CFG(4.0),)), tmp_path)
    network = read_network(pipe.transformer.to(dtype))
    for kept in (lessons.each, lessons.once):
        kept.update({name: value.to(dtype) for name, value in kept.items() if value.is_floating_point()})
    baker = Baker(network, lessons, BakeSettings(rank=2, iterations=4, rows=4, lr=1e-5, warmup=0.0))
    grown = [(p, p.detach().clone()) for name, p in baker.parameters.items() if "lora_A" in name]
    for _ in range(3):
        assert baker.advance().isfinite()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in baker.parameters.values())
    # numbers of about 0.1 move by a 10 000th of themselves: 16 bits have 3 digits
    moved = torch.cat([(p != before).flatten() for p, before in grown]).double().mean()
    assert moved > 0.9 and network.module.dtype == dtype
    with pytest.raises(BadValue, match="float16, in which the gradients"):
        Baker(read_network(sd3().transformer.to(torch.float16)), lessons, BakeSettings())


@pytest.mark.parametrize(("rules", "says"), [
    ((emag.PAG(2.0),), "goes up from 1"), ((emag.CFG(3.0), emag.CADS()), "cads has no scale"),
    ((emag.CFG(emag.Interval(4.0)),), "cfg has no scale"), ((emag.CFG(0.5),), "goes up from 1")])
def test_a_range_needs_a_guidance_that_goes_off_with_its_scale(rules, says):
    one = work.Teacher(sd3(), rules, ("a",), DrawSettings(2), 4, 4, 2, "trajectory", 2)
    one.pipe.emag_source = {}
    with pytest.raises(BadValue, match=says):
        work.check_range(replace(one, draw=DrawSettings(2, 1.0)))


def test_a_lesson_comes_back_as_it_went(tmp_path):
    lesson = follow(sd3())
    lessons = learnt(lesson, tmp_path)
    assert len(lessons) == 16 and set(lessons.once) == {"encoder_hidden_states", "pooled_projections"}
    pick = torch.tensor([0, 9, 15])  # image 0 step 0, image 1 steps 1 and 7
    inputs, guided = lessons.rows(pick)
    for row, (image, step) in enumerate(((0, 0), (1, 1), (1, 7))):
        assert torch.equal(guided[row], lesson.guided[step][image])
        for name in ("hidden_states", "timestep", "encoder_hidden_states"):
            assert torch.equal(inputs[name][row], lesson.inputs[step][name][image])
    with pytest.raises(BadValue, match="another teacher showed"):
        read_lesson(tmp_path / "a.safetensors", {"who": "b"})
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadValue, match="no lesson that can be read"):
        read_lesson(tmp_path / "a.safetensors", {"who": "a"})


@pytest.mark.slow
def test_a_training_goes_on_where_it_was(tmp_path):
    settings = BakeSettings(rank=2, iterations=6, rows=4, lr=1e-3)
    lessons = learnt(follow(sd3()), tmp_path)

    def baker(steps, made=None):
        made = made or Baker(read_network(sd3().transformer), lessons, settings)
        for _ in range(steps):
            made.advance()
        return made

    whole, first = baker(6), baker(3)
    work.save(first, tmp_path)
    second = Baker(read_network(sd3().transformer), lessons, settings)
    assert work.restore(second, tmp_path) and second.step == 3
    baker(3, second)
    assert all(torch.equal(p, second.parameters[name]) for name, p in whole.parameters.items())
    other = Baker(read_network(sd3().transformer), lessons, BakeSettings(rank=2, iterations=7, rows=4, lr=1e-3))
    with pytest.raises(BadValue, match="iterations=6"):
        work.restore(other, tmp_path)
    assert not work.restore(second, tmp_path / "elsewhere")


def contents(path):
    """A file's header entries, which stand there in any order, and its tensors to the bit."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: file.get_tensor(name).view(torch.int16).tolist() for name in file.keys()}  # noqa: SIM118


SMALL = ("-n", "3", "--images", "2", "--held", "1", "-b", "2", "--iterations", "3", "--rows", "2", "--rank", "2")


@pytest.mark.slow
def test_the_command_bakes_and_what_it_made_is_read_by_all(run, tmp_path, monkeypatch, caplog):  # noqa: F811
    out = tmp_path / "adapter"
    code, text, error = run("bake", "shapes", "-g", "emag=1.25", "-g", "cfg=3", "-o", out, *SMALL, "--json")
    assert code == 0, error
    told = json.loads(text)
    with Image.open(told["sheet"]) as page:
        assert page.width > 3 * 64 and page.height > 64 * 2
    assert told["adapter"] == str(out / FILE) and told["low"] <= told["left"] <= told["high"]
    with safe_open(out / FILE, "pt") as file:
        facts = json.loads(file.metadata()["emag_baked"])
        assert all(name.startswith("transformer.transformer_blocks.") for name in file.keys())  # noqa: SIM118
    assert facts["guidance"] == "emag=1.25 cfg=3" and facts["baked_scale"] == 3 and facts["times"] == "trajectory"
    assert facts["scale_range"] == [3, 3] and facts["weight"] == "1"
    assert facts["images"] == 2 and facts["null"].startswith("as it was")
    assert read_baked(out) == Baked("emag=1.25 cfg=3", 3.0)
    # diffusers reads it; so does emag.load, as --lora does, and says where scales multiply
    plain, ours = emag.load("shapes"), emag.load("shapes", lora=str(out))
    plain.load_lora_weights(str(out))
    pictures = []
    for pipe, scale in ((plain, 1.0), (ours, 1.0), (emag.load("shapes"), 1.0), (ours, 3.0)):
        pipe.set_progress_bar_config(disable=True)
        caplog.clear()
        monkeypatch.setattr(logging.getLogger("emag"), "propagate", True)
        with emag.guide(pipe):
            pictures.append(pipe("a red circle", guidance_scale=scale, num_inference_steps=3, output_type="latent",
                                 generator=torch.Generator().manual_seed(0)).images)
        warned = "scales multiply (3 x 3 = 9)" in caplog.text
        assert warned == (scale == 3.0)
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    # the same command is done already; another teacher is refused in one line
    again = json.loads(run("bake", "shapes", "-g", "emag=1.25", "-g", "cfg=3", "-o", out, *SMALL, "--json")[1])
    assert again == told
    code, _, error = run("bake", "shapes", "-g", "emag=1.5", "-g", "cfg=3", "-o", out, *SMALL)
    assert code == 2 and "another teacher showed" in error
    # cut short among the lessons, then by ctrl-c in the training: the same command goes on, and ends where it would have
    second = tmp_path / "second"
    shutil.copytree(out / work.PLACE, second / work.PLACE)
    for name in (work.TRAINING, "000002.safetensors"):
        (second / work.PLACE / name).unlink()
    advance = Baker.advance

    def struck(self):
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Baker, "advance", struck)
    assert run("bake", "shapes", "-g", "emag=1.25", "-g", "cfg=3", "-o", second, *SMALL)[0] == 130
    assert (second / work.PLACE / work.TRAINING).is_file() and not (second / FILE).exists()
    monkeypatch.setattr(Baker, "advance", advance)
    code, _, error = run("bake", "shapes", "-g", "emag=1.25", "-g", "cfg=3", "-o", second, *SMALL)
    assert code == 0 and "continues at step 2 of 3" in error
    assert contents(second / FILE) == contents(out / FILE)


@pytest.mark.parametrize(("arguments", "says"), [
    (("shapes",), "no guidance to bake in"), (("shapes", "-g", "emag=1"), "no guidance to bake in"),
    (("shapes", "--scale", "1"), "no guidance to bake in"),
    (("shapes", "-g", "emag=1.5", "--times", "random"), "running average"),
    (("shapes", "-g", "cfg=3", "--times", "often"), "trajectory or random"),
    (("shapes", "-g", "cfg=3", "--lr", "2"), "lr between"), (("shapes", "-g", "cfg=3", "--levels", "2"), "levels must be"),
    (("shapes", "-g", "cfg=3", "--dtype", "float16"), "round to 0"),
    (("nowhere", "-g", "cfg=3"), "no model")])
def test_bad_orders_are_one_line(run, tmp_path, arguments, says):  # noqa: F811
    code, text, error = run("bake", *arguments, "-o", tmp_path / "out", *SMALL)
    assert code == 2 and says in error and len(error.splitlines()) == 1 and not text
    assert not (tmp_path / "out").exists()


def test_facts_say_which_scale_is_in_it():
    assert baked_facts((emag.EMAG(1.5),), 2.5)["guidance"] == "emag=1.5 guidance_scale=2.5"
    assert baked_facts((emag.EMAG(1.5),), 2.5)["baked_scale"] == 2.5
    assert baked_facts((emag.CFG(emag.Interval(4.0)),), 2.5)["baked_scale"] is None
    assert baked_facts((emag.PAG(2.0),), None)["guidance"] == "pag=2"


def test_a_strangers_adapter_is_read_as_text(tmp_path, caplog, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.setattr(logging.getLogger("emag"), "propagate", True)
    for text in ("{", "[]", '{"guidance": 3}'):
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"emag_baked": text})
        assert read_baked(tmp_path) is None
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"emag_baked": json.dumps({"guidance": "\x1b[31m", "x": 1})})
    warn_of_baked(read_baked(tmp_path / "a.safetensors"), 3.0, ())
    assert "\x1b" not in caplog.text and "scales multiply." in caplog.text
    assert read_baked(tmp_path / "none.safetensors") is None


@pytest.mark.slow
def test_the_adapter_that_is_shipped_is_nearer_to_its_teacher():
    """On runs of prompts and noise of their own: well below the square error that the network alone has."""
    folder = Path(__file__).parents[2] / "examples" / "shapes-baked"
    assert (folder / FILE).stat().st_size < 1e6 and read_baked(folder) == Baked("emag=1.25 cfg=3", 3.0)
    pipe = emag.load("shapes")
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": ["a red circle left of a blue ring", "a small green cross", "two yellow squares", "a cyan triangle"],
            "num_inference_steps": 6}
    shown = teacher.follow(pipe, (emag.EMAG(1.25), emag.CFG(3.0)), call, (70, 71, 72, 73))
    baked = emag.load("shapes", lora=str(folder))
    left, before = (sum(float((teacher.predicted(read_network(one.transformer), inputs, guided) - guided).square().mean())
                        for inputs, guided in zip(shown.inputs, shown.guided)) for one in (baked, pipe))
    assert left < 0.7 * before
