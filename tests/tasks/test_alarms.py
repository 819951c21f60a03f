"""Alarms that leave the house: to a real HTTP server that checks signatures, and to a real mail server."""

import json
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from db.settings import alarm_settings
from tasks import alarms, mail, webhooks
from tasks.webhooks import NotDelivered
from waiting import until

SECRET = "whsec_" + "c2l4IHRpbWVzIGZvdXIgaXMgMjQgYnl0ZXM="
DOCUMENT = Path(__file__).parents[2] / "docs" / "nightly.md"


@pytest.fixture(scope="module")
def genuine() -> Callable[..., bool]:
    """The check of a receiver, as it stands in the documentation."""
    (code,) = re.findall("```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    check: Callable[..., bool] = names["genuine"]
    return check


def test_what_is_posted_passes_the_receivers_check_and_nothing_else_does(
    receiver: Any, genuine: Callable[..., bool]
) -> None:
    webhooks.post(receiver.url, SECRET, "msg-1", "µ".encode())
    ((headers, body),) = receiver.got
    assert body == "µ".encode()
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "msg-1"
    assert genuine(SECRET, headers, body)
    assert not genuine(SECRET, headers, body + b" ")
    assert not genuine(SECRET.replace("c2l4", "d2l4"), headers, body)
    assert not genuine(SECRET, {**headers, "webhook-id": "msg-2"}, body)
    assert not genuine(SECRET, {**headers, "webhook-timestamp": str(int(time.time()) - 1)}, body)
    old = webhooks.signed(SECRET, "msg-1", body, int(time.time()) - 3600)
    assert not genuine(SECRET, old, body), "a message may not be sent again later"


def test_the_signature_is_that_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "KEY_BYTES", range(18, 65))  # the published example has a short key
    signed = webhooks.signed(
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        b'{"event_type":"ping","data":{"success":true}}',
        1731705121,
    )
    assert signed["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@pytest.mark.parametrize(
    ("answer", "again"), [(500, True), (503, True), (429, True), (404, False), (302, False)]
)
def test_a_webhook_that_does_not_take_it_says_whether_to_try_again(
    answer: int, again: bool, receiver: Any
) -> None:
    receiver.answers = [answer]
    with pytest.raises(NotDelivered, match=f"^the webhook at 127.0.0.1 answered {answer}$") as failure:
        webhooks.post(receiver.url, SECRET, "msg-1", b"{}")
    assert failure.value.again is again
    assert len(receiver.got) == 1, "a redirect is not followed"


def test_a_webhook_that_is_not_there_is_tried_again_and_its_address_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotDelivered, match="cannot be reached") as failure:
        webhooks.post(f"http://127.0.0.1:{port}/s3cret-path", SECRET, "msg-1", b"{}")
    assert failure.value.again
    assert "s3cret" not in f"{failure.value!r} {failure.value.__cause__!r}"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WEBHOOK": "hooks.example.org/s3cret"}, "the address of the webhook is none"),
        (
            {"WEBHOOK": "https://example.org:port/s3cret", "SECRET": SECRET},
            "the address of the webhook is none",
        ),
        ({"WEBHOOK": "https://example.org", "SECRET": "s3cret"}, "24 to 64 random bytes in base64"),
        ({"WEBHOOK": "https://example.org", "SECRET": "whsec_c2hvcnQ="}, "24 to 64 random bytes in base64"),
        ({"MAIL_TO": "ada@example.org"}, "the mail server is none"),
        ({"MAIL_TO": "ada@example.org", "SMTP": "http://example.org"}, "the mail server is none"),
        ({"MAIL_TO": "ada@example.org", "SMTP": "smtp://ada:s3cret@example.org"}, "holds a password"),
    ],
)
def test_what_could_not_work_is_said_before_the_night_begins(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "secret_of", lambda name: getattr(alarm_settings(), name).get_secret_value())
    for name, value in settings.items():
        monkeypatch.setenv(f"TEMPER_ALARM_{name}", value)
    with pytest.raises(alarms.BadReceiver, match=said) as failure:
        alarms.receivers()
    assert "s3cret" not in str(failure.value)


class Box:
    """The mail that a server has taken; it knows nobody called nobody."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_RCPT(self, _: Any, __: Any, envelope: Any, address: str, ___: Any) -> str:
        if address.startswith("nobody@"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: Any, session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append((session.ssl is not None, envelope.rcpt_tos, message))
        return "250 OK"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of this machine, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    crt, key = folder / "crt.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(crt)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return crt, key


class MailHost(Controller):
    """A server on a port of its own, with encryption and one user where it has a certificate."""

    def __init__(self, box: Box, certificate: tuple[Path, Path] | None) -> None:
        self.context = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*certificate)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        super().__init__(box, hostname="localhost", port=port, ready_timeout=60)

    def factory(self) -> SMTP:
        """A connection's side of the server."""
        if self.context is None:
            return SMTP(self.handler)

        def known(_: Any, __: Any, ___: Any, ____: str, given: Any) -> AuthResult:
            right = (given.login, given.password) == (b"ada@lab", b"s3cret")
            return AuthResult(success=right, handled=False)

        return SMTP(self.handler, tls_context=self.context, auth_required=True, authenticator=known)


