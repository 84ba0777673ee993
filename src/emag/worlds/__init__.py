"""Worlds whose truth is known: prompts, a renderer and a judge for each."""
