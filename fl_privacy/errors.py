"""What went wrong, in a form a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: one or two lines saying what was wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
