"""slimcodec completion: what a shell needs to complete this command line."""

import argparse
from typing import Any

from slimcodec.cli.options import add_verb
from slimcodec.cli.streams import write

SHELLS = "bash", "zsh", "fish"
EXAMPLES = """examples:
  slimcodec completion bash > ~/.local/share/bash-completion/completions/slimcodec
  slimcodec completion zsh > ~/.zfunc/_slimcodec
  slimcodec completion fish > ~/.config/fish/completions/slimcodec.fish"""


def add(verbs: Any) -> None:
    help = "a script that makes a shell complete verbs, options and files"
    verb = add_verb(verbs, "completion", run, help=help, examples=EXAMPLES, prints=True)
    verb.add_argument("shell", choices=SHELLS, help="the shell to complete in")


def run(options: argparse.Namespace) -> int:
    import shtab

    from slimcodec.cli import build_parsers

    parser, verbs = build_parsers()
    for action in (action for verb in verbs.values() for action in verb._actions):
        if action.metavar in FILES:
            action.complete = shtab.FILE
    write(shtab.complete(parser, options.shell))
    return 0


# The words that stand for files and folders.
FILES = "IN", "OUT", "FILE_OR_MODEL", "NAME", "DATA", "DIR", "DIRECTORY", "FOLDER", "PHOTOS"
