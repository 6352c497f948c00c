"""The command line: what it takes, what each command does, and how a run ends."""
