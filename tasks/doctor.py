"""Whether Temper can work here: a look at everything that it needs, and what to do about what is wrong."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
from packaging.requirements import Requirement
from prefect.client.orchestration import get_client

from db import health
from db.settings import settings
from models import devices, diagnosis

DISK_GB, MEMORY_GB = 2.0, 2.0
"""What should be free (10⁹ bytes): for the files of some campaigns, and for one that computes."""
CLOCK_SECONDS = 30.0
"""How far clocks may be apart; leases run out after a minute."""


_Route = Literal["/health", "/admin/version", "/work_pools/filter", "/flow_runs/count"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a look found. `advice`: what to do; empty where all is well."""

    subject: str
    said: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return not self.advice


def examine(api: str | None) -> list[Finding]:
    """Look at everything; `api` is the address of the Prefect API, None where no server runs."""
    return [look(subject, api) for subject in LOOKS]


def look(subject: str, api: str | None) -> Finding:
    """Look at one of LOOKS. What goes wrong in a look is what it found, never an exception."""
    try:
        said, advice = LOOKS[subject](api)
    except Exception as error:  # of whatever library or service it looked at
        said, advice = "cannot be used", " ".join(str(error).split()) or type(error).__name__
    return Finding(subject=subject, said=said, advice=advice)


def _mace() -> tuple[str, str]:
    found = version("mace-torch")
    (wanted,) = (r for r in _required() if r.name == "mace-torch")
    advice = "" if found in wanted.specifier else f"Temper needs {wanted}: {_INSTALL}"
    return f"mace-torch {found}", advice


_INSTALL = "install again with: pip install -c requirements.lock -e ."


def _required() -> list[Requirement]:
    parsed = map(Requirement, requires("temper-mlip") or ())
    return [r for r in parsed if r.marker is None or r.marker.evaluate()]


def _packages() -> tuple[str, str]:
    """Whether the versions of all packages are those that Temper asks for."""
    wrong = []
    for needed in _required():
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            found = "missing"
        if found == "missing" or found not in needed.specifier:
            wrong.append(f"{needed.name} is {found}, and has to be {needed.specifier}")
    said = ", ".join(f"{name} {version(name)}" for name in ("temper-mlip", "torch", "prefect", "ase"))
    return said, f"{'; '.join(wrong)}: {_INSTALL}" if wrong else ""


def _gpu() -> tuple[str, str]:
    """Whether networks can compute where the settings say."""
    wanted, said = settings().device, diagnosis.accelerators()
    said = f"{said}; TEMPER_DEVICE={wanted}"
    try:
        devices.find(wanted)
    except devices.DeviceError as error:
        cure = "install NVIDIA's driver"
        if shutil.which("nvidia-smi"):
            cure = "install PyTorch for CUDA (pip's default on Linux), and a driver that is new enough for it"
        return said, f"{error}. To compute on a GPU {cure}; else leave TEMPER_DEVICE empty"
    return said, ""


def _numbers() -> tuple[str, str]:
    """Whether forces come out right in both floating-point types."""
    off = diagnosis.precision(settings().device)
    said = ", ".join(f"{dtype} within {found:.0e} eV/Å" for dtype, found in off.items())
    wrong = [dtype for dtype, found in off.items() if not found <= diagnosis.ENOUGH[dtype]]
    advice = f"{' and '.join(wrong)}: forces differ from the CPU's; switch off TF32 and other approximations"
    return said, advice if wrong else ""


def _memory() -> tuple[str, str]:
    free = psutil.virtual_memory().available / 1e9
    advice = f"a campaign needs about {MEMORY_GB:g} GB; end something else, or take a larger machine"
    return f"{free:.1f} GB free, {os.cpu_count()} cores", "" if free >= MEMORY_GB else advice


def _disk() -> tuple[str, str]:
    """The room where Temper writes: its home, a store that is a folder, and for temporary files."""
    store = settings().store_place
    places = {"TEMPER_HOME": settings().home, "TMPDIR": Path(tempfile.gettempdir())}
    if isinstance(store, Path):
        places["TEMPER_STORE"] = store
    free = {name: _free_gb(place) for name, place in places.items()}
    short = [name for name, gb in free.items() if gb < DISK_GB]
    said = ", ".join(f"{name} {gb:.1f} GB free" for name, gb in free.items())
    advice = (
        f"make room, `temper gc` removes what nothing refers to, or let {' and '.join(short)} be elsewhere"
    )
    return said, advice if short else ""


def _free_gb(place: Path) -> float:
    """Of the file system of a folder that may not be there yet."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free / 1e9


def _database() -> tuple[str, str]:
    place, _ = health.probe_database()
    return place, ""


def _store() -> tuple[str, str]:
    return f"{health.probe_store()} can be written, read and cleared", ""


def _clock(api: str | None) -> tuple[str, str]:
    """Whether this machine, the database and the Prefect server agree on the time."""
    ahead = {"the database": health.probe_database()[1]}
    if api is not None:
        with suppress(httpx.HTTPError):  # the look at Prefect says what is wrong there
            now = parsedate_to_datetime(_answer("GET", "/health").headers["Date"])
            ahead["the Prefect server"] = now - datetime.now(UTC)
    wrong = [
        f"{who} is {shift.total_seconds():+.0f} s ahead"
        for who, shift in ahead.items()
        if abs(shift.total_seconds()) > CLOCK_SECONDS
    ]
    advice = f"{'; '.join(wrong)}: let every machine follow a time server (timedatectl set-ntp true)"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, as {' and '.join(ahead)}", advice if wrong else ""


def _prefect(api: str | None) -> tuple[str, str]:
    """Whether the server answers, is of our version, and has workers for what is to be run."""
    if api is None:
        return "no server runs; `temper run` and `temper up` start one", ""
    try:
        theirs = _answer("GET", "/admin/version").json()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 401:
            return f"{api} asks for a password", "set PREFECT_API_AUTH_STRING to user:password"
        raise
    except httpx.HTTPError as error:
        return (
            f"{api} does not answer ({error})",
            "start it with `temper up`, or mend or unset PREFECT_API_URL",
        )
    if theirs != version("prefect"):
        both = f"{api} is of version {theirs}, this is {version('prefect')}"
        return both, "install the same version at both ends"
    pools = _answer("POST", "/work_pools/filter", json={}).json()
    late = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
    n_late = _answer("POST", "/flow_runs/count", json=late).json()
    shown = (
        ", ".join(f"{pool['name']} {pool['status'].lower().replace('_', ' ')}" for pool in pools) or "none"
    )
    idle = [pool["name"] for pool in pools if pool["status"] == "NOT_READY"]
    advice = f"no worker serves {' and '.join(idle)}: `temper up` starts one" if idle else ""
    return f"{theirs} at {api}; work pools: {shown}; {n_late} runs are late", advice


def _answer(method: Literal["GET", "POST"], path: _Route, **content: Any) -> httpx.Response:
    """What the Prefect API says, with the password and the certificates that Prefect is set to use."""
    with get_client(sync_client=True) as client:
        return client.request(method, path, **content)


LOOKS: Mapping[str, Callable[[str | None], tuple[str, str]]] = {
    "mace": lambda _: _mace(),
    "packages": lambda _: _packages(),
    "GPU": lambda _: _gpu(),
    "numbers": lambda _: _numbers(),
    "memory": lambda _: _memory(),
    "disk": lambda _: _disk(),
    "database": lambda _: _database(),
    "store": lambda _: _store(),
    "clock": _clock,
    "Prefect": _prefect,
}
"""What is looked at: each look says what it found, and what to do about it."""
