"""The search itself: proposals, early stopping, and Ray, which runs the trials.

The only folder that imports Ray or Optuna. Nothing comes in here that prepares data or a teacher.
"""
