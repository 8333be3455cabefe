"""Teachers: loaded or fine-tuned, judged by the gate, run once over every text, their signals cached by content.

Nothing comes in here that knows a student, a strategy or a trial.
"""
