"""The report: what its numbers are, and what a browser makes of the page."""

import json
import re
from dataclasses import asdict, replace
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

import browser
import reported
from emag.errors import BadValue
from emag.lab.evaluate.metrics.extractors.embedded import Embedded
from emag.lab.evaluate.metrics.features import Images, features
from emag.lab.evaluate.metrics.measure import Result
from emag.lab.evaluate.metrics.stored import STORED
from emag.lab.evaluate.report import groups, plots, stored
from emag.lab.evaluate.report.page import page
from emag.lab.evaluate.report.picks import picks
from emag.lab.evaluate.report.sheets import sheet, shown
from emag.lab.evaluate.report.table import table, verdict
from reported import EVIL, NAMES, folder, keep, results
from shell import emag

METRICS = ("fd", "kid", "precision", "recall", "density", "coverage", "accuracy", "saturation", "contrast", "high_frequency",
           "diversity", "residual")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return keep(folder(tmp_path_factory.mktemp("report") / "run"), results())


# numbers


def test_the_best_of_each_column_and_the_verdicts(run):
    made = table([*stored.measured(run), *stored.costs(run, "cfg")], NAMES, "cfg")
    assert [head.metric for head in made.heads] == ["fd", "accuracy", "evaluations", "seconds"]
    best = {head.metric: [name for (name, cells) in made.rows if cells[at].best] for at, head in enumerate(made.heads)}
    assert best == {"fd": ["emag"], "accuracy": ["emag"], "evaluations": ["cfg"], "seconds": ["cfg"]}
    cells = dict(made.rows)
    assert [cell.verdict for cell in cells["emag"]] == ["better", "", "worse", "worse"]
    assert [cell.verdict for cell in cells["pag"]] == ["no clear difference", "worse", "worse", "worse"]
    assert not any(cell.verdict for cell in cells["cfg"])
    assert cells["emag"][0].interval == "0.9 to 1.1" and cells["emag"][0].apart == "-1.5 to -0.5"
    assert not table(stored.measured(run), NAMES, "emag").paired


@pytest.mark.parametrize(("low", "high", "higher", "says"), [(1, 2, True, 1), (1, 2, False, -1), (-2, -1, True, -1),
                                                             (-2, -1, False, 1), (-1, 1, True, 0), (0, 1, True, 0)])
def test_a_verdict_needs_an_interval_on_one_side_of_zero(low, high, higher, says):
    assert verdict(Result("a", "m", (low + high) / 2, low, high, 9, "", higher, "b")) == says


def test_costs_are_means_of_the_index(run):
    own = stored.by_name(stored.costs(run, "cfg"))
    assert own["emag", "evaluations"].value == own["emag", "evaluations"].low == 200
    assert own["emag", "seconds"].value == pytest.approx(2.15)  # four batches: 2, 2.1, 2.2, 2.3
    assert own["emag", "seconds"].low < 2.15 < own["emag", "seconds"].high and own["emag", "seconds"].n == 4
    [apart] = [one for one in stored.costs(run, "cfg") if one.against and (one.recipe, one.metric) == ("pag", "seconds")]
    assert (apart.low, apart.high) == pytest.approx((2.0, 2.0))  # paired by batch: the batches' own differences cancel


def test_one_batch_says_nothing_of_the_spread_of_seconds(tmp_path):
    found = stored.costs(folder(tmp_path / "run", images=3), "cfg")
    assert {one.metric for one in found if one.against} == {"evaluations"}


def test_accuracy_by_class_is_the_mean_over_its_images(run):
    by_class, by_category = groups.breakdowns(run, stored.measured(run))
    assert (by_class.by, by_category.by) == ("class", "category")
    assert [(one.name, one.images) for one in by_class.rows] == [("cat", 5), ("frog", 5), ("ship", 4)]
    images, extractor = Images.of(run, "emag"), Embedded()
    seen = features(images, extractor)["logits"].argmax(1)
    for one in by_class.rows:
        rows = [at for at, label in enumerate(images.columns["class"]) if label == one.name]
        text, _ = one.cells[by_class.recipes.index("emag")]
        assert text == f"{np.mean([extractor.classes[seen[at]] == one.name for at in rows]):.3g}"
    shares = [share for one in by_class.rows for _, share in one.cells]
    assert min(shares) >= 0 and max(shares) in (0, 1)


