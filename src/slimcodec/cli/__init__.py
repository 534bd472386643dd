"""The command line: one file a verb.

A verb's file holds HELP, EXAMPLES, `add_arguments(verb)` and `run(options)`, which returns the exit code. It imports
libraries inside its functions, when they are needed: `slimcodec --help` imports none.
"""
