"""Guidance baked into an adapter: what a guided run shows, a LoRA that learns it, and how far it came."""
