"""E-mail through a group's own mail server."""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from tasks.webhooks import NotDelivered

TIMEOUT_SECONDS = 30.0


class BadMail(ValueError):
    """A mail server or an address that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class MailServer:
    """Where mail is handed in. With `tls` from the first byte; without, as soon as the server offers it."""

    host: str
    port: int
    tls: bool
    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, password: str) -> "MailServer":
        """A server such as `smtp://mail.example.org`, `smtps://ada@mail.example.org:465`. Raises BadMail."""
        try:
            parts = urlsplit(url)
            port, name = parts.port, parts.hostname
        except ValueError:
            port, name, parts = None, None, urlsplit("")
        if parts.scheme not in ("smtp", "smtps") or not name or parts.path.strip("/"):
            raise BadMail(
                "the mail server is none; give one such as smtp://mail.example.org or smtps://ada@mail.example.org"
            )
        if parts.password is not None:
            raise BadMail("the mail server's address holds a password; give it as TEMPER_ALARM_SMTP_PASSWORD")
        tls = parts.scheme == "smtps"
        user = unquote(parts.username or "")
        if user and not password:
            raise BadMail(f"there is no password for {user} at the mail server {name}")
        usual = 465 if tls else 587 if user else 25
        return cls(host=name, port=port or usual, tls=tls, user=user, password=password)


def send(server: MailServer, sender: str, to: Sequence[str], subject: str, text: str) -> None:
    """Send a mail in plain text. Certificates are checked, and no password is sent without encryption.

    Raises NotDelivered where the server cannot be reached, or does not take the mail for everybody.
    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, ", ".join(to), subject
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=server.host)
    message.set_content(text)
    try:
        with _connected(server) as connection:
            refused = connection.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        refused = error.recipients
    except smtplib.SMTPResponseException as error:
        again = 400 <= error.smtp_code < 500
        raise NotDelivered(f"the mail server {server.host} answered {error.smtp_code}", again=again) from None
    except (OSError, smtplib.SMTPException) as error:
        again = not isinstance(error, ssl.SSLCertVerificationError | smtplib.SMTPNotSupportedError)
        raise NotDelivered(
            f"the mail server {server.host} cannot be used ({type(error).__name__}: {error})", again=again
        ) from None
    if refused:
        again = all(400 <= code < 500 for code, _ in refused.values())
        raise NotDelivered(f"the mail server {server.host} refuses {', '.join(sorted(refused))}", again=again)


def _connected(server: MailServer) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if server.tls:
        connection: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, timeout=TIMEOUT_SECONDS, context=context
        )
    else:
        connection = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.ehlo()
        if not server.tls and connection.has_extn("starttls"):
            connection.starttls(context=context)
            connection.ehlo()
        elif not server.tls and server.user:
            raise smtplib.SMTPNotSupportedError("it offers no encryption, without which no password is sent")
        if server.user:
            connection.login(server.user, server.password)
    except BaseException:
        connection.close()
        raise
    return connection
