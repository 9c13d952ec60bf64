"""The edge: HTTP, usage intake, pricing."""
