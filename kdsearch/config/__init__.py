"""The study file in, a checked StudyConfig out.

Nothing comes in here that opens data, a teacher or a plugin: a study file can be read before any of them is there.
"""
