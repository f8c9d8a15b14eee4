"""``python -m fl_privacy``: the same as the ``fl-privacy`` command."""

from fl_privacy.cli import main

main()
