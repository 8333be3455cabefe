"""The training loop that teachers and students share: batches, optimiser, schedule, and what is done to a model only while it trains.

Nothing comes in here that knows a strategy, a family or where a teacher's signals come from.
"""
