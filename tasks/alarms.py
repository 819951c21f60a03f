"""An alarm that people hear: an event in Prefect, a signed webhook, an e-mail.

Who is told is said in the environment (`db.settings.AlarmSettings`). What is secret of it may instead be in
Prefect's Secret blocks `temper-alarm-webhook`, `temper-alarm-secret` and `temper-alarm-smtp-password`.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from prefect import task
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.futures import PrefectFuture
from prefect.tasks import Task

from db.settings import alarm_settings
from tasks import mail, webhooks
from tasks.display import display

log = logging.getLogger(__name__)

PAUSES_SECONDS = (2, 15, 60, 300)
"""Before a message is sent again."""

SecretName = Literal["webhook", "secret", "smtp_password"]


class BadReceiver(ValueError):
    """An alarm could not reach somebody who is to be told; the message says what to set."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What people are told.

    Attributes:
        event: its kind, as temper.revalidation.alarm.
        subject: one line.
        text: for a person, in full.
        about: name to what is wrong with it; each becomes an event of its own.
        link: where to read more; empty where there is nothing.
    """

    event: str
    subject: str
    text: str
    about: Mapping[str, Sequence[str]]
    link: str = ""

    def body(self, at: datetime) -> bytes:
        """The message of a webhook, as JSON."""
        data = {"subject": self.subject, "text": self.text, "about": self.about, "link": self.link}
        content = {"type": self.event, "timestamp": at.isoformat(), "data": data}
        return json.dumps(content, ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True)
class Receivers:
    """Who is told beside Prefect: nobody, a webhook, people by mail, or both."""

    webhook: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    server: mail.MailServer | None = None
    sender: str = ""
    to: Sequence[str] = ()

    def __str__(self) -> str:
        webhook = [f"the webhook at {webhooks.host(self.webhook)}"] if self.webhook else []
        return ", ".join(["Prefect", *webhook, *self.to])


def receivers() -> Receivers:
    """Who is to be told, by the settings and Prefect's Secret blocks; to be called before long work.

    Raises BadReceiver where it could not work, naming the setting.
    """
    given = alarm_settings()
    webhook = secret_of("webhook")
    secret, server = "", None
    try:
        if webhook:
            webhooks.host(webhook)
            secret = secret_of("secret")
            webhooks.key(secret)
        if given.mail_to:
            server = mail.MailServer.parse(given.smtp, secret_of("smtp_password"))
    except (webhooks.BadWebhook, mail.BadMail) as error:
        raise BadReceiver(
            f"alarms would reach nobody: {error} (TEMPER_ALARM_…, see docs/nightly.md)"
        ) from None
    sender = given.mail_from or next(iter(given.mail_to), "")
    return Receivers(webhook=webhook, secret=secret, server=server, sender=sender, to=given.mail_to)


def secret_of(name: SecretName) -> str:
    """A secret from the environment, or else from the Secret block of its name; empty where there is none."""
    given: str = getattr(alarm_settings(), name).get_secret_value()
    if given:
        return given
    try:
        block = Secret.load(f"temper-alarm-{name}".replace("_", "-"))
    except ValueError:  # no such block
        return ""
    assert isinstance(block, Secret)
    return str(block.get())


def _again(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether a message that did not arrive is worth another try."""
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, webhooks.NotDelivered) and failure.again


@task(
    name="post the alarm",
    retries=len(PAUSES_SECONDS),
    retry_delay_seconds=list(PAUSES_SECONDS),
    retry_condition_fn=_again,
)
def post(told: Receivers, message_id: str, body: bytes) -> None:
    """Post an alarm to the webhook; raises NotDelivered after the last try."""
    webhooks.post(told.webhook, told.secret, message_id, body)


@task(
    name="mail the alarm",
    retries=len(PAUSES_SECONDS),
    retry_delay_seconds=list(PAUSES_SECONDS),
    retry_condition_fn=_again,
)
def send(server: mail.MailServer, told: Receivers, alarm: Alarm) -> None:
    """Mail an alarm; raises NotDelivered after the last try."""
    text = "\n\n".join(part for part in (alarm.text, alarm.link) if part)
    mail.send(server, told.sender, told.to, f"Temper: {alarm.subject}", text)


def tell(alarm: Alarm, told: Receivers) -> list[str]:
    """Tell Prefect and the receivers; who could not be told, after all tries.

    To be called in a flow. Never raises because of a receiver.
    """
    for name, findings in alarm.about.items():
        display(
            emit_event,
            alarm.event,
            resource={"prefect.resource.id": f"temper.alias.{name}", "prefect.resource.name": name},
            payload={"findings": list(findings), "subject": alarm.subject, "text": alarm.text},
        )
    sent: list[PrefectFuture[None]] = []
    if told.webhook:
        sent.append(post.submit(told, str(uuid4()), alarm.body(datetime.now(UTC))))
    if told.server is not None:
        sent.append(send.submit(told.server, told, alarm))
    outcomes = [future.result(raise_on_failure=False) for future in sent]
    failures = [str(outcome) for outcome in outcomes if isinstance(outcome, Exception)]
    for failure in failures:
        log.warning("the alarm was not delivered: %s", failure)
    return failures
