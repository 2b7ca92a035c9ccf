"""The one error of the stack: a sentence for the person who called it."""


class StackError(Exception):
    """Something that the person at the keyboard can act upon; its text says what, and the remedy."""
