"""The page of a real agent: what it shows, in a real browser; what it keeps to itself; what it withstands."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from firmware_bridge.bundle import open_bundle
from firmware_bridge.page.guard import Turnstile, is_session, make_session
from firmware_bridge.page.settings import PageSettings, allowed_hosts, read_token
from firmware_bridge.result import NOTICE
from tests.end_to_end.conftest import Agent, Mosquitto, Xrays, free_port, until
from tests.end_to_end.mqtt_asker import Asker

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

START_S = 90.0  # a machine that has much else to do
TOKEN = "a token of forty letters, and not one less"


class Site:
    """The page of an agent that runs."""

    def __init__(self, agent: Agent, settings: str = "", **options: str) -> None:
        self.port = free_port()
        self.agent = agent
        path = agent.state.parent / "agent.toml"
        path.write_text(f"[page]\nport = {self.port}\n{settings}\n[intake]\nsettle_s = 0.1\ngrace_s = 0.3\n")
        extra = [word for name, value in options.items() for word in (f"--{name}", value)]
        agent.start("--config", str(path), *extra)
        until(lambda: self.answers(), timeout_s=START_S, what=f"the page at port {self.port}")

    def answers(self) -> bool:
        assert self.agent.running
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=body, headers=named)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def is_well(self) -> bool:
        try:
            return self.ask("/healthz")[0] == 200
        except OSError:
            return False  # the crowd's places are not free yet

    def view(self) -> Any:
        return json.loads(self.ask("/api/state")[2])

    def wait_for(self, number: int) -> list[dict[str, Any]]:
        return list(until(lambda: found if len(found := self.view()["results"]) == number else None))


def filled(agent: Agent, xrays: Xrays) -> Site:
    """An X-ray and a file that is none."""
    xrays.put(agent.watch / "1.jpg", old=True)
    (agent.watch / "<img src=x onerror=alert(1)>.jpg").write_bytes(b"GIF89a and no more of it")
    made = Site(agent)
    made.wait_for(2)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bundle_file: Path, samples: Path) -> Iterator[Site]:
    """For tests that only look."""
    with open_bundle(bundle_file) as bundle:
        agent = Agent(tmp_path_factory.mktemp("site"), bundle_file)
        yield filled(agent, Xrays(samples, bundle.id))
    agent.kill()


@pytest.fixture
def site_of_its_own(agent: Agent, xrays: Xrays) -> Site:
    return filled(agent, xrays)


def test_what_it_says(site: Site) -> None:
    view = site.view()
    assert view["notice"] == NOTICE
    assert view["works"] is True
    decisions = {result["decision"] for result in view["results"]}
    assert "refused" in decisions
    assert len(decisions) == 2
    scored = next(result for result in view["results"] if result["decision"] != "refused")
    assert scored["picture"] is True
    assert scored["name"] == ""
    code, headers, data = site.ask(f"/xray/{scored['id']}.jpg")
    assert (code, headers["content-type"]) == (200, "image/jpeg")
    assert data.startswith(b"\xff\xd8\xff")
    assert len(site.ask(f"/thumb/{scored['id']}.jpg")[2]) < len(data)
    assert site.ask("/healthz")[::2] == (200, b"ok\n")


def test_a_file_that_changed_is_not_shown(site_of_its_own: Site) -> None:
    site = site_of_its_own
    scored = next(result for result in site.view()["results"] if result["decision"] != "refused")
    link = site.agent.watch / "1.jpg"
    link.unlink()
    link.symlink_to("/etc/hostname")
    assert site.ask(f"/xray/{scored['id']}.jpg")[0] == 404
    assert site.ask(f"/overlay/{scored['id']}.png")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/xray/../../../../etc/passwd",
        "/xray/..%2f..%2fetc%2fpasswd.jpg",
        "/xray/" + "0" * 64 + ".jpg",
        "/xray/" + "A" * 64 + ".jpg",
        "/xray/.jpg",
        "/overlay/%00.png",
        "/thumb/" + "a" * 4000 + ".jpg",
        "/page/../static/index.html",
        "//etc/passwd",
        "/static/index.html",
    ],
)
def test_no_path_leads_out(site: Site, path: str) -> None:
    code, _, body = site.ask(path)
    assert code == 404
    assert b"root:" not in body


def test_headers(site: Site) -> None:
    for path in ("/", "/api/state", "/nothing", "/metrics"):
        _, headers, _ = site.ask(path)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers
        assert "server" not in headers


def test_nothing_comes_from_elsewhere() -> None:
    static = Path(__file__).parents[2] / "firmware_bridge" / "page" / "static"
    for path in static.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]", text), path
        assert "innerHTML" not in text
        assert "style=" not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:80", "[::2]", "[::1].evil"]
)
def test_another_name_gets_nothing(site: Site, host: str) -> None:
    for path in ("/", "/api/state", "/metrics", "/healthz"):
        code, _, body = site.ask(path, Host=host)
        assert code in (400, 421)
        assert b"results" not in body


def test_metrics(site: Site) -> None:
    code, headers, body = site.ask("/metrics")
    assert (code, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    lines = body.decode().splitlines()
    for line in lines:
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"\n]*",?)*\})? [-+0-9.e]+', line), line
    assert "cxr_edge_refused_total 1" in lines
    assert any(line.startswith("cxr_edge_disk_free_bytes ") for line in lines)
    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))


def test_metrics_by_prometheus_own_tool(site: Site) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    done = subprocess.run([tool, "check", "metrics"], input=site.ask("/metrics")[2], capture_output=True, check=False)
    assert b"error" not in done.stderr


# --- login


def test_another_address_than_loopback_needs_a_token(agent: Agent) -> None:
    path = agent.state.parent / "agent.toml"
    path.write_text('[page]\nbind = "0.0.0.0"\n')
    agent.start("--config", str(path))
    assert agent.wait() == 2
    assert "token_file in [page]" in agent.log.read_text()


def test_a_port_that_is_taken_is_told_and_tried_again(agent: Agent, xrays: Xrays) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        path = agent.state.parent / "agent.toml"
        path.write_text(f"[page]\nport = {port}\n")
        agent.start("--config", str(path))
        until(lambda: f"at 127.0.0.1 port {port}: is taken" in agent.log.read_text(), timeout_s=START_S)
        xrays.put(agent.watch / "1.jpg", old=True)
        until(lambda: (agent.watch / "1.jpg.cxr.json").exists(), timeout_s=START_S)

    def served() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            return False

    until(served, timeout_s=START_S)
    assert agent.running


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    from firmware_bridge.errors import ConfigError

    file = tmp_path / "token"
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="too short"):
        read_token(PageSettings(token_file=file))


def test_the_login(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    site = Site(agent, 'token_file = "token"\nhosts = ["xray.clinic"]\nbind = "0.0.0.0"')
    assert site.ask("/")[:1] == (303,)
    assert site.ask("/")[1]["location"] == "/login"
    for path in ("/api/state", "/api/events", "/metrics", "/xray/" + "0" * 64 + ".jpg"):
        assert site.ask(path)[0] == 401
    assert site.ask("/healthz")[0] == 200
    assert site.ask("/login", Host="xray.clinic:8480")[0] == 200
    wrong = site.ask("/login", method="POST", body=b"token=wrong")
    assert (wrong[0], wrong[1]["location"]) == (303, "/login?wrong")
    assert "set-cookie" not in wrong[1]
    code, headers, _ = site.ask("/login", method="POST", body=b"token=" + TOKEN.replace(" ", "+").encode())
    assert code == 303
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    value = cookie.split(";")[0]
    assert site.ask("/api/state", Cookie=value)[0] == 200
    assert site.ask("/api/state", Cookie=value[:-1] + ("0" if value[-1] != "0" else "1"))[0] == 401
    assert site.ask("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert site.ask("/metrics", Authorization="Bearer wrong")[0] == 401
    assert site.ask("/login", method="POST", body=b"x" * 100_000)[0] == 413
    assert TOKEN not in agent.log.read_text()


def test_wrong_guesses_keep_nobody_else_waiting() -> None:
    turnstile = Turnstile()
    bad, good = {"client": ("10.0.0.1", 1)}, {"client": ("10.0.0.2", 1)}

    async def guess() -> None:
        wrong = [asyncio.create_task(turnstile.passes(bad, lambda: False)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await turnstile.passes(good, lambda: True)
        assert not any(task.done() for task in wrong)
        # One after another: behind a wrong one of the same address a right one has to wait.
        last = asyncio.create_task(turnstile.passes(bad, lambda: True))
        done, _ = await asyncio.wait([*wrong, last], return_when=asyncio.FIRST_COMPLETED)
        assert done == {wrong[0]}
        assert await last
        assert all(task.done() for task in wrong)

    asyncio.run(guess())
    assert not turnstile._turns


def test_sessions_end() -> None:
    assert is_session(make_session(TOKEN), TOKEN)
    assert not is_session(make_session(TOKEN), TOKEN + "x")
    assert not is_session(make_session(TOKEN, now_s=0.0), TOKEN)
    assert not is_session("9" * 20, TOKEN)
    until_s, _, proof = make_session(TOKEN).partition(".")
    assert not is_session(f"{int(until_s) + 1}.{proof}", TOKEN)


def test_hosts() -> None:
    assert "0.0.0.0" not in allowed_hosts(PageSettings(bind="0.0.0.0"))
    assert "[fd00::1]" in allowed_hosts(PageSettings(bind="fd00::1"))


# --- attacks


def rss_kib(agent: Agent) -> int:
    assert agent._process is not None
    status = Path(f"/proc/{agent._process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1_000_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        os.urandom(100_000),
    ],
    ids=["path", "header", "headers", "tls", "version", "body", "smuggling", "noise"],
)
def test_huge_and_broken_requests(site: Site, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as sock:
        answer = b""
        try:
            sock.sendall(request_bytes)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(100)
        except OSError:
            pass  # it hung up before all was said: as good as an answer
    # RFC 9112, 6.3: chunked beats a length, if the connection is closed after it. It always is.
    assert not answer.startswith(b"HTTP/1.1 200") or b"chunked" in request_bytes
    assert site.ask("/healthz")[0] == 200
    assert site.agent.running


@pytest.mark.slow
def test_many_connections_and_browsers_that_do_not_read(site_of_its_own: Site, xrays: Xrays) -> None:
    site = site_of_its_own
    before_kib = rss_kib(site.agent)
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(20)]
    deaf = []
    for _ in range(10):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", site.port))
        sock.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deaf.append(sock)
    for number in range(150):
        xrays.put(site.agent.watch / f"more-{number}.jpg")
    until(lambda: len(list(site.agent.watch.glob("more-*.json"))) == 150)
    # Ten browsers that read nothing hold one state each, not the history of 150.
    assert rss_kib(site.agent) - before_kib < 30_000
    # And those that say nothing are hung up on.
    for sock in silent:
        sock.settimeout(30)
        assert sock.recv(1) == b""
    crowd = []
    for _ in range(200):
        sock = socket.socket()
        sock.settimeout(5)
        if sock.connect_ex(("127.0.0.1", site.port)) == 0:
            crowd.append(sock)
    for sock in [*silent, *deaf, *crowd]:
        sock.close()
    until(lambda: site.is_well(), what="the page after the crowd has left")
    assert site.agent.terminate() == 0


# --- a browser


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[..., Chrome]]:
    chromium = shutil.which("chromium")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    opened: list[Chrome] = []

    def start(port: int, *, width: int = 1440, height: int = 900, dark: bool = False) -> Chrome:
        options = ChromeOptions()
        options.binary_location = chromium
        for word in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
            "disable-component-update", "disable-sync", f"user-data-dir={tmp_path}/browser{len(opened)}",
        ):  # fmt: skip
            options.add_argument(f"--{word}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = Chrome(options=options, service=Service(chromedriver))
        opened.append(browser)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get(f"http://localhost:{port}/")
        return browser

    yield start
    for browser in opened:
        browser.quit()


def text_of(browser: Chrome, id: str) -> str:
    return str(browser.find_element("id", id).text)


def test_a_browser_shows_it_and_follows(site_of_its_own: Site, xrays: Xrays, browse: Callable[..., Chrome]) -> None:
    site = site_of_its_own
    browser = browse(site.port)
    until(lambda: len(browser.find_elements("css selector", "#list li")) == 2)
    assert "Not for diagnosis" in text_of(browser, "state") + browser.find_element("css selector", ".notice").text
    assert browser.execute_script("return document.querySelectorAll('#list img[onerror]').length") == 0
    xrays.put(site.agent.watch / "new.jpg")
    until(lambda: len(browser.find_elements("css selector", "#list li")) == 3)
    until(lambda: "New X-ray" in browser.find_element("id", "live").get_attribute("textContent"))
    assert text_of(browser, "headline") in ("Above the threshold", "Below the threshold")
    until(lambda: browser.execute_script("return document.getElementById('film').naturalWidth") > 100)
    assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]] == []


@pytest.mark.mosquitto
def test_what_was_sent_over_mqtt_has_no_picture_and_no_button_for_a_heat_map(
    agent: Agent, xrays: Xrays, mosquitto: Mosquitto, browse: Callable[..., Chrome]
) -> None:
    mosquitto.start()
    site = Site(agent, "[explain]\noverlay = true\n[requests]\nenabled = true\n", mqtt=mosquitto.url, device="d1")
    with Asker(mosquitto.port) as asker:
        until(lambda: "taking requests" in agent.log.read_text(), timeout_s=START_S)
        asker.ask("cxr-edge/d1/request", xrays.make(), correlation=b"1")
        until(lambda: asker.answers)
    (sent,) = site.wait_for(1)
    assert (sent["sent"], sent["picture"]) == (True, False)
    xrays.put(agent.watch / "1.jpg")
    found = {result["id"]: result for result in site.wait_for(2)}
    del found[sent["id"]]
    (kept,) = found.values()
    assert (kept["sent"], kept["picture"], kept["explanation"]["overlay"]) == (False, True, True)
    browser = browse(site.port)
    rows = until(lambda: len(seen := browser.find_elements("css selector", "#list li")) == 2 and seen)
    rows[0].click()
    until(lambda: browser.find_element("id", "toggle").is_displayed())
    rows[1].click()
    assert not browser.find_element("id", "toggle").is_displayed()
    assert "sent over the network" in text_of(browser, "nofilm")
    assert "?" not in rows[1].text


def test_without_overlays_there_is_no_button_for_a_heat_map(site: Site, browse: Callable[..., Chrome]) -> None:
    browser = browse(site.port)
    until(lambda: len(browser.find_elements("css selector", "#list li")) == 2)
    for row in browser.find_elements("css selector", "#list li"):
        row.click()
        assert not browser.find_element("id", "toggle").is_displayed()


def test_the_keyboard_alone(site: Site, browse: Callable[..., Chrome]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = browse(site.port)
    until(lambda: len(browser.find_elements("css selector", "#list li")) == 2)

    def press(key: str) -> str:
        browser.find_element("tag name", "body").send_keys(key)
        chosen = browser.find_elements("css selector", "#list li[aria-selected='true']")
        return str(chosen[0].get_attribute("id"))

    first = press("n")
    second = press("j")
    assert second != first
    assert press("j") == second  # the end
    assert press("k") == first
    assert press(Keys.ARROW_DOWN) == second
    assert press(Keys.ARROW_UP) == first
    press(Keys.ENTER)
    assert "closely" in browser.find_element("tag name", "body").get_attribute("class")
    browser.find_element("tag name", "body").send_keys(Keys.ESCAPE)
    assert "closely" not in browser.find_element("tag name", "body").get_attribute("class")


CONTRAST = """
const linear = (v) => (v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4);
const luminance = (c) => { const [r, g, b] = c.map(linear);
  return .2126 * r + .7152 * g + .0722 * b; };
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
const bad = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length) continue;
  const a = luminance(rgb(getComputedStyle(e).color).slice(0, 3)), b = luminance(ground(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) bad.push([e.tagName, e.className, e.textContent.trim().slice(0, 30), ratio]);
}
return bad;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_every_text_can_be_read(site: Site, browse: Callable[..., Chrome], dark: bool, width: int) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.10: contrast, and no sideways scrolling on a phone."""
    browser = browse(site.port, width=width, dark=dark)
    until(lambda: len(browser.find_elements("css selector", "#list li")) == 2)
    for key in "nj":
        browser.find_element("tag name", "body").send_keys(key)
        assert browser.execute_script(CONTRAST) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    notice = browser.find_element("css selector", ".notice").rect
    assert notice["height"] > 0


def test_names_are_text_and_nothing_else(agent: Agent, xrays: Xrays, browse: Callable[..., Chrome]) -> None:
    name = "<img src=x onerror=document.title='hit'>.jpg"
    xrays.put(agent.watch / name, old=True)
    site = Site(agent, "\n[agent]\nnames = true\n")
    site.wait_for(1)
    browser = browse(site.port)
    until(lambda: len(browser.find_elements("css selector", "#list li")) == 1)
    assert name in browser.find_element("css selector", "#list .time").text
    assert text_of(browser, "caption") == name
    assert browser.title == "X-rays · cxr-edge"


def test_empty_and_broker_away_are_told(agent: Agent, browse: Callable[..., Chrome]) -> None:
    site = Site(agent, mqtt=f"mqtt://127.0.0.1:{free_port()}")
    browser = browse(site.port)
    until(lambda: "No X-ray yet" in text_of(browser, "empty"))
    until(lambda: "Nothing is lost" in text_of(browser, "problems"))
    until(lambda: "broker away" in text_of(browser, "health"))
    assert text_of(browser, "state") == "Works, with a hitch"
    assert site.ask("/healthz")[0] == 200
    agent.kill()
    until(lambda: "No connection" in text_of(browser, "state"))


def test_a_journal_that_cannot_be_written_is_told(agent: Agent, xrays: Xrays) -> None:
    import sqlite3

    site = Site(agent)
    holder = sqlite3.connect(agent.state / "journal.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    xrays.put(agent.watch / "1.jpg")
    until(lambda: site.ask("/healthz")[0] == 503)
    assert site.ask("/healthz")[2] == b"journal\n"
    status = subprocess.run(
        [os.fspath(Path(sys.executable).with_name("cxr-edge")), "agent", "status", "--state", str(agent.state)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert status.returncode == 1
    assert "it does not work" in status.stdout
    holder.execute("ROLLBACK")
    holder.close()
    until(lambda: site.ask("/healthz")[0] == 200)
