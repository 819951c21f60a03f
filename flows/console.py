"""The two streams that the command writes to."""

import sys

from rich.console import Console

WIDE = 120  # columns

# A file or a pipe has no width of its own. What people call `:salt:` is a name, not a picture.
out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(highlight=False, emoji=False, soft_wrap=True, stderr=True)