def test_picks_are_counted_by_evaluation(run):
    [found] = picks(run)
    assert (found.recipe, found.blocks, found.images) == ("emag", [3, 4], 14)
    np.testing.assert_allclose(found.share, [[0, 1, 0, 0], [0, 0, 1, 0]])
    assert "block 3 50%" in found.text


# drawings and images


def test_the_front_is_told_in_words_and_names_are_beside_points(run):
    svg, words = plots.pareto(stored.measured(run), "fd", "accuracy")
    assert words.endswith("On the front: emag.")
    tree = ElementTree.fromstring(svg)
    texts = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert set(NAMES) <= set(texts) and "fd (lower is better)" in texts
    assert plots.INK not in svg and "currentColor" in svg
    assert plots.pareto(stored.measured(run), "fd", "recall") is None


def test_names_of_close_points_do_not_cover_each_other():
    at = [Result(f"recipe-{i}", m, 1 + 0.001 * i, 0.5, 1.5, 9, "v", True) for i in range(6) for m in ("a", "b")]
    svg, _ = plots.pareto(at, "a", "b")
    spots = re.findall(r'text-anchor: (start|middle|end)[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>recipe-', svg)
    assert len(spots) == 6
    wide, left = 30, {"start": 0, "middle": 15, "end": 30}
    corners = [(float(x) - left[anchor], float(y)) for anchor, x, y in spots]
    assert all(abs(a[0] - b[0]) >= wide or abs(a[1] - b[1]) >= 7 for i, a in enumerate(corners) for b in corners[:i])


def test_which_plots_are_drawn():
    names = ("fd", "accuracy", "precision", "recall", "clip-fd", "hps2")
    known = [Result("a", name, 1, 1, 1, 9, "v", True) for name in names]
    assert plots.pairs(known) == [("precision", "recall"), ("fd", "accuracy"), ("fd", "hps2"), ("clip-fd", "accuracy"),
                                  ("clip-fd", "hps2")]


def test_small_images_are_shown_pixel_by_pixel_and_large_ones_reduced():
    small, large = (shown(Image.new("RGB", size), 128) for size in ((32, 16), (1024, 512)))
    assert (small.width, small.height, small.small) == (128, 64, True) and small.uri.startswith("data:image/png")
    assert (large.width, large.height, large.small) == (128, 64, False)
    assert len(large.uri) < 20_000


def test_a_sheet_is_the_same_numbers_side_by_side(tmp_path):
    run = folder(tmp_path / "run", images=6)
    run.storage.remove(run.parts("pag")[1])
    run.storage.remove("images/cfg/000000.png")
    lines = sheet(run, 5)
    assert [line.number for line in lines] == [0, 1, 2, 3, 4]
    assert [image is None for image in lines[4].images] == [False, False, True]
    assert lines[0].images[0] is None and lines[1].images[0] is not None
    assert "pag has 4 of 6 images" in page(run)


# the page


class Addresses(HTMLParser):
    """Whatever a page would fetch by an attribute."""

    def __init__(self, text):
        super().__init__()
        self.all = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.all += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]


def test_texts_are_escaped_and_nothing_is_fetched(run):
    made = page(run)
    assert EVIL not in made and "&lt;script&gt;document.title" in made
    assert made.count("<script") == 1
    found = Addresses(made)
    assert len(found.all) > 40 and all(one.startswith(("data:", "#")) for one in found.all)
    assert not re.search(r"url\((?!#)", made) and "@import" not in made


def test_control_characters_are_shown_and_the_spec_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(reported, "EVIL", "\x1b[31m \u202e<b> \x9b5m \u2028")
    run = folder(tmp_path / "run", images=6)
    made = page(run)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", made)
    assert "\\x1b[31m \\u202e&lt;b&gt;" in made
    text = unescape(re.search(r'<pre id="spec">(.*?)</pre>', made, re.S)[1])
    assert yaml.safe_load(text) == run.run["spec"]


def test_the_page_says_how_to_make_it_again(run):
    made = page(run)
    assert "emag run spec.yaml --out run\n" in made and "--reference REFERENCE.npz --against cfg" in made
    text = unescape(re.search(r'<pre id="spec">(.*?)</pre>', made, re.S)[1])
    assert yaml.safe_load(text) == run.run["spec"]


