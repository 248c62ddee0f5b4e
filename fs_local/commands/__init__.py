"""The commands of the command line, one file each: what a command takes, and which part of the library does it."""
