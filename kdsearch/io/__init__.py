"""Every write to a disk, and every word to the terminal: files, progress, text, checks.

Nothing comes in here that knows what a study, a teacher or a trial is.
"""
