"""Who may call: hosts, origins, tokens, cookies, and what every answer says to a browser (docs/server.md, "What is kept out")."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_sam3d.client import LocalBackend
from comfyui_sam3d.contract.errors import OptionError
from comfyui_sam3d.factory.cli.serve import find_token, is_loopback, listen
from comfyui_sam3d.factory.server.gate import COOKIE, CSP, Access, same
from comfyui_sam3d.factory.server.guesses import Guesses
from fastapi.testclient import TestClient

from .server_app import V1, error, png, send_image, server

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Reached from elsewhere, with a token."""
    access = Access(token=TOKEN, loopback=False, hosts=("assets.example",), origins=("https://page.example",))
    with server(tmp_path_factory.mktemp("guarded"), access=access) as found:
        yield found


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.168.1.5", "", "[::2]", "a b"])
def test_rebinding_hosts_are_refused(client: TestClient, host: str) -> None:
    error(client.get(f"{V1}/info", headers={"Host": host}), 421, "E_DENIED")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8765", "[::1]:80", "LOCALHOST"])
def test_this_machine_by_its_names(client: TestClient, host: str) -> None:
    assert client.get(f"{V1}/info", headers={"Host": host}).status_code == 200


def test_hosts_of_a_server_on_the_network(guarded: TestClient) -> None:
    for host, status in (("assets.example", 200), ("192.168.1.5:8765", 200), ("evil.example", 421)):
        assert guarded.get(f"{V1}/info", headers={**BEARER, "Host": host}).status_code == status


