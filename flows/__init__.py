"""What a person starts, one file each."""

import logging

# Prefect hands on what these loggers say (PREFECT_LOGGING_EXTRA_LOGGERS), but leaves their level at WARNING.
for name in ("models", "tasks", "db"):
    logging.getLogger(name).setLevel(logging.INFO)
