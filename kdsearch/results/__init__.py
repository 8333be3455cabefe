"""What a study has found: its ledger, the front, choosing from it, and every file of its folder.

Nothing comes in here that trains, proposes or runs Ray, and nothing at import that needs torch: a front is read in a moment.
"""
