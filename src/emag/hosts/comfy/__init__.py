"""ComfyUI: a model of its own under a guidance, through its hooks. Nothing of it is imported before a model is guided."""
