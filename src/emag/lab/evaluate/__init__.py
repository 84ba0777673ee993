"""Evaluation: runs of many images, metrics, sweeps and reports."""
