"""The playground in a real browser, before a real server of a tiny model whose every `a` is markup."""

import re
from contextlib import contextmanager

import pytest
from playground_server import MARKUP, SECRET
from serving_app import until

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser


@contextmanager
def opened(browser, server, key=SECRET, width=1280, scheme="light", expected=()):
    """The page, once its models are there; fails on what the console says, and on requests to elsewhere."""
    said = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.add_init_script(f"sessionStorage.setItem('ialign-api-key', '{key}')")
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(server.url) else None)
    page.goto(server.url)
    try:
        yield page
        assert page.evaluate("window.broken === undefined")
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert [text for text in said if not any(part in text for part in expected)] == []
    finally:
        context.close()


def choose(page, task, other=None):
    page.get_by_label(task, exact=True).check()
    if other is not None:
        page.get_by_label("Compare with").select_option(other)


def send(page, status="done"):
    page.get_by_role("button", name="Send").click()
    sync_api.expect(page.get_by_role("status")).to_have_text(status, timeout=30_000)


def test_chat_compares_champion_and_base_and_shows_markup_as_text(browser, server):
    with opened(browser, server) as page:
        choose(page, "Chat", "base")
        page.get_by_label("Message", exact=True).fill("Translate the following text from English to Indonesian.")
        page.keyboard.press("Control+Enter")
        sync_api.expect(page.get_by_role("status")).to_have_text("done")
        first, second = page.locator(".answer").all()
        assert "small@champion small/1" in first.text_content()
        assert "12 tokens" in second.locator("footer").text_content()
        texts = [answer.locator(".said").text_content() for answer in (first, second)]
        assert texts[0] != texts[1]
        assert any(MARKUP in text for text in texts)


def test_a_conversation_is_kept_for_each_model_until_it_is_not_wanted(browser, server):
    with opened(browser, server) as page:
        choose(page, "Chat", "base")
        page.get_by_label("Keep the conversation").check()
        for message in ("First.", "Second."):
            page.get_by_label("Message", exact=True).fill(message)
            send(page)
        for answer in page.locator(".answer").all():
            assert answer.locator(".asked").all_text_contents() == ["First.", "Second."]
            assert answer.locator(".said").count() == 4
        page.get_by_label("Keep the conversation").uncheck()
        send(page)
        assert page.locator(".answer .said").count() == 2


def test_a_long_answer_grows_until_it_is_stopped_and_then_costs_nothing(browser, server):
    with opened(browser, server) as page:
        choose(page, "Chat")
        page.get_by_label("Message", exact=True).fill("Say it.")
        page.get_by_text("Options").click()
        page.get_by_label("Maximum answer length").fill("480")
        page.get_by_label("Temperature").fill("1.2")
        for seed in range(9):  # a drawn answer may end before it is stopped
            page.get_by_label("Seed").fill(str(seed))
            page.get_by_role("button", name="Send").click()
            sync_api.expect(page.locator(".answer .said")).not_to_be_empty()
            if page.locator(".answer").get_attribute("aria-busy") == "true":
                break
        page.keyboard.press("Escape")
        sync_api.expect(page.get_by_role("status")).to_have_text("stopped")
        sync_api.expect(page.locator(".answer .warning")).to_have_text("stopped")
        assert "tokens" not in page.locator(".answer footer").text_content()
        engines = server.library._pool.engines()
        until(lambda: not any(engine.stats()["running"] or engine.stats()["queue"] for engine in engines))
        page.get_by_label("Maximum answer length").fill("2")
        send(page)


def test_translate_takes_languages_of_the_model_and_tells_of_unknown_ones(browser, server):
    with opened(browser, server, expected=["status of 400"]) as page:
        choose(page, "Translate")
        assert page.get_by_label("From", exact=True).input_value() == "English"
        page.get_by_label("To", exact=True).fill("ind")
        page.get_by_label("Text to translate").fill("The river is high today.")
        send(page)
        assert page.locator(".answer .said").text_content()
        assert "eng → ind" in page.locator(".answer footer").text_content()
        page.get_by_role("button", name="Swap languages").click()
        assert page.get_by_label("From", exact=True).input_value() == "ind"
        page.get_by_label("To", exact=True).fill(MARKUP)
        send(page, "finished with an error")
        assert "is not a known language" in page.get_by_role("alert").filter(has_text="language").text_content()


