"""Logging in and out, and who may do what."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.watch.console.conftest import Browser, csrf_of, set_users

from limelens.serve.errors import AccessPolicyError
from limelens.watch.console.access import lockout
from limelens.watch.console.access.lockout import Lockout
from limelens.watch.console.access.passwords import Passwords, hash_password, refusal
from limelens.watch.console.access.sessions import Sessions
from limelens.watch.console.access.users import Role, User, read_users
from limelens.watch.console.serving import Console

Start = Callable[..., Console]
Browse = Callable[..., Browser]


def test_a_user_logs_in_and_out_and_every_step_is_logged(
    start_console: Start, browse: Browse, users: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "limelens.watch.console")
    browser = browse(start_console(users=users).address)
    sent_away = browser.get("/health?a=b")
    assert sent_away.headers["location"] == "/login?next=%2Fhealth%3Fa%3Db"
    assert browser.get("/health", headers={"accept": "image/jpeg"}).status_code == 401

    wrong = browser.log_in("vera", "wrong\nlogged in: user 'eve'")
    assert wrong.status_code == 403
    assert "vera" in wrong.text  # the name need not be typed again
    assert "wrong" not in wrong.text.partition("<main")[2].partition("do not belong")[0]
    right = browser.log_in("vera", "vera has a password", next="/health?a=b")
    assert (right.status_code, right.headers["location"]) == (303, "/health?a=b")
    assert all("samesite=strict" in one.lower() and "httponly" in one.lower()
               for one in right.headers.get_list("set-cookie"))  # fmt: skip
    assert browser.get("/health").status_code == 200

    kept = dict(browser.cookies)
    assert browser.fill_in("/logout", "/health").status_code == 303
    browser.cookies.update(kept)
    assert browser.get("/health").status_code == 303  # the token itself has ended
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in said] == [
        "login refused", "logged in", "logged out",
    ]  # fmt: skip
    assert all("address '127.0.0.1'" in line and "\n" not in line for line in said)
    assert "password" not in "".join(said).replace("wrong name or password", "")


def test_a_login_ends_when_the_user_is_removed_or_the_password_changes(
    start_console: Start, browse: Browse, users: Path
) -> None:
    address = start_console(users=users).address
    vera, otto = browse(address), browse(address)
    vera.log_in("vera", "vera has a password")
    otto.log_in("otto", "otto has a password")
    set_users(users, {"vera": Role.VIEWER, "otto": Role.OPERATOR}, word="passphrase")
    assert vera.get("/health").status_code == otto.get("/health").status_code == 303
    assert vera.log_in("vera", "vera has a passphrase").status_code == 303
    set_users(users, {"otto": Role.OPERATOR}, word="passphrase")
    assert vera.get("/health").status_code == 303
    users.write_text("not a file of users")
    otto.log_in("otto", "otto has a passphrase")
    assert otto.get("/health").status_code == 200  # a typing error locks nobody out
    users.unlink()
    assert otto.get("/health").status_code == 303


def test_who_guesses_waits_longer_and_longer_and_the_users_own_browser_does_not(
    start_console: Start, browse: Browse, users: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout, "FIRST_S", 29.0)  # longer than the rest of this test may take
    address = start_console(users=users).address
    own, strange = browse(address), browse(address)
    own.log_in("vera", "vera has a password")
    own.fill_in("/logout", "/health")
    codes = [strange.log_in("vera", f"guess {one}").status_code for one in range(7)]
    assert codes == [403] * 5 + [429] * 2
    refused = strange.log_in("vera", "vera has a password")
    assert refused.status_code == 429  # even the right one: the answer must not tell
    assert 1 <= int(refused.headers["retry-after"]) <= 29
    assert own.log_in("vera", "vera has a password").status_code == 303


def test_delays_grow_to_a_limit_and_fade() -> None:
    delays, at = Lockout(), 0.0
    waits = []
    for _ in range(14):
        delays.count("vera", "192.0.2.1", None, at)
        waits.append(delays.wait_s("vera", "192.0.2.1", None, at))
        at += waits[-1]
    assert waits[:7] == [0, 0, 0, 0, 2, 4, 8]
    assert waits[-1] == 900  # of the address
    assert delays.wait_s("vera", "192.0.2.7", None, at - waits[-1]) == 30  # of the name
    assert delays.wait_s("otto", "192.0.2.7", None, at - waits[-1]) == 0
    assert delays.wait_s("vera", "192.0.2.1", "own", at - waits[-1]) == 0
    delays.count("vera", "192.0.2.1", None, at + 3601)
    assert delays.wait_s("vera", "192.0.2.1", None, at + 3601) == 0


def test_an_attacker_with_a_login_of_his_own_gains_no_guesses() -> None:
    delays = Lockout()
    waits = []
    for at in range(12):
        delays.count("vera", "192.0.2.1", None, at)
        waits.append(delays.wait_s("vera", "192.0.2.1", None, at))
        if delays.wait_s("eve", "192.0.2.1", None, at) == 0:
            delays.count("eve", "192.0.2.1", None, at)
            delays.take_back("eve", "192.0.2.1", None, at)
    assert waits[5] > 0
    # All addresses of one subscriber's network are one.
    for one in range(6):
        delays.count("vera", f"2001:db8::{one}", None, 0.0)
    assert delays.wait_s("otto", "2001:db8::ffff", None, 0.0) > 0
    assert delays.wait_s("otto", "2001:db8:1::1", None, 0.0) == 0


def test_logins_end_unused_and_after_a_shift() -> None:
    sessions = Sessions(idle_s=60, longest_s=1000)
    user = User("vera", Role.VIEWER, "hash")
    token, other = sessions.begin(user, 0), sessions.begin(user, 0)
    assert token != other
    for at in range(0, 1000, 50):
        assert sessions.user_name(token, at) == "vera"
    assert sessions.user_name(other, 100) is None
    assert sessions.user_name(token, 1001) is None
    assert sessions.user_name("", 0) is sessions.user_name("x" * 43, 0) is None


def test_a_password_costs_time_for_unknown_users_too() -> None:
    made = hash_password("four words at least")
    assert made.startswith("$argon2id$v=19$m=65536,t=")
    user = User("vera", Role.VIEWER, made)
    passwords = Passwords()
    assert passwords.is_right(user, "four words at least", [user])
    assert not passwords.is_right(user, "four words at most", [user])
    assert not passwords.is_right(None, "four words at least", [user])
    assert passwords.is_right(
        User("vera", Role.VIEWER, hash_password("gr\u00fcne T\u00fcr am Hof")),
        "gru\u0308ne Tu\u0308r am Hof",
        [],
    )
    assert refusal("four words at least") == ""
    assert "12" in refusal("short")
    assert refusal("a" * 20)
    assert refusal("long enough\x00\x01")


def test_a_file_of_users_is_refused_with_what_is_wrong(users: Path) -> None:
    good = users.read_text()
    for text, said in (
        ("[users", "not TOML"),
        ("[other]\n", "nothing but tables"),
        ("[users.vera]\nrole = 'viewer'\n", "role and password"),
        ("[users.'ve ra']\nrole = 'viewer'\npassword = 'x'\n", "1 to 64"),
        ("[users.vera]\nrole = 'root'\npassword = 'x'\n", "viewer or operator"),
        ("[users.vera]\nrole = 'viewer'\npassword = 'in the clear'\n", "argon2id"),
        # Such a hash would fail the logins of others, or take all the memory.
        ("[users.vera]\nrole = 'viewer'\npassword = '$argon2id$v=19'\n", "argon2id"),
        (
            "[users.vera]\nrole = 'viewer'\n"
            "password = '$argon2id$v=19$m=4000000,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo'\n",
            "argon2id",
        ),
        ("a = " + "[" * 5000, "not TOML"),
    ):
        users.write_text(text)
        with pytest.raises(AccessPolicyError, match=said) as caught:
            read_users(users)
        assert "in the clear" not in str(caught.value)
    users.write_text(good)
    users.chmod(0o666)
    with pytest.raises(AccessPolicyError, match="chmod 600"):
        read_users(users)


def test_without_a_login_there_is_nothing_but_the_login(
    start_console: Start, browse: Browse, users: Path
) -> None:
    browser = browse(start_console(users=users).address)
    token = browser.csrf()
    for path in ("/", "/cameras", "/cameras/frame", "/events", "/try", "/health/now", "/missing"):
        assert browser.get(path).headers["location"].startswith("/login?next="), path
        assert browser.get(path, headers={"accept": "*/*"}).status_code == 401, path
        posted = browser.post(path, headers={"x-csrf-token": token, "accept": "*/*"})
        assert posted.status_code == 401, path


@pytest.mark.parametrize("is_trusted", [True, False])
def test_the_address_that_a_proxy_names_counts_only_if_the_proxy_is_trusted(
    start_console: Start,
    browse: Browse,
    users: Path,
    caplog: pytest.LogCaptureFixture,
    is_trusted: bool,
) -> None:
    caplog.set_level(logging.INFO, "limelens.watch.console")
    proxies = ["127.0.0.1"] if is_trusted else []
    browser = browse(start_console(users=users, trusted_proxies=proxies).address)
    browser.headers.update({"x-forwarded-for": "192.0.2.9", "x-forwarded-proto": "https"})
    visit = browser.get("/login")
    (cookie,) = visit.headers.get_list("set-cookie")
    # To the proxy the browser would speak TLS: it keeps the cookie, and this client does not.
    answer = browser.post(
        "/login",
        data={"name": "vera", "password": "vera has a password"},
        headers={"cookie": cookie.partition(";")[0], "x-csrf-token": csrf_of(visit.text)},
    )
    assert answer.status_code == 303
    assert ("192.0.2.9" if is_trusted else "127.0.0.1") in caplog.records[-1].getMessage()
    cookies = answer.headers.get_list("set-cookie")
    assert all(("Secure" in one and one.startswith("__Host-")) == is_trusted for one in cookies)
