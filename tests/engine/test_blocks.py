"""A guidance belongs to one object and to one `with` block: begun, forgotten, left, and what is made inside it."""

import copy
import gc
import pickle
import warnings
from contextlib import ExitStack

import pytest
import torch

import emag
from emag.records.png import read_record
from tiny import CASES, quiet, sd3

CASE = CASES["sd3"]
RULES = (emag.EMAG(1.5, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9)), emag.CFG(3.0))
FORGOTTEN = pytest.warns(RuntimeWarning, match="never entered")


@pytest.fixture
def pipe():
    return sd3()


def draw(pipe):
    return CASE.run(pipe)


def guided(pipe):
    with emag.guide(pipe, *RULES):
        return draw(pipe)


# a forgotten `with`


def test_rules_are_checked_where_they_are_named(pipe):
    cls = type(pipe)
    for rules in ((emag.CFG(3.0), emag.APG(3.0)), (emag.EMAG(1.5, layers=(9,)),), ("emag",)):
        with pytest.raises(emag.BadValue):
            emag.guide(pipe, *rules)
    assert type(pipe) is cls


def test_a_call_of_the_pipeline_says_that_the_block_was_never_entered(pipe):
    cls, plain = type(pipe), draw(pipe)
    run = emag.guide(pipe, *RULES)
    with FORGOTTEN as told:
        assert torch.equal(draw(pipe), plain)
    assert told[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        assert torch.equal(draw(pipe), plain)  # said once
        del run
    assert type(pipe) is cls


def test_the_end_of_a_handle_says_so_too(pipe):
    cls = type(pipe)
    with FORGOTTEN:
        emag.guide(pipe, *RULES)
    assert type(pipe) is cls


@pytest.mark.slow
def test_handles_that_are_used_say_nothing(pipe):
    cls, plain, expected = type(pipe), draw(pipe), guided(pipe)
    with warnings.catch_warnings(action="error"):
        first, second = emag.guide(pipe, *RULES), emag.guide(pipe)
        for _ in range(2):  # a handle may be entered again
            with first as run:
                assert run is first and torch.equal(draw(pipe), expected)
            with second:
                assert torch.equal(draw(pipe), plain)
        del first, second, run
        gc.collect()
    assert type(pipe) is cls


def test_a_handle_keeps_no_pipeline_alive_by_a_circle(pipe):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gc.disable()
        try:
            run = emag.guide(pipe, *RULES)
            del run
        finally:
            gc.enable()
    assert len(told) == 1


# one object, one block


def test_other_ways_into_a_block(pipe):
    cls, expected = type(pipe), guided(pipe)
    run = emag.guide(pipe, *RULES)
    with ExitStack() as stack:
        stack.enter_context(run)
        assert torch.equal(draw(pipe), expected)
    assert type(pipe) is cls
    run.__enter__()
    assert hasattr(run, "__exit__") and torch.equal(draw(pipe), expected)
    run.__exit__(None, None, None)
    assert type(pipe) is cls


def test_a_block_inside_a_block_is_refused_and_leaves_the_outer_one_open(pipe):
    cls, expected = type(pipe), guided(pipe)
    with emag.guide(pipe, *RULES) as run:
        for begin in (lambda: emag.guide(pipe, emag.CFG(2.0)), run.__enter__):
            with pytest.raises(emag.Busy, match="already inside"):
                begin()
        with pytest.raises(emag.Busy), run:
            pass
        assert torch.equal(draw(pipe), expected)
    assert type(pipe) is cls


MADE = {
    "copy": copy.copy, "deepcopy": copy.deepcopy, "its class": lambda pipe: pipe.__class__(**pipe.components),
    "its type": lambda pipe: type(pipe)(**pipe.components), "from_pipe": lambda pipe: type(pipe).from_pipe(pipe),
    "pickle": lambda pipe: pickle.loads(pickle.dumps(pipe)), "old pickle": lambda pipe: pickle.loads(pickle.dumps(pipe, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
@pytest.mark.parametrize("inside", [True, False], ids=["in the block", "before it"])
def test_what_is_made_of_a_guided_pipeline_is_plain(pipe, make, inside):
    cls, plain, expected = type(pipe), draw(pipe), guided(pipe)
    run = emag.guide(pipe, *RULES)
    if not inside:
        other = quiet(make(pipe))
    with run:
        other = quiet(make(pipe)) if inside else other
        assert type(other) is cls and pipe.__class__ is cls and isinstance(pipe, cls)
        assert torch.equal(draw(other), plain)
        assert torch.equal(draw(pipe), expected)
    assert type(other) is cls and type(pipe) is cls
    assert torch.equal(draw(other), plain)


def test_copies_are_guided_by_blocks_of_their_own(pipe):
    expected = guided(pipe)
    with emag.guide(pipe, *RULES):
        other = copy.deepcopy(pipe)
        with emag.guide(other, *RULES):
            assert torch.equal(draw(other), expected)
        assert torch.equal(draw(pipe), expected)


# what is saved


def drawn(pipe, seeds=(8, 9, 10), **more):
    with emag.guide(pipe, *RULES) as run:
        return run, pipe(**CASE.call(seeds, **{"output_type": "pil", "num_inference_steps": 3, **more})).images


def rows(paths):
    return [read_record(path)["row"] for path in paths]


def test_one_image_or_some_are_saved_with_their_own_rows(pipe, tmp_path):
    run, images = drawn(pipe)
    assert rows(run.save(images, tmp_path / "all")) == [0, 1, 2]
    assert rows(run.save(images[1], tmp_path / "one")) == [1]
    assert rows(run.save(images[1:], tmp_path / "some")) == [1, 2]
    assert rows(run.save(images[::-1], tmp_path / "turned")) == [2, 1, 0]
    assert rows(run.save([image.rotate(180) for image in images], tmp_path / "worked on")) == [0, 1, 2]
    with pytest.raises(emag.BadValue, match="which of the 3 images"):
        run.save(images[1].rotate(180), tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_parts_of_an_array_are_known_too(pipe, tmp_path):
    run, images = drawn(pipe, output_type="np")
    assert rows(run.save(images, tmp_path / "all")) == [0, 1, 2]
    assert rows(run.save(images[2], tmp_path / "one")) == [2]
    assert rows(run.save(images[1:], tmp_path / "some")) == [1, 2]


def test_a_single_image_needs_no_list(pipe, tmp_path):
    run, [image] = drawn(pipe, seeds=(8,), return_dict=True)
    assert rows(run.save(image, tmp_path)) == [0]
    assert rows(run.save(image.rotate(180), tmp_path / "worked on")) == [0]