def test_a_run_without_metrics_has_a_page(tmp_path):
    made = page(folder(tmp_path / "run", images=2, recipes=("cfg",)), rows=0)
    assert "No metrics are stored" in made and "<img" not in made


def test_refusals(run, tmp_path, monkeypatch, capsys):
    with pytest.raises(BadValue, match="no recipe 'apg'"):
        page(run, "apg")
    with pytest.raises(BadValue, match="no metric 'hps2'"):
        page(run, asked=[("fd", "hps2")])
    damaged = folder(tmp_path / "run", images=2)
    for data in (b"{", b'[{"recipe": "cfg"}]', json.dumps([asdict(results()[0]) | {"value": EVIL}]).encode()):
        damaged.storage.write(STORED, data)
        with pytest.raises(BadValue, match=r"metrics\.json"):
            page(damaged)
    code, _, text = emag(monkeypatch, capsys, "report", run.url, "--plot", "fd")
    assert code == 2 and "write two metrics" in text


@pytest.mark.slow
def test_the_command_writes_the_page(run, tmp_path, monkeypatch, capsys):
    code, said, _ = emag(monkeypatch, capsys, "report", run.url, "--rows", 1, "--plot", "fd:evaluations")
    assert code == 0 and "report.html" in said
    assert run.storage.read("report.html").count(b"<img ") == 3
    assert emag(monkeypatch, capsys, "report", run.url, "-o", tmp_path / "a" / "b.html", "--baseline", "pag")[0] == 0
    made = (tmp_path / "a" / "b.html").read_text()
    assert "No differences to pag are stored" in made
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["b.html"]


@pytest.mark.slow
@browser.needs_chromium
def test_the_table_of_many_metrics_is_not_clipped(tmp_path):
    run = folder(tmp_path / "run")
    known = [replace(one, recipe=name, metric=metric, against=against, value=value, low=value - 0.5123, high=value + 0.5123)
             for one in results()[:1] for name in NAMES for at, metric in enumerate(METRICS) for value in [at - 5.4321]
             for against in (None, "cfg")[:1 + (name != "cfg")]]
    (tmp_path / "report.html").write_text(page(keep(run, known)))
    with browser.page(tmp_path / "profile") as tab:
        tab.width(1400)
        tab.open((tmp_path / "report.html").as_uri())
        tab.until("document.documentElement.dataset.ready === 'yes'")
        assert tab.run("document.querySelectorAll('#metrics thead th').length") == 1 + len(METRICS) + 2
        table = "document.querySelector('#metrics').closest('.scroll')"
        assert tab.run(f"{table}.scrollWidth <= {table}.clientWidth")
        assert tab.run("document.documentElement.scrollWidth") <= 1400


@pytest.mark.slow
@browser.needs_chromium
def test_in_a_browser(run, tmp_path):
    (tmp_path / "report.html").write_text(page(run))
    with browser.page(tmp_path / "profile") as tab:
        tab.width(1280)
        tab.open((tmp_path / "report.html").as_uri())
        tab.until("document.documentElement.dataset.ready === 'yes'")
        assert tab.run("document.title").startswith("run ")
        column = "[...document.querySelectorAll('#metrics tbody th')].map(cell => cell.dataset.sort).join(' ')"
        click = "document.querySelectorAll('#metrics button')[{}].click()"
        tab.run(click.format(1))
        assert tab.run(column) == "emag pag cfg"
        tab.run(click.format(1))
        assert tab.run(column) == "cfg pag emag"
        assert tab.run("document.querySelectorAll('#metrics thead th')[1].getAttribute('aria-sort')") == "descending"
        shown = "[...document.querySelectorAll('#sheet tbody tr')].filter(row => row.offsetHeight)" \
                ".map(row => row.querySelector('b').textContent).join(' ')"
        assert tab.run(shown) == "0 1 2 3 4 5"
        for _ in range(4):
            tab.run("document.querySelector('#pager [data-by=\"1\"]').click()")
        assert tab.run(shown) == "12 13"
        assert tab.run("[...document.images].every(image => image.naturalWidth === 32 && image.alt.length > 10)")
        for width in (1280, 390):
            tab.width(width)
            assert tab.run("document.documentElement.scrollWidth") <= width
        tab.call("Emulation.setEmulatedMedia", media="print")
        assert tab.run(shown).split() == [str(number) for number in range(14)]
        assert not tab.problems
