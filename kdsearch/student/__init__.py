"""One trial, from a spec and the assets to a trained student, and a student as a folder.

Nothing comes in here that knows Ray, Optuna or a study's folder: a test, a notebook and a worker call the same function.
"""
