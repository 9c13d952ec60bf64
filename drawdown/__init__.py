"""The command: settings, the embedded database, and how the other packages are put together."""
