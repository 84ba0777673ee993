"""A host that computes with its conditional prediction before it asks for the other: what it made is made again."""

import pytest
import torch

from emag.engine.answer import Combined, combined, plain
from emag.engine.awaited import Journal
from emag.errors import Unsupported


def first(values=(1.0, 2.0), ours=False):
    """A first answer, its journal, and the tensor that both share."""
    held, journal = torch.tensor(values), Journal()
    return journal.mark(combined(held) if ours else held), journal, held


def overwritten(held, journal, *values):
    held.copy_(torch.tensor(values))
    journal.close()


@pytest.mark.parametrize("made", [lambda x: x.clone(), lambda x: 0.5 * torch.ones(2) + 0.25 * x.float(), lambda x: x[None],
                                  lambda x: torch.where(torch.tensor([True, False]), x, torch.zeros(2)),
                                  lambda x: torch.cat([x, x]).view(2, 2).to(torch.float64)])
def test_what_was_made_of_the_first_answer_is_made_of_the_final_one(made):
    given, journal, held = first()
    result = made(given)
    overwritten(held, journal, 5.0, -3.0)
    assert torch.equal(plain(result), made(torch.tensor([5.0, -3.0])))


def test_steps_follow_each_other_and_ended_ones_are_ordinary():
    given, journal, held = first()
    result = (given.clone() * 2).sum() + 1
    overwritten(held, journal, 3.0, 4.0)
    assert float(plain(result)) == 15.0
    assert type(result + 1) is torch.Tensor and journal.entries == []


def test_ours_stays_ours_with_itself_alone():
    given, journal, held = first(ours=True)
    copied, mixed = given.clone(), given + torch.ones(2)
    overwritten(held, journal, 0.0, 0.0)
    assert isinstance(copied / given, Combined) and torch.equal(plain(copied / given), torch.ones(2))  # 0 / 0 of ours is 1
    assert type(mixed + 1) is torch.Tensor and (mixed / mixed == 1).all()


def test_a_change_in_place_cannot_be_made_again():
    given, _, _ = first()
    with pytest.raises(Unsupported, match="in place"):
        given.mul_(2)
    with pytest.raises(Unsupported, match="in place"):
        given[0] = 3
