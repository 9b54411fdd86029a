"""Who may call: hosts, origins, tokens, cookies, and what every answer says to a browser (docs/server.md, "What is kept out")."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_sam3d.contract.errors import OptionError
from comfyui_sam3d.factory.cli.serve import find_token, is_loopback, listen
from comfyui_sam3d.factory.server.gate import COOKIE, CSP, Access
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


def test_headers_of_every_answer(client: TestClient) -> None:
    for answer in (
        client.get("/"),
        client.get(f"{V1}/info"),
        client.get("/nothing"),
        client.get("/", headers={"Host": "evil"}),
        client.post(f"{V1}/jobs"),
    ):
        assert answer.headers["content-security-policy"] == CSP and "unsafe-eval" not in CSP.replace("wasm-unsafe-eval", "")
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] in ("no-store", "no-cache")
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
