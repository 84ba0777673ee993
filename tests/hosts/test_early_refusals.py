"""What is refused as early as it can be known: names at `emag.guide`, copies of a network in a run; locks given back."""

import copy
import os

import pytest
import torch

import emag
from emag import files
from tiny import CASES, sd3, sd3_call

MISSING = {
    "condition": (lambda: emag.Negative(2.0, negative="other"), "the condition 'other', which was not given"),
    "mask": (lambda: emag.Compose(terms=(emag.Term(2.0, "cond", mask="left"),)), "left"),
    "model": (lambda: emag.Autoguidance(2.0, model="worse"), "the model 'worse', which was not given"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_name_that_nobody_gave_is_refused_before_the_block(kind):
    rule, told = MISSING[kind]
    pipe = sd3()
    with pytest.raises(emag.BadValue, match=told):
        emag.guide(pipe, rule())
    assert torch.equal(CASES["sd3"].run(pipe), CASES["sd3"].run(sd3()))


def test_names_that_were_given_are_taken():
    pipe = sd3()
    text = {"encoder_hidden_states": torch.ones(1, 5, 12), "pooled_projections": torch.ones(1, 10)}
    for handle in (emag.guide(pipe, MISSING["condition"][0](), conditions={"other": text}),
                   emag.guide(pipe, MISSING["mask"][0](), masks={"left": torch.ones(8, 8)}),
                   emag.guide(pipe, MISSING["model"][0](), models={"worse": sd3(seed=1).transformer})):
        with handle:
            assert CASES["sd3"].run(pipe).isfinite().all()


def test_a_network_in_a_run_cannot_be_copied_and_can_be_after_it():
    pipe, said = sd3(), []

    def at_step(pipe, index, time, values):
        for whole in (pipe, pipe.transformer):
            with pytest.raises(emag.Busy, match="copy it before the run, or after it"):
                copy.deepcopy(whole)
            said.append(index)
        return values

    with emag.guide(pipe, emag.SLG(1.5, layers=(1,))):
        pipe(**sd3_call(callback_on_step_end=at_step))
        other = copy.deepcopy(pipe.transformer)
    assert len(said) == 2 * 8 and "__deepcopy__" not in vars(pipe.transformer) and "forward" not in vars(other)


def test_a_lock_is_given_back_where_another_process_still_has_its_file(tmp_path, monkeypatch):
    opened, real = [], os.open
    monkeypatch.setattr(files.os, "open", lambda *args: opened.append(real(*args)) or opened[-1])
    with files.locked(tmp_path / "lock"):
        inherited = os.dup(opened[-1])  # as a child process that was forked has it
    with files.locked(tmp_path / "lock", wait=False):
        pass
    os.close(inherited)
