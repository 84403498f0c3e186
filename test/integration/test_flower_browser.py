# SPDX-License-Identifier: Apache-2.0
"""Flower's pages in a real browser: what they show of a cworker, and what their buttons make it do."""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from flower_server import NODE, Flower, running_flower
from harness import TIMEOUT, descendants, get, wait_state
from services.process import wait_until

pytestmark = pytest.mark.timeout(900)
PATIENCE = 120.0
QUIET = ("--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run "
         "--disable-background-networking --disable-component-update --disable-sync "
         "--disable-default-apps --disable-extensions --window-size=1400,1200")


class Pages:
    """Flower as a person sees it."""

    def __init__(self, driver: webdriver.Chrome, flower: Flower) -> None:
        self.driver = driver
        self.flower = flower

    def go(self, path: str) -> None:
        self.driver.get(self.flower.url + path)

    def text(self, where: str) -> str:
        """What can be seen there; nothing while the page is being drawn."""
        try:
            return self.driver.find_element(By.CSS_SELECTOR, where).text
        except (NoSuchElementException, StaleElementReferenceException):
            return ""

    def wait_text(self, text: str, where: str = "body", reload: bool = False) -> str:
        def seen() -> str:
            found = self.text(where)
            if text not in found and reload:
                self.driver.refresh()
            return found if text in found else ""
        try:
            return wait_until(seen, PATIENCE, f"{text!r} in {where}")
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {where}:\n{self.text('body')}") from None

    def click(self, where: str) -> None:
        """Scripts hear of it as of a real click; what is scrolled away needs no scrolling."""
        element = self.driver.find_element(By.CSS_SELECTOR, where)
        self.driver.execute_script("arguments[0].click()", element)

    def fill(self, where: str, value: Any) -> None:
        element = self.driver.find_element(By.CSS_SELECTOR, where)
        element.clear()
        element.send_keys(str(value))

    def press(self, where: str, answer: str) -> None:
        """Presses a button; its answer is a note in the corner, which is then put away."""
        self.click(where)
        self.wait_text(answer, "#toast-container")
        self.driver.execute_script("document.getElementById('toast-container').textContent = ''")

    def worker(self, tab: str, *texts: str) -> str:
        """Opens the worker's page at a tab that shows all of this; Flower shows what it knew before, and
        asks again meanwhile."""
        def shown() -> str:
            self.go(f"/worker/{NODE}")
            self.driver.find_element(By.ID, f"worker-tab-{tab}").click()
            seen = wait_until(lambda: self.text(f"#tab-{tab}"), PATIENCE, "the tab, faded in")
            return seen if all(text in seen for text in texts) else ""
        return wait_until(shown, PATIENCE, f"{texts} in the tab {tab}")

    def row(self, table: str, text: str) -> list[str]:
        """The cells of the row that has this text."""
        def cells() -> list[str]:
            try:
                for row in self.driver.find_elements(By.CSS_SELECTOR, f"{table} tbody tr"):
                    if text in row.text:
                        return [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
            except StaleElementReferenceException:
                pass
            return []
        return wait_until(cells, PATIENCE, f"a row with {text!r}")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[webdriver.Chrome]:
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser and service, "no chromium, no chromedriver: test/setup.sh installs them"
    monkeypatch.setenv("HOME", str(tmp_path))
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in QUIET.split():
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    driver = webdriver.Chrome(options, Service(service, log_output=str(tmp_path / "driver.log")))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.fixture
def pages(redis: Any, tmp_path: Path, driver: webdriver.Chrome) -> Iterator[Pages]:
    with running_flower(redis, tmp_path / "flower.log") as flower:
        yield Pages(driver, flower)


def wait_worker(pages: Pages) -> None:
    """Flower knows it, and all that it asked it, and hears its events."""
    wait_until(lambda: {"stats", "active_queues", "registered"} <= pages.flower.worker().keys() and
               pages.flower.hears(), PATIENCE, "what Flower knows of the worker")


def test_what_the_pages_show(pages, cworker, app):
    worker = cworker("-E", queues="celery,other")
    wait_worker(pages)
    good = app.send_task("demo.add", (2, 3))
    slow = app.send_task("demo.sleep", (0.3,), {})
    bad = app.send_task("demo.fail", ("no",))
    assert get(good) == 5 and get(slow) == 0.3 and wait_state(bad, "FAILURE")

    pages.go("/")
    wait_until(lambda: pages.row("#workers-table", NODE)[1:6] == ["Online", "0", "3", "1", "2"],
               PATIENCE, "the counts of the worker")
    assert pages.text("#workers-online") == "1"

    pages.go("/tasks")
    name, uuid, state, args, kwargs, result, *_ = pages.row("#tasks-table", "(2, 3)")
    assert (name, uuid, state, args, kwargs, result) == \
        ("demo.add", good.id, "SUCCESS", "(2, 3)", "{}", "5")
    cells = pages.row("#tasks-table", slow.id)
    runtime = pages.flower.ask(f"/api/task/info/{slow.id}")["runtime"]
    assert runtime >= 0.3 and {f"{runtime * 1000:.2f} ms", f"{runtime:.2f} s"} & set(cells), cells
    assert NODE in cells
    pages.click('[data-task-state="FAILURE"]')
    wait_until(lambda: good.id not in pages.text("#tasks-table"), PATIENCE, "only failures")
    assert "ValueError('no')" in pages.row("#tasks-table", bad.id) or \
        "FAILURE" in pages.row("#tasks-table", bad.id)

    pages.go(f"/task/{bad.id}")
    shown = pages.wait_text("Traceback")
    for text in ("demo.fail", bad.id, "FAILURE", "('no',)", "ValueError('no')", NODE):
        assert text in shown
    pages.go(f"/task/{good.id}")
    shown = pages.wait_text(good.id)
    for text in ("demo.add", "SUCCESS", "(2, 3)", "Runtime", NODE):
        assert text in shown

    pages.worker("pool", str(worker.pid), "prefork")
    for tab, texts in {
        "broker": ["redis", "127.0.0.1"],
        "queues": ["celery", "other"],
        "tasks": ["demo.add", "demo.sleep", "demo.fail"],
        "limits": ["demo.add"],
        "config": ["broker_url", "result_backend"],
        "system": ["utime", "maxrss"],
    }.items():
        pages.worker(tab, *texts)
    pages.go("/broker")
    assert pages.row("table", "other")[1] == "0"


def test_pool_and_queues(pages, cworker, app):
    worker = cworker("-E", "--set", "worker_pool_restarts=true")
    inspect = app.control.inspect([NODE], timeout=TIMEOUT)
    wait_worker(pages)

    def lanes() -> int:
        return len(inspect.stats()[NODE]["pool"]["processes"])

    pages.worker("pool")
    pages.fill("#pool-size", 2)
    pages.press("#worker-pool-grow", f"Growing '{NODE}' worker's pool by 2")
    wait_until(lambda: lanes() == 4, TIMEOUT, "four children")
    pages.fill("#pool-size", 3)
    pages.press("#worker-pool-shrink", f"Shrinking '{NODE}' worker's pool by 3")
    wait_until(lambda: lanes() == 1, TIMEOUT, "one child")
    pages.fill("#min-autoscale", 1)
    pages.fill("#max-autoscale", 2)
    pages.press("#worker-pool-autoscale", "Autoscale not enabled")
    before = inspect.stats()[NODE]["pool"]["processes"]
    pages.press("#worker-pool-restart", f"Restarting '{NODE}' worker's pool")
    wait_until(lambda: inspect.stats()[NODE]["pool"]["processes"] != before, TIMEOUT, "another child")

    pages.worker("queues")
    pages.fill("#add-consumer-name", "more")
    pages.press("#worker-add-consumer", "add consumer more")
    assert get(app.send_task("demo.add", (1, 2), queue="more")) == 3
    pages.worker("queues", "more")
    pages.press("#worker-cancel-consumer-more", "no longer consuming from more")
    wait_until(lambda: [q["name"] for q in inspect.active_queues()[NODE]] == ["celery"], TIMEOUT,
               "the queue's end")

    children = descendants(worker.pid)
    pages.worker("pool")
    pages.press("#worker-shutdown", "Shutting down!")
    assert worker.wait(PATIENCE) == 0 and children
    pages.go("/")
    wait_until(lambda: pages.row("#workers-table", NODE)[1] == "Offline", PATIENCE, "its end in Flower")


def test_autoscale(pages, cworker, app):
    cworker("-E", "--autoscale", "3,1")
    wait_worker(pages)
    pages.worker("pool", "Autoscaler options")
    pages.fill("#min-autoscale", 2)
    pages.fill("#max-autoscale", 5)
    pages.press("#worker-pool-autoscale", f"Autoscaling '{NODE}' worker (min=2, max=5)")
    stats = app.control.inspect([NODE], timeout=TIMEOUT).stats()[NODE]["autoscaler"]
    assert (stats["max"], stats["min"]) == (5, 2)
    pages.press("#worker-pool-grow", "not supported with autoscale")


def test_limits_and_revoking(pages, cworker, app):
    cworker("-E", concurrency=1)
    inspect = app.control.inspect([NODE], timeout=TIMEOUT)
    wait_worker(pages)
    pages.worker("limits")
    row = "#limits-table tr:has([id^='task-rate-limit-demo.add'])"
    pages.fill(f"{row} td:nth-child(2) input", 7)
    pages.press(f"{row} td:nth-child(2) button", "new rate limit set successfully")
    assert "demo.add [rate_limit=7]" in inspect.registered()[NODE]
    row = "#limits-table tr:has([id='task-timeout-soft-demo.sleep'])"
    pages.fill(f"{row} td:nth-child(3) input", 1)
    pages.press(f"{row} [id^='task-timeout-hard']", "time limits set successfully")
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        get(app.send_task("demo.sleep", (60,)))
    pages.fill(f"{row} td:nth-child(3) input", 50)
    pages.press(f"{row} [id^='task-timeout-soft']", "time limits set successfully")
    assert "demo.sleep [soft_time_limit=50]" in inspect.registered("soft_time_limit", "time_limit")[NODE]

    running = app.send_task("demo.spin", (600,))
    waiting = app.send_task("demo.add", (1, 2))
    pages.go("/tasks")
    pages.row("#tasks-table", waiting.id)
    pages.go(f"/task/{waiting.id}")
    pages.wait_text("RECEIVED", reload=True)
    pages.press("#task-revoke", "Revoked")
    assert wait_state(waiting, "REVOKED")
    pages.go(f"/task/{running.id}")
    pages.wait_text("STARTED", reload=True)
    pages.worker("tasks", running.id)
    pages.go(f"/task/{running.id}")
    pages.press("#task-terminate", "Revoked")
    assert wait_state(running, "REVOKED")
    pages.go(f"/task/{running.id}")
    pages.wait_text("REVOKED", reload=True)
    assert get(app.send_task("demo.add", (3, 4))) == 7
