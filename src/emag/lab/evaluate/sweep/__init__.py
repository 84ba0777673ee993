"""Sweeps over parameters of recipes."""
