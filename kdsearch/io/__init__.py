"""What is written with care (atomic, fsynced, locked), progress, numbers in words, the outcome of a check.

Nothing comes in here that knows what a study, a teacher or a trial is.
"""
