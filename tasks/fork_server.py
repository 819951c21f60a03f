"""What the fork server imports first: it leaves the process group of the campaign, and pauses for no garbage.

Whoever stops a campaign may send SIGTERM to its whole group. A fork server that died of it could not say any
more how its children end, and they would be taken for dead while they save their state. It ends by itself
when the campaign has gone.

What it imports is no garbage; to look for some meanwhile takes a fifth of the time. Its children look again,
but not among what they share with it.
"""

import gc
import os

gc.disable()

os.setpgrp()
