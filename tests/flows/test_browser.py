"""What a person sees and does in a real browser: forms, progress, cancelling, deciding, the report."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
FRUGAL = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"]  # else drawing takes a core
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 120_000  # ms that a page may take on a busy machine
INTERFACES = {"V1": "", "V2": "/v2"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FRUGAL)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page."""
    opened = browser.new_page(viewport={"width": 1300, "height": 1500})
    opened.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield opened
    opened.close()


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_form_is_the_same_in_both_interfaces(interface: str, deployed: Any, page: Page) -> None:
    query = {"flows": {"name": {"any_": ["finetune"]}}, "deployments": {"name": {"any_": ["nacl"]}}}
    (deployment,) = deployed.post("/deployments/filter", query)
    base = deployed.url.removesuffix("/api") + INTERFACES[interface]
    page.goto(f"{base}/deployments/deployment/{deployment['id']}/run", wait_until="commit")
    expect(page.get_by_role("button", name="Submit")).to_be_visible()
    for field in deployment["parameter_openapi_schema"]["properties"].values():
        expect(page.get_by_text(f"{field['title']} (Optional)", exact=True)).to_be_visible()
        expect(page.get_by_text(field["description"], exact=True)).to_be_visible()
    expect(page.locator("textarea").first).to_have_value("nacl")
    expect(page.get_by_text("as in the file", exact=True).first).to_be_visible()


class Service:
    """What `temper up` started in a home of its own, and what its API says."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url

    def ask(self, path: str, query: dict[str, Any]) -> Any:
        """The answer to a query; a busy SQLite asks to come again (503)."""
        content = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api{path}", json.dumps(query).encode(), content)
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(1)
        raise AssertionError("the server has been busy for 20 s")

    def deployment(self, flow: str, name: str) -> str:
        """The id of a deployment."""
        query = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [name]}}}
        (found,) = self.ask("/deployments/filter", query)
        return str(found["id"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A machine on which somebody said `temper up`."""
    folder = tmp_path_factory.mktemp("service")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"TEMPER_HOME": str(folder / "temper"), "PREFECT_HOME": str(folder / "prefect")}
    env |= {"TEMPER_PREFECT_PORT": "43850", "CUDA_VISIBLE_DEVICES": ""}

    def temper(command: str) -> str:
        code = "from flows.command import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        (address,) = re.findall(r"Start campaigns at (\S+)/deployments", temper("up"))
        yield Service(folder / "temper", address)
    finally:
        temper("down")


def choose(page: Page, item: str) -> None:
    """Choose an item of the menu of a run."""
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def badge(page: Page, state: str) -> Locator:
    """Where the page of a run says what its state is."""
    return page.get_by_text(state, exact=True).first


@pytest.fixture
def unhurried(mini: Path) -> Path:
    """The miniature campaign with a training that takes long enough to be cancelled."""
    file = mini.with_name("unhurried.yaml")
    file.write_text(mini.read_text().replace("epochs: 12", "epochs: 150", 1))
    return file


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_campaign_from_the_form_to_the_report(service: Service, page: Page, unhurried: Path) -> None:
    # Started from the form, with a person to decide.
    page.goto(
        f"{service.url}/v2/deployments/deployment/{service.deployment('finetune', 'nacl')}/run",
        wait_until="commit",
    )
    page.locator("textarea").first.fill(str(unhurried))
    page.get_by_text("as in the file", exact=True).nth(1).click()
    page.get_by_role("option", name="person").click()
    for _ in range(5):  # a busy SQLite lets a person press again
        page.get_by_role("button", name="Submit").click()
        page.locator("[data-sonner-toast]").first.wait_for()
        if page.get_by_role("button", name="View run").count():
            break
    page.get_by_role("button", name="View run").click()
    expect(page).to_have_url(re.compile("/runs/flow-run/"))
    run = page.url
    expect(badge(page, "Running")).to_be_visible()

    # Its progress is seen, and it is cancelled in the middle of a training.
    progress = page.get_by_text(re.compile("fine-tune naive: epoch")).first
    while not progress.is_visible():  # the page does not look for new artifacts by itself
        page.goto(f"{run.partition('?')[0]}?tab=Artifacts", wait_until="commit")
        page.wait_for_timeout(5000)
    choose(page, "Cancel")
    page.get_by_role("button", name="Cancel Flow Run").click()
    expect(badge(page, "Cancelled")).to_be_visible()
    assert not (service.home / "reports").exists()

    # Retried, it goes on where it was, up to the gate, where it waits for a person.
    for _ in range(3):  # where a machine is busy, the cancellation can still reach the run that goes on
        choose(page, "Retry")
        page.get_by_role("button", name="Retry").last.click()
        expect(badge(page, "Cancelled")).not_to_be_visible()
        expect(badge(page, "Suspended").or_(badge(page, "Cancelled"))).to_be_visible(timeout=20 * PATIENCE)
        if badge(page, "Suspended").is_visible():
            break
    assert "waits for a person to decide" in (service.home / "reports" / "mini.html").read_text()
    choose(page, "Resume")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Shall what passed the gate of mini be promoted?")).to_be_visible()
    expect(dialog.get_by_text(re.compile("force MAE over the foundation's")).first).to_be_visible()
    dialog.get_by_role("button", name="Select").click()
    page.get_by_role("option", name="promote", exact=True).click()
    dialog.locator("textarea").nth(0).fill("Ada")
    dialog.locator("textarea").nth(1).fill("The report is convincing")
    dialog.get_by_role("button", name="Resume").click()
    expect(badge(page, "Completed")).to_be_visible(timeout=5 * PATIENCE)

    # What came of it is among the artifacts, and the report says who decided.
    page.goto(f"{run.partition('?')[0]}?tab=Artifacts", wait_until="commit")
    expect(page.get_by_text("campaign-report").first).to_be_visible()
    expect(page.get_by_text(re.compile("naive is mini@champion")).first).to_be_visible()
    report = (service.home / "reports" / "mini.html").read_text()
    assert "Promoted by Ada: The report is convincing" in report
