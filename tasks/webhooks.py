"""Webhooks that their receiver can tell from forgeries: signed as the Standard Webhooks specification says.

The signature is HMAC-SHA256 over id, time and body (https://www.standardwebhooks.com). Libraries in most
languages check it; `docs/nightly.md` has the check in a few lines of Python.
"""

import base64
import binascii
import hashlib
import hmac
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from urllib.parse import urlsplit

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)
TIMEOUT_SECONDS = 20.0
TEMPORARY = (408, 425, 429)


class BadWebhook(ValueError):
    """An address or a secret that cannot be used; the message never contains either."""


class NotDelivered(RuntimeError):
    """A message that did not arrive; `again` says whether it may, if it is sent once more."""

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message, again)
        self.again = again

    def __str__(self) -> str:
        return str(self.args[0])


def host(url: str) -> str:
    """Where a webhook goes, without what may be secret in its address.

    Raises BadWebhook where it is no address of a webhook.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        usable = False
    if not usable:
        raise BadWebhook("the address of the webhook is none; give one such as https://example.org/temper")
    return str(parts.hostname)


def key(secret: str) -> bytes:
    """The key in a secret such as `whsec_…`: base64 of 24 to 64 random bytes. Raises BadWebhook."""
    try:
        decoded = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        decoded = b""
    if not secret.startswith(PREFIX) or len(decoded) not in KEY_BYTES:
        raise BadWebhook(
            "the webhook's secret has to be 'whsec_' and 24 to 64 random bytes in base64; make one with: "
            "echo whsec_$(openssl rand -base64 32)"
        )
    return decoded


def signed(secret: str, message_id: str, body: bytes, at: int) -> Mapping[str, str]:
    """The headers that go with a body sent `at` a time (s since 1970)."""
    content = f"{message_id}.{at}.".encode() + body
    digest = hmac.new(key(secret), content, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def post(url: str, secret: str, message_id: str, body: bytes) -> None:
    """Send a signed body once; redirects are not followed.

    Raises NotDelivered where nobody answers within 20 s, or with anything but success. A message that is
    sent again keeps its id, by which a receiver knows it; its time and signature are new.
    """
    name = host(url)
    request = urllib.request.Request(url, body, dict(signed(secret, message_id, body, int(time.time()))))
    try:
        _open(request, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError as error:
        again = error.code >= 500 or error.code in TEMPORARY
        error.close()
        raise NotDelivered(f"the webhook at {name} answered {error.code}", again=again) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NotDelivered(f"the webhook at {name} cannot be reached ({reason})", again=True) from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """What is signed for one receiver is not carried to another: a redirect is an error."""

    def redirect_request(self, *_: object) -> None:
        """No request follows."""


_open = urllib.request.build_opener(_Stay).open
