"""The books: double-entry accounts, lots, holds, debts, and the decisions on them.

Nothing here knows HTTP, Stripe or a scheduler. `decide` and what it calls are pure.
"""
