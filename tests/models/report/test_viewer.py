import base64
import hashlib
import re
import shutil
from pathlib import Path

import pytest

NO_BROWSER = "there is no Chromium to be driven by playwright"


def test_the_viewer_turns_structures_in_a_browser(html, tmp_path: Path):
    playwright = pytest.importorskip("playwright.sync_api", reason=NO_BROWSER)
    page_file = tmp_path / "report.html"
    page_file.write_text(html, encoding="utf-8")
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        path = Path(shutil.which("chromium") or driver.chromium.executable_path)
        if not path.exists():
            pytest.skip(NO_BROWSER)
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 375, "height": 700})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        canvas = page.locator("canvas").first
        canvas.scroll_into_view_if_needed()
        shown_at = [canvas.evaluate("c => c.toDataURL()")]
        canvas.focus()
        for key in ("ArrowLeft", "+"):
            page.keyboard.press(key)
            shown_at.append(canvas.evaluate("c => c.toDataURL()"))
        page.keyboard.press("0")
        assert canvas.evaluate("c => c.toDataURL()") == shown_at[0]
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 120)
        page.mouse.up()
        shown_at.append(canvas.evaluate("c => c.toDataURL()"))
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as XYZ").first.click()
        saved = download.value.path().read_text(encoding="utf-8")
        browser.close()
    assert complaints == []
    assert len(set(shown_at)) == 4
    assert saved.startswith(
        '2\nLattice="0 2.8 2.8 2.8 0 2.8 2.8 2.8 0" pbc="T T T" Properties=species:S:1:pos:R:3\n'
    )
    assert saved.splitlines()[2] == "Na 0 0 0"


def test_no_other_script_than_the_viewer_runs(html, tmp_path: Path):
    (said,) = re.findall(r"script-src 'sha256-([^']+)'", html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert said == base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    playwright = pytest.importorskip("playwright.sync_api", reason=NO_BROWSER)
    attack = "document.title = 'taken over'"
    slipped_in = (
        f'<script>{attack}</script><img src="x" onerror="{attack}"><a href="javascript:{attack}">x</a>'
    )
    page_file = tmp_path / "report.html"
    page_file.write_text(html.replace("<h1>", f"{slipped_in}<h1>"), encoding="utf-8")
    with playwright.sync_playwright() as driver:
        path = Path(shutil.which("chromium") or driver.chromium.executable_path)
        if not path.exists():
            pytest.skip(NO_BROWSER)
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        page.locator("a", has_text="x").first.click()
        title, drawn = page.title(), page.locator("canvas").first.evaluate("c => c.width")
        browser.close()
    assert "taken over" not in title
    assert drawn > 0
