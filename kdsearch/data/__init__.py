"""Tables in; rows of text with labels, split into roles, and their tokens out.

Nothing comes in here that runs a model. The test rows leave only through splits.open_test.
"""
