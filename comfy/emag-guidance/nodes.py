"""The nodes. Each only translates: its widgets into rules, a model into one that carries them."""

import json
from typing import Any, get_args

from comfy_api.latest import io

from emag.core import Rule
from emag.core.docs import fields_of, summary_of
from emag.errors import BadValue, EmagError
from emag.hosts.comfy.patch import carried, patched
from emag.hosts.comfy.picture import picture, pixels
from emag.methods import METHODS
from emag.methods.emag.averaging import Variant
from emag.records.graph import AUTO, NO_RECIPE, OTHER, rules_of_node
from emag.records.named import recipes
from emag.records.recipe import to_data

CATEGORY = "emag"
EMAG = METHODS["emag"]
TOLD = fields_of(EMAG)
LIMITS: dict[str, tuple[float, float]] = {"scale": (0.0, 10.0), "beta": (0.0, 1.0), "every": (1, 100)}
"""The least and the most of each number."""
LATER = {"rules": "emag", "recipe": "emag"}
"""What stands for a widget that comes from another node, until the graph runs; of the others, their defaults."""


def rules_of(kind: str, widgets: dict[str, Any]) -> tuple[Rule, ...]:
    """The rules that a node's widgets mean. Raises `EmagError`, also for a number outside its limits."""
    for name, (least, most) in LIMITS.items():
        value = widgets.get(name, least)
        if not isinstance(value, (int, float)):
            raise BadValue(f"{name} must be a number, got {value!r}")
        if not least <= value <= most:  # NaN lies nowhere
            raise BadValue(f"{name} must lie in [{least:g}, {most:g}], got {value:g}")
    return rules_of_node(kind, widgets)


def refusal(kind: str, **widgets: Any) -> bool | str:
    """True where a node's widgets mean rules, else what is wrong, in words. None: it comes from another node."""
    known = {name: LATER.get(name) if value is None else value for name, value in widgets.items()}
    try:
        rules_of(kind, {name: value for name, value in known.items() if value is not None})
    except EmagError as error:
        return str(error)
    return True


def number(name: str) -> dict[str, Any]:
    """What the widget of a number is told: its limits, and what the rule says of it."""
    least, most = LIMITS[name]
    return {"min": least, "max": most, "tooltip": TOLD[name]}


class EmagEMAG(io.ComfyNode):
    """One rule, EMAG, with its parameters as widgets."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmagEMAG", display_name="EMAG guidance", category=CATEGORY, description=summary_of(EMAG),
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("scale", default=1.5, step=0.05, **number("scale")),
                io.Combo.Input("variant", options=list(get_args(Variant)), default="query", tooltip=TOLD["variant"]),
                io.String.Input("blocks", default=AUTO,
                                tooltip=f"{TOLD['layers']} As 6-8 or 6, 7, 8; auto takes the model's."),
                io.String.Input("window", default=AUTO, tooltip=f"{TOLD['window']} As progress:0:0.2:0.8 (averaging begins, "
                                "how much later it applies, both end); auto takes the model's."),
                io.Float.Input("beta", default=0.988, step=0.001, round=False, **number("beta")),
                io.Int.Input("every", default=1, **number("every")),
            ],
            outputs=[io.Model.Output()])

    @classmethod
    def validate_inputs(cls, scale: float | None = None, beta: float | None = None, blocks: str | None = None,
                        window: str | None = None) -> bool | str:
        """A number is named here although it has limits: ComfyUI's own check lets NaN pass."""
        return refusal("EmagEMAG", scale=scale, beta=beta, blocks=blocks, window=window)

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        return io.NodeOutput(patched(model, rules_of("EmagEMAG", widgets)))


class EmagGuidance(io.ComfyNode):
    """Any rules, in order, as text or by the name of a recipe."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        methods = "\n".join(f"{name}: {summary_of(kind)}" for name, kind in METHODS.items())
        return io.Schema(
            node_id="EmagGuidance", display_name="Guidance (any rules)", category=CATEGORY,
            description="Any rules of emag, in order. Those that combine (cfg, apg) take the place of the sampler's cfg.",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("rules", default="emag=1.5", multiline=True, tooltip="Rules in order, e.g. emag=1.5 "
                                "seg=1.2,layers=8 apg=4; or a recipe as JSON. A rule's first value is its scale, 1 is off.\n"
                                + methods),
                io.Combo.Input("recipe", options=[NO_RECIPE, *recipes], default=NO_RECIPE,
                               tooltip="A combination by name; its rules come before those of the text."),
                io.Conditioning.Input(OTHER, optional=True,
                                      tooltip=f"A further condition, {OTHER} in rules: negative=1.5,negative={OTHER}."),
            ],
            outputs=[io.Model.Output()])

    @classmethod
    def validate_inputs(cls, rules: str | None = None, recipe: str | None = None) -> bool | str:
        return refusal("EmagGuidance", rules=rules, recipe=recipe)

    @classmethod
    def execute(cls, model: Any, rules: str, recipe: str, other: Any = None) -> io.NodeOutput:
        conditions = {} if other is None else {OTHER: other}
        return io.NodeOutput(patched(model, rules_of("EmagGuidance", {"rules": rules, "recipe": recipe}), conditions))


class EmagReport(io.ComfyNode):
    """What the latest run of a guided model did."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EmagReport", display_name="Guidance report", category=CATEGORY, is_output_node=True,
            description="What a guided model's sampling did: its price, its picks, the size of its effect, and the picture "
                        "it was pushed away from.",
            inputs=[io.Model.Input("model", tooltip="The guided model, as it went into the sampler."),
                    io.Latent.Input("latent", tooltip="The sampler's latents: the report comes after them.")],
            outputs=[io.String.Output("report"), io.Image.Output("picks"), io.Latent.Output("weak"),
                     io.Latent.Output("clean")])

    @classmethod
    def execute(cls, model: Any, latent: Any) -> io.NodeOutput:
        found = carried(model)
        report = found.latest.of(latent["samples"]) if found else None
        if report is None:
            raise ValueError("no report: connect the model that a node of ours guided, and the latents of its sampler; "
                             "where all rules are off (scale 1) there is nothing to report")
        if report.weak is None or report.clean is None:
            weak = clean = latent
        else:
            weak, clean = {"samples": report.weak}, {"samples": report.clean}
        return io.NodeOutput(str(report), pixels(picture(report)), weak, clean, ui={"text": [str(report)]})


class EmagRecipe(io.ComfyNode):
    """The rules of a guided model as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="EmagRecipe", display_name="Guidance recipe", category=CATEGORY,
                         description="The rules that a model carries, as a JSON recipe: the Guidance node reads it.",
                         inputs=[io.Model.Input("model")], outputs=[io.String.Output("recipe")])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        found = carried(model)
        return io.NodeOutput(json.dumps({"rules": to_data(found.rules if found else ())}, indent=1))


NODES = [EmagEMAG, EmagGuidance, EmagReport, EmagRecipe]
