"""A chosen student made into a folder that serves, and the proof that it does.

`pick.pick` does it all: choose, export, check, measure, write. Nothing comes in here that trains or searches.
"""