def test_a_mail_arrives_as_it_was_written() -> None:
    box = Box()
    host = MailHost(box, None)
    host.start()
    try:
        server = mail.MailServer.parse(f"smtp://localhost:{host.port}", "")
        mail.send(server, "temper@lab", ["ada@lab", "bob@lab"], "Temper: alarm", "force MAE, meV/Å: 2 → 3\n")
        with pytest.raises(NotDelivered, match=r"refuses nobody@lab$") as failure:
            mail.send(server, "temper@lab", ["ada@lab", "nobody@lab"], "Temper: alarm", "again")
        assert not failure.value.again
        with pytest.raises(NotDelivered, match=r"refuses nobody@lab$"):
            mail.send(server, "temper@lab", ["nobody@lab"], "Temper: alarm", "again")
        secretive = mail.MailServer.parse(f"smtp://ada@localhost:{host.port}", "s3cret")
        with pytest.raises(NotDelivered, match="without which no password is sent") as failure:
            mail.send(secretive, "temper@lab", ["ada@lab"], "Temper: alarm", "again")
        assert not failure.value.again
    finally:
        host.stop()
    (encrypted, to, message), (_, only, _) = box.mails
    assert (encrypted, to, only) == (False, ["ada@lab", "bob@lab"], ["ada@lab"])
    assert message["subject"] == "Temper: alarm"
    assert message.get_content().strip() == "force MAE, meV/Å: 2 → 3"
    with pytest.raises(NotDelivered, match="cannot be used") as failure:
        mail.send(server, "temper@lab", ["ada@lab"], "Temper: alarm", "nobody is there any more")
    assert failure.value.again


def test_a_password_is_sent_encrypted_to_who_can_prove_to_be_the_server(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box()
    host = MailHost(box, certificate)
    host.start()
    try:
        server = mail.MailServer.parse(f"smtp://ada%40lab@localhost:{host.port}", "s3cret")
        assert "s3cret" not in repr(server)
        with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED") as failure:
            mail.send(server, "temper@lab", ["ada@lab"], "Temper: alarm", "text")
        assert not failure.value.again
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        mail.send(server, "temper@lab", ["ada@lab"], "Temper: alarm", "text")
        wrong = mail.MailServer.parse(f"smtp://ada%40lab@localhost:{host.port}", "wrong")
        with pytest.raises(NotDelivered, match="answered 535") as failure:
            mail.send(wrong, "temper@lab", ["ada@lab"], "Temper: alarm", "text")
        assert not failure.value.again
    finally:
        host.stop()
    ((encrypted, to, _),) = box.mails
    assert (encrypted, to) == (True, ["ada@lab"])


def test_the_body_of_a_message_says_what_is_wrong_with_what() -> None:
    alarm = alarms.Alarm(event="temper.x", subject="alarm", text="a: b", about={"nacl@engine": ["b"]})
    body = json.loads(alarm.body(datetime(2026, 1, 2, tzinfo=UTC)))
    assert body == {
        "type": "temper.x",
        "timestamp": "2026-01-02T00:00:00+00:00",
        "data": {"subject": "alarm", "text": "a: b", "about": {"nacl@engine": ["b"]}, "link": ""},
    }


NIGHT = """
from prefect import flow
from prefect.blocks.system import Secret
from prefect.task_runners import ThreadPoolTaskRunner
from tasks import alarms

Secret(value=SECRET).save("temper-alarm-secret", overwrite=True)

@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def night():
    alarm = alarms.Alarm(event="temper.test.alarm", subject="alarm of the night", text="a@b: broken",
                         about={"a@b": ["broken"]}, link="http://here")
    return alarms.tell(alarm, alarms.receivers())

try:
    print("not told:", night())
finally:
    Secret.delete("temper-alarm-secret")  # other tests share the server
"""


@pytest.mark.flow
def test_an_alarm_reaches_prefect_a_webhook_that_was_away_and_people(
    receiver: Any, genuine: Callable[..., bool], prefect_server: Any
) -> None:
    receiver.answers = [503, 200]
    box = Box()
    host = MailHost(box, None)
    host.start()
    env = {
        **prefect_server.env,
        "PREFECT_API_URL": prefect_server.url,
        "TEMPER_ALARM_WEBHOOK": receiver.url,
        "TEMPER_ALARM_MAIL_TO": "ada@lab, nobody@lab",
        "TEMPER_ALARM_MAIL_FROM": "temper@lab",
        "TEMPER_ALARM_SMTP": f"smtp://localhost:{host.port}",
    }
    try:
        night = subprocess.run(
            [sys.executable, "-c", NIGHT.replace("SECRET)", f"{SECRET!r})")],
            env=env, cwd=DOCUMENT.parents[1], capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        host.stop()
    said = night.stdout + night.stderr
    assert "not told: ['the mail server localhost refuses nobody@lab']" in night.stdout, said
    assert SECRET not in said
    assert "s3cret-path" not in said
    (away, _), (headers, body) = receiver.got
    assert away["webhook-id"] == headers["webhook-id"]
    assert genuine(SECRET, headers, body)
    assert json.loads(body)["data"]["about"] == {"a@b": ["broken"]}
    ((_, to, message),) = box.mails
    assert to == ["ada@lab"]
    assert message["subject"] == "Temper: alarm of the night"
    assert message.get_content().split() == ["a@b:", "broken", "http://here"]
    query = {"filter": {"event": {"name": ["temper.test.alarm"]}}}
    events = until(lambda: prefect_server.post("/events/filter", query)["events"], "no event arrives")
    assert events[0]["resource"]["prefect.resource.name"] == "a@b"
    assert events[0]["payload"]["findings"] == ["broken"]
