"""What a study could try, and what each try would cost, before anything is trained: hyperparameters, specs, candidates, exact sizes.

Nothing comes in here that trains or proposes: who draws the values is handed in.
"""
