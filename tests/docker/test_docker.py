"""The image and the compose file: linted where the tools are installed, and held to what docs promise."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings as PrefectSettings
from typer.main import get_command

from db.settings import Settings
from flows.cli import app

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("temper:")]
DOCKERFILE = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
SECRET = re.compile("PASSWORD|AUTH|SECRET|TOKEN|_KEY")


def tool(name: str) -> str:
    """The program, from this environment or from the machine."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def said(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and said(*command, "version").returncode == 0:
            return command
    pytest.skip("no Docker Compose is installed")


def filled(folder: Path) -> Path:
    """The example of settings, with something in every field that has to be filled in."""
    text = (DOCKER / "env.example").read_text()
    path = folder / "filled.env"
    path.write_text(re.sub(r"(?m)^(PG_PASSWORD|PREFECT_\w+)=$", r"\1=given", text))
    return path


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = said(tool("hadolint"), str(DOCKER / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    scripts = [str(path) for path in DOCKER.glob("*.sh")]
    done = said(tool("shellcheck"), *scripts)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_takes_the_file_once_the_secrets_are_given(tmp_path: Path) -> None:
    def config(env_file: Path) -> subprocess.CompletedProcess[str]:
        files = ("--env-file", str(env_file), "-f", str(DOCKER / "compose.yaml"))
        return said(*compose(), *files, "config")

    done = config(filled(tmp_path))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] == "given"
    refused = config(DOCKER / "env.example")
    assert refused.returncode != 0
    assert "give it in docker/.env" in refused.stderr


def test_nothing_of_the_image_runs_as_root() -> None:
    *_, user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "10001:10001"
    assert SERVICES["backup"]["user"] == user  # it writes into Temper's volume
    for name in OURS:
        assert "user" not in SERVICES[name]
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in SERVICES[name]["security_opt"]


def test_every_package_comes_from_the_lock() -> None:
    installs = re.findall(r"^RUN .*pip install .*$", DOCKERFILE, re.MULTILINE)
    assert len(installs) == 3
    assert all("--constraint requirements.lock" in line for line in installs)
    assert installs[-1].endswith("&& pip check")


def test_only_what_the_image_is_made_of_goes_to_the_engine() -> None:
    """Each source of a COPY is let through; .git, homes, `.env` and whatever else lies about is not."""
    first, *rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert first == "*"
    assert set(copied) == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_every_port_is_of_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:4200:4200"]


def test_no_secret_has_a_value_or_stands_in_an_address() -> None:
    found = 0
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), name
            if SECRET.search(name):
                found += 1
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), name
    assert found > 8
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / "env.example").read_text(), re.MULTILINE))
    assert all(value == "" for name, value in example.items() if SECRET.search(name))
    asked = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text())) - {"BACKUP_STORE"}
    assert asked == set(example) - {"COMPOSE_PROJECT_NAME"}


def test_every_setting_is_one_that_somebody_reads() -> None:
    prefect = {f"PREFECT_{path.upper()}" for path in _paths(PrefectSettings)} | {
        "PREFECT_SERVER_ENCRYPTION_KEY"
    }
    temper = {f"TEMPER_{name.upper()}" for name in Settings.model_fields}
    given = set(re.findall(r"\b((?:PREFECT|TEMPER)_\w+)[=:]", DOCKERFILE))
    given |= {name for service in SERVICES.values() for name in service.get("environment", {})}
    read = {name for name in given if name.startswith(("PREFECT_", "TEMPER_"))}
    assert len(read) > 12
    # Two that have an older, shorter name, too.
    assert read - prefect - temper == {"PREFECT_LOGGING_EXTRA_LOGGERS"} - prefect
    assert SERVICES["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH")


def _paths(settings: Any, prefix: str = "") -> list[str]:
    """The names of all settings of Prefect, sections and fields joined by underscores."""
    paths = []
    for name, field in settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            paths += _paths(inner, f"{prefix}{name}_")
        paths.append(f"{prefix}{name}")
    return paths


def test_what_stays_up_is_watched() -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert "HEALTH_URL" in check
    for name, service in SERVICES.items():
        if service.get("restart") == "no" or name == "backup":
            continue
        assert "healthcheck" in service or service["image"].startswith("temper:"), name
        assert service["restart"] == "unless-stopped"
    for name in ("worker", "worker-gpu"):
        assert "--with-healthcheck" in SERVICES[name]["command"]
        assert SERVICES[name]["environment"]["HEALTH_URL"] == "http://127.0.0.1:8080/health"
        assert SERVICES[name]["stop_grace_period"] == "2m"
    assert all(
        wait["condition"] == "service_healthy"
        for service in SERVICES.values()
        for wait in service.get("depends_on", {}).values()
    )


def test_the_commands_of_temper_are_there() -> None:
    command = SERVICES["deploy"]["command"]
    assert command[0] == "temper"
    parameters = get_command(app).commands[command[1]].params  # type: ignore[attr-defined]
    assert command[2] in [option for parameter in parameters for option in parameter.opts]
