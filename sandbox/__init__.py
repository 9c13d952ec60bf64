"""A stand-in for Stripe: a small server that keeps its state in memory and its own time.

It imports nothing of drawdown and not Stripe's library, so that a mistake cannot be on both sides.
"""
