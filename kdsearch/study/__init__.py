"""One call each: search, confirm, verify, dry run. Each puts the other folders together in its order.

Nothing comes in here that decides by itself how a student is trained, proposed, judged or shown.
"""
