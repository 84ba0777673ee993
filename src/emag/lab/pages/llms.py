"""What a language model should know of the library before it writes code with it: docs/llms.txt (llmstxt.org)."""

from .catalogue import KINDS, catalogue
from .methods import head
from .public import GROUPS, grouped, line_of

HEAD = """# emag

> Better images from pretrained diffusion and flow models at sampling time, without training: EMAG (arXiv 2512.17303) and the
> other training-free guidance methods of the field, on one engine, for diffusers pipelines and for own sampling loops.

```python
import emag

pipe = emag.load("tiny")  # or a folder or hub id of a supported pipeline, or a pipeline you loaded yourself
with emag.guide(pipe, emag.EMAG(1.5)) as run:  # the pipeline's own CFG still combines
    images = pipe("a photo of a frog", guidance_scale=2.5).images
print(run)  # evaluations of the network, picks, size of the effect
```

- A scale of 1 is off: `weak + w (cond - weak)`. Useful values of a weak branch beside CFG are 1.25 to 2.
- A guidance is an ordered list of rules. At most one of them combines (`CFG`, `APG`, ...); else the pipeline's CFG does.
- What cannot work is refused by one line, as `emag.BadValue` or `emag.Unsupported`; what had no effect is `emag.NoEffect`.
- Strengths are numbers or schedules: `emag.CFG(emag.Interval(4.0, low=0.2, high=0.8))`.
- In a shell: `emag generate "a ship" -g emag=1.5 -o out`, `emag compare "a ship" -c host -c emag=1.5`, `emag methods`.
"""

DOCS = {
    "quickstart.md": "five lines for SD3.5, Flux, Qwen-Image, Wan",
    "which-method.md": "from what is seen in images to a method, its cost and setting",
    "models.md": "five lines for each supported model, all pipelines and networks",
    "coverage.md": "which method acts on which network",
    "baking.md": "guidance in the weights of an adapter; objectives and residuals for trainers",
    "how-to/gpu.md": "devices, memory, what is measured",
    "how-to/offload.md": "weights that wait in the machine's memory",
    "how-to/quantised.md": "8-bit weights, 4 bits, GGUF",
    "how-to/loaded.md": "files, wrappers, offload, caches, backends, processes: what is exact, what refused",
    "how-to/lora.md": "adapters, also as guidance",
    "how-to/controlnet.md": "pipelines with a ControlNet",
    "how-to/video.md": "Wan, LTX, CogVideoX, HunyuanVideo, Mochi",
    "how-to/energy.md": "steer by a score: classifiers, distances, rewards; search",
    "how-to/evaluation.md": "does it help? five commands",
    "how-to/several-gpus.md": "many images at once, by Ray",
    "real-weights.md": "what to check first on a model with real weights; ten models",
    "troubleshooting.md": "error messages, what they mean, what to do",
    "adding-a-method.md": "a rule of one's own",
    "adding-a-model.md": "a network or pipeline of one's own",
    "architecture.md": "how it works inside",
}
"""The pages a reader of llms.txt is sent to. The generated ones are added."""


def text() -> str:
    """The page: what it is, an example, the rules of the house, every name, every page."""
    return "\n".join([HEAD, *_docs(), *_methods(), *_names()]).rstrip() + "\n"


def _docs() -> list[str]:
    pages = [f"- [{name}]({name}): {what}" for name, what in DOCS.items()]
    kinds = [f"- [methods/{kind}.md](methods/{kind}.md): {head(kind)[1]}" for kind in KINDS]
    return ["## Docs", "", *pages, *kinds, ""]


def _methods() -> list[str]:
    return ["## Methods", "", *(f"- `emag.{method['class']}` ({method['name']}; {method['paper']}): {method['summary']}"
                                for method in catalogue()), ""]


def _names() -> list[str]:
    lines = ["## Other public names", ""]
    for group, names in grouped().items():
        if group != "methods":
            lines += [f"- {GROUPS[group][0]}: " + ", ".join(f"`emag.{name}`" for name in names)]
    return [*lines, "", *(f"- `emag.{name}`: {line_of(name)}" for name in grouped()["guiding"])]
