"""Measurements of drawdown: ratios in one run, on one machine. See README.md."""
