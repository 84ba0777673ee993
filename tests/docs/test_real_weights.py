"""docs/real-weights.md: ten models that families name, facts that their entries hold."""

import re
from pathlib import Path

from emag.families import DEFAULTS, EXAMPLES, HOSTS

PAGE = (Path(__file__).parents[2] / "docs" / "real-weights.md").read_text()
EXAMPLE = {one.name: one for one in EXAMPLES}


def test_ten_models_of_the_families():
    named = re.findall(r"^### (\S+)$", PAGE, re.M)
    assert len(named) == 10 and set(named) <= set(EXAMPLE)


def test_what_it_says_of_defaults_is_so():
    assert DEFAULTS["SD3Transformer2DModel"]["emag"].source.startswith("the authors'")
    assert "untested" in DEFAULTS["UNet2DConditionModel"]["emag"].source
    assert "Turbo" in EXAMPLE["Tongyi-MAI/Z-Image-Turbo"].title and "num_inference_steps=9" in EXAMPLE[
        "Tongyi-MAI/Z-Image-Turbo"].call
    assert HOSTS["QwenImagePipeline"].negative and HOSTS["WanPipeline"].second == "transformer_2"
