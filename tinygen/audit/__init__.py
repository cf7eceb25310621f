"""Watching and checking the engine from outside: gradient checks, the cases of every operation, guards against NaN.
Attaches to the tape by its one hook, `tape.observe`."""