def test_posts_from_pages_elsewhere(client: TestClient) -> None:
    post = {"url": f"{V1}/reconstruct", "files": {"image": png(alpha=True)}}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ):
        error(client.post(**post, headers=headers), 403, "E_DENIED")  # type: ignore[arg-type]
    error(client.get(f"{V1}/jobs", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}), 403, "E_DENIED")
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200  # a link
    assert client.post(**post, headers={"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}).status_code == 200  # type: ignore[arg-type]


def test_a_form_post_is_no_json(client: TestClient) -> None:
    body = json.dumps({"image_id": send_image(client, alpha=True)["id"]})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert client.post(f"{V1}/jobs", content=body, headers={"Content-Type": kind}).status_code == 422


def test_other_origins_only_where_they_are_named(client: TestClient, guarded: TestClient) -> None:
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options(f"{V1}/jobs", headers=asked).headers
    answer = guarded.options(f"{V1}/jobs", headers=asked)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://page.example"
    assert guarded.options(f"{V1}/jobs", headers={**asked, "Origin": "https://other.example"}).status_code == 403
    answer = guarded.get(f"{V1}/jobs", headers={**BEARER, "Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-credentials" not in answer.headers
    error(guarded.get(f"{V1}/jobs", headers={**BEARER, "Origin": "https://other.example"}), 403, "E_DENIED")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer \xff"},
    ],
)
def test_without_the_token_there_is_nothing(guarded: TestClient, headers: dict[str, str]) -> None:
    raw = {key: value.encode("latin-1") for key, value in headers.items()}
    for path in ("/info", "/jobs", "/events", "/openapi.json", "/images/" + "0" * 64, "/nothing"):
        answer = guarded.get(V1 + path, headers=raw)  # type: ignore[arg-type]
        error(answer, 401, "E_DENIED")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/healthz").status_code == guarded.get("/").status_code == 200


def test_the_page_gets_a_cookie_for_the_token(guarded: TestClient) -> None:
    error(guarded.post(f"{V1}/session", json={"token": "wrong"}), 403, "E_DENIED")
    answer = guarded.post(f"{V1}/session", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204 and "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert guarded.get(f"{V1}/jobs").status_code == 200  # the client keeps cookies
    guarded.cookies.clear()
    guarded.cookies.set(COOKIE, "0" * 64)
    error(guarded.get(f"{V1}/jobs"), 401, "E_DENIED")
    guarded.cookies.clear()


@pytest.mark.parametrize("way", ["session", "header", "readyz"])
def test_guesses_are_counted(tmp_path: Path, way: str) -> None:
    """Wrong tokens get their refusal, then 429; so does the right one from that address, for some seconds, and from no other."""
    with server(tmp_path, access=Access(token=TOKEN)) as client:
        app, moment = client.app, [time.monotonic()]
        app.state.guesses._clock = lambda: moment[0]  # type: ignore[attr-defined]

        def attempt(token: str, address: str = "10.0.0.1") -> int:
            caller = TestClient(app, base_url="http://127.0.0.1", client=(address, 1))
            if way == "session":
                answer = caller.post(f"{V1}/session", json={"token": token})
            else:
                answer = caller.get(f"{V1}/jobs" if way == "header" else "/readyz", headers={"Authorization": f"Bearer {token}"})
            if answer.status_code == 429:
                error(answer, 429, "E_BUSY")
                assert 1 <= int(answer.headers["retry-after"]) <= 3
            return answer.status_code

        good, bad = {"session": (204, 403), "header": (200, 401), "readyz": (200, 200)}[way]
        wait_until_ready(client)
        assert [attempt("an-old-token") for _ in range(30)] == [bad] * 30 and attempt(
            TOKEN
        ) == good  # a script that nobody told: the same one is no new guess
        moment[0] += 3.1
        assert [attempt(f"wrong-token-{n}") for n in range(25)] == [bad] * 20 + [429] * 5
        assert attempt(TOKEN) == 429
        assert attempt(TOKEN, "10.0.0.2") == good
        moment[0] += 3.1  # the refused ones cost nothing
        assert attempt(TOKEN) == good and attempt(TOKEN) == good
        assert client.get(f"{V1}/jobs").status_code == 401  # a call without a token is no guess


def wait_until_ready(client: TestClient) -> None:
    end = time.monotonic() + 20
    while client.get("/readyz").status_code != 200 and time.monotonic() < end:
        time.sleep(0.02)


def test_guesses_from_everywhere_lock_nobody_out() -> None:
    moment = [0.0]
    guesses = Guesses(own=5, own_every=10.0, common=20, common_every=1.0, clock=lambda: moment[0])
    for n in range(40):
        assert guesses.wait(f"10.1.0.{n}") == 0  # who never guessed is heard
        guesses.wrong(f"10.1.0.{n}", str(n))
    assert guesses.wait("10.1.0.1") == 1 and guesses.wait("10.2.0.1") == 0
    moment[0] += 1.0
    assert guesses.wait("10.1.0.1") == 0
    for _ in range(5):
        guesses.wrong("2001:db8::1", secrets.token_hex())
    assert guesses.wait("2001:db8::ffff") == 10 and guesses.wait("2001:db8:0:1::1") == 0  # one network of 64 bits is one caller
    moment[0] += 1000
    assert guesses.wait("2001:db8::1") == 0 and guesses.wait("10.1.0.1") == 0 and len(guesses._addresses) < 40
    for n in range(6000):
        guesses.wrong(str(n), str(n))
    assert len(guesses._addresses) <= 4096


@pytest.mark.parametrize("given", ["", TOKEN[:-1], TOKEN + "x", "x" * 500, "\udcff"])
def test_other_tokens_are_others(given: str) -> None:
    assert not same(given, TOKEN) and same(TOKEN, TOKEN)


def test_who_has_no_token_learns_little(tmp_path: Path) -> None:
    """Whether it is ready, and the code of what is wrong; nothing of jobs, engines, queue or setup."""
    broken = lambda environment: LocalBackend(["/no/such/program"], environment=environment)  # noqa: E731
    with server(tmp_path, open_backend=broken, access=Access(token=TOKEN)) as client:
        while client.get("/readyz").json()["status"] == "starting":
            time.sleep(0.02)
        for path in ("/readyz", f"{V1}/readyz"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json() == {"status": "failed", "code": "E_WORKER_START", "queue": None, "workers": []}
            told = client.get(path, headers=BEARER).json()
            assert told["workers"][0]["error"]["code"] == "E_WORKER_START" and told["queue"] == 0
        assert client.get("/healthz").json() == {"status": "ok"}
        error(client.get(f"{V1}/info"), 401, "E_DENIED")


def test_headers_of_every_answer(client: TestClient) -> None:
    for answer in (
        client.get("/"),
        client.get("/plain"),
        client.get(f"{V1}/info"),
        client.get("/nothing"),
        client.get("/", headers={"Host": "evil"}),
        client.post(f"{V1}/jobs"),
    ):
        assert answer.headers["content-security-policy"] == CSP and "unsafe-eval" not in CSP.replace("wasm-unsafe-eval", "")
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        form = "<form" in answer.text  # the plain one, which stands at / too where the page hasn't been built
        assert answer.headers["referrer-policy"] == ("same-origin" if form else "no-referrer")
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in answer.headers


def test_where_a_token_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAM3D_TOKEN", raising=False)
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "box", ""))
    assert find_token(None, needed=False) == (None, False)
    made, fresh = find_token(None, needed=True)
    assert fresh and made is not None and len(made) >= 32 and find_token(None, needed=True)[0] != made
    monkeypatch.setenv("SAM3D_TOKEN", TOKEN)
    assert find_token(None, needed=False) == (TOKEN, False)
    file = tmp_path / "token"
    file.write_text("another-token\n")
    assert find_token(file, needed=True) == ("another-token", False)
    for text in ("short", "", "with space in it", "non-ascii-ü-token"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(OptionError):
            find_token(file, needed=True)
    with pytest.raises(OptionError):
        find_token(tmp_path / "none", needed=True)
    with listen("127.0.0.1", 0) as taken, pytest.raises(OptionError):
        listen("127.0.0.1", taken.getsockname()[1])


def test_defects_tell_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret /path/of/this/machine")

    monkeypatch.setattr(client.app.state.service.store, "jobs", broken)  # type: ignore[attr-defined]
    answer = client.get(f"{V1}/jobs")
    assert answer.status_code == 500 and "secret" not in answer.text and answer.json()["error"]["code"] == "E_SERVICE"


@pytest.mark.parametrize("origin", ["http://[", "null", "//", "http://127.0.0.1:99999999", "\u00ff"])
def test_an_origin_that_is_none(client: TestClient, origin: str) -> None:
    answer = client.get(f"{V1}/jobs", headers={"Origin": origin.encode("latin-1")})  # type: ignore[dict-item]
    error(answer, 403, "E_DENIED")
    assert answer.headers["content-security-policy"] == CSP


def test_answers_of_defects_have_the_headers_of_all_others(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(client.app.state.service.store, "jobs", broken)  # type: ignore[attr-defined]
    answer = client.get(f"{V1}/jobs")
    error(answer, 500, "E_SERVICE")
    assert answer.headers["content-security-policy"] == CSP and answer.headers["x-content-type-options"] == "nosniff"


def test_the_address_that_serve_prints_is_one_of_its_names() -> None:
    from comfyui_sam3d.factory.cli.serve import access_of

    for host, shown in (("gpu-box", "gpu-box:8765"), ("127.0.0.2", "127.0.0.2:80"), ("::1", "[::1]:8765"), ("0.0.0.0", "10.0.0.7")):
        assert access_of(host, None, (), ()).names_us(shown)
    assert not access_of("gpu-box", None, (), ()).names_us("evil.example")
    assert not access_of("127.0.0.1", None, (), ()).names_us("10.0.0.7")