def test_classify_shows_probabilities_of_a_suite_and_of_labels_of_ones_own(browser, server):
    with opened(browser, server) as page:
        choose(page, "Classify", "base")
        sync_api.expect(page.get_by_label("Question")).to_have_value("mood")
        page.get_by_label("Text to classify").fill("She sold two goats.")
        send(page)
        for answer in page.locator(".answer").all():
            assert {row.split()[0] for row in answer.locator("tr").all_inner_texts()} == {"bad", "good"}
            shares = [float(re.search(r"([\d.]+) %", row)[1]) for row in answer.locator("tr").all_inner_texts()]
            assert sum(shares) == pytest.approx(100, abs=0.2)
            assert shares == sorted(shares, reverse=True)
        page.get_by_label("Question").select_option(label="custom labels")
        page.get_by_label("Labels").fill(f"good, {MARKUP}")
        page.get_by_label("Prompt").fill("{premise} So {hypothesis}?")
        page.get_by_label("Premise to classify").fill("It rains.")
        page.get_by_role("button", name="Send").click()
        sync_api.expect(page.get_by_role("status")).to_have_text("enter the hypothesis first")
        page.get_by_label("Hypothesis to classify").fill("It is wet.")
        send(page)
        assert MARKUP in page.locator(".answer th").all_text_contents()


def test_a_wrong_key_is_told_and_the_right_one_is_kept_in_the_tab(browser, server):
    with opened(browser, server, key="ialign-wrong", expected=["status of 401"]) as page:
        sync_api.expect(page.locator("#trouble")).to_have_text(re.compile("the API key is not known"))
        assert page.get_by_role("button", name="Send").is_disabled()
        page.get_by_label("API key, kept").fill("kunci-π")
        page.get_by_role("button", name="Use").click()
        sync_api.expect(page.locator("#trouble")).to_have_text(re.compile("copy it again"))
        page.get_by_label("API key, kept").fill(SECRET)
        page.get_by_role("button", name="Use").click()
        sync_api.expect(page.get_by_label("Model", exact=True)).to_have_value("small@champion")
        assert page.locator("#trouble").text_content() == ""
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.parametrize("look", [{"width": 400}, {"width": 1280, "scheme": "dark"}], ids=str)
def test_scores_by_language_and_the_front_are_shown(browser, server, look):
    with opened(browser, server, **look) as page:
        page.get_by_label("Compare with").select_option("base")
        lines = page.locator("#measured tbody tr").all()
        rows = [line.locator(":is(th, td)").all_inner_texts() for line in lines]
        assert {row[0] for row in rows} >= {"L1", "L2", "English", "Indonesian", f"Java {MARKUP}"}
        for row in rows[1:]:
            assert row[1] == "120", row
            assert all(re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", score) for score in row[2:4]), row
        assert page.locator("#measured circle").count() == 2 * len(rows[1:])
        assert page.locator("#fronts .chart circle").count() == 3  # two trials, and a ring around this version's
        assert (
            page.locator("#fronts tbody tr").filter(has_text="(this version)").get_by_role("rowheader").inner_text()
            == "2"
        )
        assert f"found: the largest gain {MARKUP}" in page.locator("#fronts").inner_text()
        page.get_by_label("Model", exact=True).select_option("base")
        sync_api.expect(page.locator("#searched")).to_be_hidden()


def test_the_policy_stops_a_script_that_got_into_the_page(browser, server):
    with opened(browser, server, expected=["Content Security Policy", "status of 404"]) as page:
        page.evaluate(
            """(markup) => {
                const script = document.createElement("script");
                script.textContent = "window.broken = 1";
                document.body.append(script);
                const box = document.createElement("p");
                box.innerHTML = markup;
                document.body.append(box);
                const image = box.firstChild;
                return new Promise((done) => image.addEventListener("error", () => done(image.remove())));
            }""",
            MARKUP,
        )


def test_a_server_that_is_gone_is_told_in_a_sentence(browser, server):
    with opened(browser, server, expected=["ERR_"]) as page:
        choose(page, "Chat")
        page.get_by_label("Message", exact=True).fill("Hello")
        page.context.set_offline(True)
        send(page, "finished with an error")
        assert "the server does not respond" in page.locator(".answer .warning").text_content()
        sync_api.expect(page.locator("#trouble")).to_have_text(re.compile("the server does not respond"))
        page.context.set_offline(False)
        send(page)
        sync_api.expect(page.locator("#trouble")).to_be_empty()
