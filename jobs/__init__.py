"""Time and the outside: scheduled work, and calls to Stripe."""
