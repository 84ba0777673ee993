"""What emag needs beyond its own dependencies, and the extra that installs it."""

from importlib.util import find_spec

from ..errors import BadValue

EVAL = ("scipy", "matplotlib", "pyarrow", "fsspec", "yaml", "jinja2")
EXTRAS: dict[str, tuple[str, ...]] = {
    "eval": EVAL, "sweep": (*EVAL, "optuna"), "ray": (*EVAL, "ray"), "lora": ("peft",), "plot": ("matplotlib",),
    "train": ("pyarrow", "peft"), "scores": (*EVAL, "torch_fidelity", "open_clip"),
    "quant": ("torchao", "bitsandbytes"), "gguf": ("gguf",),
    "web": (*EVAL, "gradio"),
}
"""Modules that each extra of pyproject.toml brings."""


def require(*extras: str) -> None:
    """Raise `BadValue` where a module of these extras is not installed."""
    for extra in extras:
        missing = next((name for name in EXTRAS[extra] if find_spec(name) is None), None)
        if missing:
            raise BadValue(absent(missing, extra))


def absent(module: str, extra: str | None = None) -> str:
    """What to say of a module that is not installed."""
    module = module.partition(".")[0]
    extra = extra or next((name for name, modules in EXTRAS.items() if module in modules), None)
    return f"{module} is not installed: pip install {f'emag[{extra}]' if extra else module}"
