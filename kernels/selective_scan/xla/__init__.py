"""The scan in plain XLA, for every platform; chunked.py has the implementations."""
