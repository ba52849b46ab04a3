"""The command ``mtp``, its subcommands, and code that the scripts in ``tools`` share."""
