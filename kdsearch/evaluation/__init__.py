"""How good predictions are and how sure that is: intervals, ties, recovered gap, and where a student differs from its teacher.

Predictions and labels come in as arrays. Nothing comes in here that trains, loads a model or opens a file.
"""
