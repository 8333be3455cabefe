"""What a person types: options read, one function called, its result printed, errors as one message and an exit code.

Nothing comes in here that a notebook would miss.
"""
