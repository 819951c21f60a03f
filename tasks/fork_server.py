"""What the fork server imports first: it leaves the process group of the campaign.

Whoever stops a campaign may send SIGTERM to its whole group. A fork server that died of it could not say any
more how its children end, and they would be taken for dead while they save their state. It ends by itself
when the campaign has gone.
"""

import os

os.setpgrp()
