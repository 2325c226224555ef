"""``logiss completion``: prints what lets a shell complete what is typed."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from logiss.foreground import let_go

SHELLS = ("bash", "zsh", "tcsh")
#: What an argument is called that is a path.
FILES = ("FILE", "PEMFILE", "PATH")
FOLDERS = ("DIR", "DIRECTORY", "FOLDER")

_EPILOG = """\
To have it in each new shell, for bash:

  mkdir -p ~/.local/share/bash-completion/completions
  logiss completion bash > ~/.local/share/bash-completion/completions/logiss

for zsh, with 'fpath+=~/.zfunc' before 'compinit' in ~/.zshrc:

  mkdir -p ~/.zfunc
  logiss completion zsh > ~/.zfunc/_logiss

for tcsh, with 'source ~/.logiss.completion' in ~/.tcshrc:

  logiss completion tcsh > ~/.logiss.completion
"""


def add_to(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "completion",
        help="print what lets your shell complete commands, options and files",
        description="Prints a script for your shell. With it, TAB completes the"
        " commands of logiss, their options, and files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell: %(choices)s")
    parser.set_defaults(call=completion)


def completion(arguments: argparse.Namespace) -> int:
    text = script(arguments.command_line(), arguments.shell)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        let_go(sys.stdout)  # Who reads has read enough.
    except OSError as e:
        let_go(sys.stdout)
        print(f"logiss completion: cannot write: {e.strerror}", file=sys.stderr)
        return 1
    return 0


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What completes the command line of `parser` in `shell`."""
    import shtab

    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    text: str = shtab.complete(parser, shell)
    return text if text.endswith("\n") else f"{text}\n"


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
