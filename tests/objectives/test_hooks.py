"""An objective as one call in a trainer: the optimum is that of the loss inside, and the example of a LoRA script runs."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.objectives import GuidedObjective, TrainingBatch, as_teacher, guidance_loss, model_guidance_loss
from emag.records.baked import Baked, read_baked
from tables import MEANS, NULL, Table, batch
from tiny import sd3, sd3_call

EXAMPLE = Path(__file__).parents[2] / "examples" / "lora_guidance_loss.py"
close = torch.testing.assert_close


def of_table():
    data, condition, point, dropped = batch()
    return TrainingBatch((condition, point, dropped), (condition, point, torch.ones_like(dropped)), data, dropped)


FROZEN = Table()
FROZEN.cond, FROZEN.null = MEANS, NULL


@pytest.mark.parametrize(("name", "scale", "teacher", "ends"), [
    ("agd", 3.0, FROZEN, 3.0), ("guidance-loss", 3.0, FROZEN, 3.0), ("guidance-loss", 3.0, None, 3.0),
    ("model-guidance", 0.5, None, 2.0)])
def test_a_training_ends_at_the_scale_that_is_told(name, scale, teacher, ends):
    given, table = of_table(), Table()
    objective = GuidedObjective(name, scale, teacher and (lambda inputs: teacher(*inputs)))
    told = objective(lambda inputs: table(*inputs), given, 0)
    assert told.baked_scale == ends
    table.fit(lambda: objective(lambda inputs: table(*inputs), given, 0).loss, 600)
    close(table.cond.detach(), NULL + ends * (MEANS - NULL), atol=1e-6, rtol=0)
    close(table.null.detach(), NULL, atol=1e-6, rtol=0)


def test_the_loss_is_that_of_the_function_and_the_scale_may_go_with_the_step():
    given, table = of_table(), Table()
    cond, null = table(*given.cond), table(*given.null)
    told = GuidedObjective("guidance-loss", lambda step: 1.0 + step)(lambda inputs: table(*inputs), given, 2)
    assert told.loss == guidance_loss(cond, given.target, null, 3.0, given.dropped) and told.baked_scale == 3
    assert told.metrics["plain"] == (cond - given.target).square().mean(1).mean() and not told.metrics["plain"].requires_grad
    close(told.metrics["guidance"], (cond - null).square().mean().sqrt().detach())
    tabulated = GuidedObjective("model-guidance", 1.5, convention="tabulated")(lambda inputs: table(*inputs), given, 0)
    assert tabulated.baked_scale == 2
    assert tabulated.loss == model_guidance_loss(cond, given.target, cond, null, 1.5, given.dropped, "tabulated")


def test_who_teaches_is_asked_without_gradients_and_never_trained():
    given, table, asked = of_table(), Table(), []

    def student(inputs):
        asked.append(torch.is_grad_enabled())
        return table(*inputs)

    GuidedObjective("guidance-loss", 3.0)(student, given, 0)
    assert asked == [False, False, True]
    other = Table(7)
    loss = GuidedObjective("agd", 3.0, lambda inputs: other(*inputs))(student, given, 0).loss
    assert torch.autograd.grad(loss, (other.cond, other.null), allow_unused=True) == (None, None)


class Dropping(torch.nn.Module):
    """A student with dropout, which says of an input x [rows, 2] how it was asked."""

    def __init__(self):
        super().__init__()
        self.weight, self.asked = torch.nn.Parameter(torch.ones(2)), []

    def forward(self, x):
        self.asked.append(self.training)
        return torch.nn.functional.dropout(x * self.weight, 0.5, self.training)


def test_a_student_that_teaches_itself_has_no_dropout_in_its_target():
    student, x = Dropping(), torch.ones(64, 2)
    told = GuidedObjective("guidance-loss", 3.0)(student, TrainingBatch(x, 0.5 * x, x), 0)
    assert student.asked == [False, False, True] and student.training
    assert told.metrics["guidance"] == 0.5 and told.loss.requires_grad


@pytest.mark.parametrize("pair", [lambda x: (x, x), lambda x: ({"a": x, "b": 1}, {"a": x, "b": 1}), lambda x: ([x], (x,))])
def test_a_null_that_is_the_condition_itself_is_refused(pair):
    """As in MeanAudio's code, where the text that was kept is another name of the one that is dropped."""
    x = torch.ones(2, 3)
    with pytest.raises(BadValue, match="very same inputs"):
        GuidedObjective("guidance-loss", 3.0)(lambda inputs: x, TrainingBatch(*pair(x), x), 0)


def test_what_has_no_optimum_is_refused():
    for call, says in ((lambda: GuidedObjective("agd", 3.0), "needs a teacher"),
                       (lambda: GuidedObjective("gft", 3.0), "got 'gft'"),
                       (lambda: GuidedObjective("guidance-loss", float("nan")), "finite"),
                       (lambda: as_teacher(torch.nn.Linear(2, 2), adapters=False).__enter__(), "no adapter")):
        with pytest.raises(BadValue, match=says):
            call()


def test_a_teacher_draws_nothing_and_is_afterwards_what_it_was():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
    network[0].eval()
    x = torch.ones(2, 3)
    with as_teacher(network) as teacher:
        made = teacher(x)
        assert torch.equal(made, teacher(x)) and not made.requires_grad
    assert [module.training for module in network.modules()] == [True, False, True] and network(x).requires_grad


def test_the_frozen_base_needs_no_copy():
    peft = pytest.importorskip("peft")
    network = sd3().transformer
    call = sd3_call((1,))
    inputs = {"hidden_states": torch.ones(1, 4, 8, 8), "timestep": torch.ones(1), "return_dict": False,
              "encoder_hidden_states": call["prompt_embeds"], "pooled_projections": call["pooled_prompt_embeds"]}
    with torch.no_grad():
        base = network(**inputs)[0]
    network.add_adapter(peft.LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    with as_teacher(network, adapters=False):
        assert torch.equal(network(**inputs)[0], base)
    assert not torch.equal(network(**inputs)[0], base)


@pytest.mark.slow
def test_the_example_of_a_lora_script_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    monkeypatch.setattr(sys, "argv", ["", "--max_train_steps=1", "--train_batch_size=2", f"--output_dir={tmp_path}"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "guidance of w = 3 is baked in" in capsys.readouterr().out
    assert read_baked(tmp_path) == Baked("cfg=3", 3.0)
    pipe = emag.load("shapes", lora=str(tmp_path))
    assert pipe.emag_baked == Baked("cfg=3", 3.0) and pipe.get_active_adapters() == ["lora"]
