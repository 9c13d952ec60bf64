"""The commands, one module per noun. Each is listed in `drawdown.cli.COMMANDS`.

A module here reads arguments, calls the package that does the work, and prints. Errors for people
are `click.ClickException`: one line on stderr, exit code 1.
"""
