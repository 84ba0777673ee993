"""The authors' code in plain form."""

import emag
from emag.schedules import Window
from reference import LAYERS, scheduler_steps
from reference_loops import BETA, CFG_SCALE, EMAG_SCALE, close
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
