"""One small room for each subcommand; nobody imports them but ``__main__``."""
