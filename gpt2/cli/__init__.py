"""The command line: the parser, the commands, files and the terminal, and exit codes."""
