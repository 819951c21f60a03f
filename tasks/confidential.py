"""Secrets in the environment, which are no business of what computes."""

import os
import re

# Temper, Prefect, PostgreSQL, S3 and trackers are given passwords, keys and tokens by such names.
_SECRET = re.compile(
    "PASSWORD|PASSFILE|SECRET|TOKEN|CREDENTIAL|AUTH_STRING|(ACCESS|API|ENCRYPTION)_KEY|(DATABASE|CONNECTION)_URL"
    "|TEMPER_ALARM|WEBHOOK",
    re.IGNORECASE,
)


def forget_secrets() -> None:
    """Remove secrets from the environment of this process, so that no program it starts can tell them.

    Logs of programs are kept for good, and some begin with the environment.
    """
    for name in [name for name in os.environ if _SECRET.search(name)]:
        del os.environ[name]
