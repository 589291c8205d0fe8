"""The page in a real browser, with real keys and a real mouse: type, stream, stop, point, branch, compare, share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from serving import Client, hosted, serving

from daybreak.serve.app import Policy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the path")

TOKENS = "document.querySelectorAll('.token')"
READY = "typeof models !== 'undefined' && models.length > 0"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def page(browser: Browser, client: Client) -> Iterator[Browser]:
    browser.open(client.url)
    browser.until(READY)
    yield browser
    assert browser.js("document.documentElement.dataset.errors") is None
    assert browser.js("performance.getEntriesByType('resource').every((one) => one.name.startsWith(location.origin))")


def written(page: Browser, column: int = 0) -> str:
    text: str = page.js(f"columns[{column}].tokens.map((token) => token.text).join('')")
    return text


def set_knob(page: Browser, name: str, value: float, column: int = 0) -> None:
    page.js(f"(() => {{ const one = columns[{column}].knobs['{name}']; one.value = {value}; one.dispatchEvent(new Event('input')); }})()")


def write(page: Browser, prompt: str) -> None:
    page.click("document.querySelector('#prompt')")
    page.type(prompt)
    page.press("Enter", ctrl=True)
    page.until("!running")


def greedy(page: Browser, tokens: int = 12) -> None:
    set_knob(page, "temperature", 0)
    set_knob(page, "max_tokens", tokens)


def test_type_and_write(page: Browser, client: Client) -> None:
    greedy(page)
    write(page, "The sun")
    wanted = client.complete("The sun", max_tokens=12)["choices"][0]["text"]
    assert written(page) == wanted
    assert page.js("document.querySelector('.given').textContent") == "The sun"
    assert page.js(f"[...{TOKENS}].map((one) => one.textContent).join('')") == wanted
    stats = page.js("document.querySelector('.stats').textContent")
    assert stats.startswith("12 tokens · ")
    assert "perplexity" in stats
    heats = page.js(f"[...{TOKENS}].map((one) => parseInt(one.style.getPropertyValue('--heat-here')))")
    assert len(set(heats)) > 2
    assert all(0 <= heat <= 62 for heat in heats)


def test_it_streams_and_stops(page: Browser, client: Client) -> None:
    engine = client.hosts.models["tiny"].engine
    step = engine.step
    engine.step = lambda: (time.sleep(0.05), step())[1]  # type: ignore[method-assign]
    try:
        set_knob(page, "max_tokens", 1000)
        page.click("document.querySelector('#prompt')")
        page.type("The sun")
        page.click("document.querySelector('#write')")
        page.until(f"{TOKENS}.length > 3")
        assert page.js("running !== null")
        page.press("Escape")
        page.until("!running")
        assert client.idle()
        assert 3 < page.js(f"{TOKENS}.length") < 1000
        assert page.js("document.querySelector('.stats').textContent").endswith("stopped")
        assert page.js("document.querySelector('#stop').disabled")
    finally:
        engine.step = step  # type: ignore[method-assign]


def test_it_goes_on_beyond_the_context(page: Browser, client: Client) -> None:
    set_knob(page, "max_tokens", 100)
    set_knob(page, "seed", 3)
    write(page, "The sun rises in the east and")
    first = page.js(f"{TOKENS}.length")
    assert first == 100 or page.js("document.querySelector('.stats').textContent").endswith("the text ended")
    page.click("document.querySelector('.more')")
    page.until("!running")
    assert page.js(f"{TOKENS}.length") > first


def test_point_and_branch(page: Browser, client: Client) -> None:
    greedy(page)
    write(page, "The sun")
    page.hover(f"{TOKENS}[4]")
    page.until("!card.hidden")
    assert page.js("card.querySelectorAll('.choice').length") == 8
    assert page.js("card.querySelector('.choice').classList.contains('on')")  # the likeliest is the chosen one
    other = page.js("columns[0].tokens[4].alternatives[2]")
    before = page.js("columns[0].tokens.slice(0, 4).map((token) => token.id)")
    page.click("card.querySelectorAll('.choice')[2]")
    page.until("!running && columns[0].tokens.length === 12")
    ids = page.js("columns[0].tokens.map((token) => token.id)")
    assert ids[:5] == [*before, other["id"]]
    prompt = client.post("/tokenize", prompt="The sun")["tokens"]
    wanted = client.complete(prompt + ids[:5], max_tokens=7, return_token_ids=True)["choices"][0]["token_ids"]
    assert ids[5:] == wanted
    assert page.js(f"{TOKENS}[4].classList.contains('mine')")
    assert page.js("card.hidden")


def test_the_keyboard_is_enough(page: Browser) -> None:
    greedy(page)
    write(page, "The sun")
    page.js("columns[0].text.focus()")
    for _ in range(3):
        page.press("ArrowRight")
    assert page.js("shownFor.at") == 2
    page.press("ArrowLeft")
    assert page.js("shownFor.at") == 1
    other = page.js("columns[0].tokens[1].alternatives[1].id")
    page.press("ArrowDown")
    page.press("Enter")
    page.until("!running && columns[0].tokens.length === 12")
    assert page.js("columns[0].tokens[1].id") == other
    page.press("ArrowRight")
    assert not page.js("card.hidden")
    page.press("Escape")
    assert page.js("card.hidden")


def test_compare_two_models(page: Browser, client: Client) -> None:
    page.click("document.querySelector('#compare')")
    assert page.js("document.querySelectorAll('.column').length") == 2
    assert page.js("columns[1].model.value") == "dusk"
    greedy(page)
    set_knob(page, "temperature", 0, 1)
    set_knob(page, "max_tokens", 9, 1)
    write(page, "The sun")
    assert written(page, 0) == client.complete("The sun", max_tokens=12)["choices"][0]["text"]
    assert written(page, 1) == client.complete("The sun", max_tokens=9, model="dusk")["choices"][0]["text"]


def test_a_link_brings_it_all_back(page: Browser, client: Client) -> None:
    page.click("document.querySelector('#compare')")
    set_knob(page, "temperature", 1.3)
    set_knob(page, "max_tokens", 15)
    set_knob(page, "min_p", 0.05, 1)
    write(page, 'The sun & "the" moon\n#~')
    texts = [written(page, 0), written(page, 1)]
    link = page.js("link(true)")
    page.open(link)
    page.until(f"{READY} && !running && columns[1].tokens.length > 0 && columns[0].tokens.length > 0")
    assert page.js("prompt.value") == 'The sun & "the" moon\n#~'
    assert page.js("columns[1].knobs.min_p.value") == "0.05"
    assert page.js("columns[0].knobs.temperature.range.value") == "1.3"
    assert [written(page, 0), written(page, 1)] == texts


def test_what_is_written_cannot_act(page: Browser) -> None:
    write(page, "<img src=x onerror=\"document.documentElement.dataset.owned='yes'\">")
    assert page.js("document.querySelector('.given').textContent").startswith("<img")
    assert page.js("document.querySelectorAll('.text img').length") == 0
    assert page.js("document.documentElement.dataset.owned") is None


def test_errors_are_told(browser: Browser) -> None:
    with serving(hosted(), policy=Policy(api_key="k")) as client:
        browser.open(client.url)
        browser.until("document.querySelector('#key-row')?.hidden === false")
        assert "wanted the server's key" in browser.js("said.textContent")
        browser.click("document.querySelector('#key')")
        browser.type("k")
        browser.press("Enter")
        browser.until(READY)
        write(browser, "The sun")
        assert browser.js(f"{TOKENS}.length") > 0
    browser.click("document.querySelector('#write')")
    browser.until("said.textContent === 'The server cannot be reached.'")
    browser.js("sessionStorage.clear()")


def test_on_a_phone(client: Client, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", 390, 800, phone=True, dark=True) as phone:
        phone.open(client.url)
        phone.until(READY)
        greedy(phone)
        write(phone, "The sun")
        assert phone.js("document.documentElement.scrollWidth") <= 390
        phone.tap(f"{TOKENS}[4]")
        phone.until("!card.hidden")
        box: dict[str, Any] = phone.js("card.getBoundingClientRect().toJSON()")
        assert box["left"] >= 0
        assert box["right"] <= 390
        assert box["bottom"] <= 800
        assert phone.js(f"{TOKENS}[4].getBoundingClientRect().bottom") <= box["top"]
        phone.tap("card.querySelectorAll('.choice')[1]")
        phone.until("!running && columns[0].tokens[4].mine")
        assert phone.js("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 31)"
