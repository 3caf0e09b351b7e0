"""The page in a real headless Chromium: what it computes, its controls, and who can use them.

Skipped where there is no Chromium: `apt-get install -y chromium` (README, "For developers").
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from report_world import NAMES, make, params_with

from palette import report
from palette.params import Params
from palette.reporting import charts, explorer, formats, maps, members
from palette.reporting.run import Run, read

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: apt-get install -y chromium"
)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
WORLDS = {
    "three": params_with(3),
    "floors": params_with(3, weights={"floor": {"safety": 0.2, "humor": 0.07}}),
    "one": params_with(1),
    "two": params_with(2),
    "four": params_with(4),
}
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
CLOSE = 1e-5  # f* of the page rounds rewards to 1/65535


@dataclass(frozen=True)
class Made:
    params: Params
    run: Run
    file: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name of a world → its report; each is made once."""
    found: dict[str, Made] = {}

    def make_once(name: str) -> Made:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                make(WORLDS[name])
                report.main(WORLDS[name])
                found[name] = Made(WORLDS[name], read(WORLDS[name]), folder / "reports/index.html")
        return found[name]

    return make_once


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as programs:
        chromium = programs.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(made, browser) -> Iterator:
    """Open a world's page, with options of the browser's context; it may say and fetch nothing."""
    contexts, complaints = [], []

    def open_page(name: str = "three", **options):
        context = browser.new_context(**({"viewport": DESK} | options))
        contexts.append(context)
        page, file = context.new_page(), made(name).file.as_uri()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda asked: asked.url == file or complaints.append(asked.url))
        page.goto(file)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


STATE = """() => ({
    numbers: Object.fromEntries([...document.querySelectorAll("data")].map(own => [own.id, +own.value])),
    texts: Object.fromEntries([...document.querySelectorAll("data")].map(own => [own.id, own.textContent])),
    served: document.getElementById("served").textContent,
    answers: [...document.querySelectorAll("#voices .answer > blockquote")].map(own => own.textContent),
})"""
"""What follows the taste: every number, by the id of its element, with all its digits and as it is
shown; who serves; and the answers."""


def weights_of(page, run: Run) -> np.ndarray:
    found = page.evaluate(STATE)["numbers"]
    return np.array([found[f"share-{trait}"] for trait in range(run.region.d)])


def set_weight(page, trait: int, value: float) -> None:
    slider = page.locator(f"#weight-{trait}")
    low, high = float(slider.get_attribute("min")), float(slider.get_attribute("max"))
    steps = int((min(max(value, low), high) - low) / 0.01 + 1e-9)
    slider.fill(str(round(low + steps * 0.01, 2)))


def check_numbers(page, run: Run) -> None:
    """What the page shows at its weights is what Python computes there."""
    state = page.evaluate(STATE)
    found = state["numbers"]
    weights = np.array([found[f"share-{trait}"] for trait in range(run.region.d)])
    assert run.region.contains(weights)
    member = int(run.planes.best(weights))
    worth = run.losses.judged.worth(weights)[member]
    ideal = run.ideal.value(weights[None]).mean()
    expected = {"worth": worth, "ideal": ideal, "regret": ideal - worth, "loss": 1 - worth / ideal}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=CLOSE)
    assert state["texts"]["regret"] == formats.decimals(found["regret"], 3)
    assert state["texts"]["loss"] == formats.percent(found["loss"])
    name = run.planes.names[member]
    assert (name if member else "no adapter") in state["served"]
    assert state["answers"] == run.answers.filter(member=name)["response"].to_list()


@pytest.mark.parametrize("name", ["one", "two", "three", "floors", "four"])
def test_the_page_says_what_python_computes_wherever_the_sliders_go(made, opened, name):
    page, run = opened(name), made(name).run
    check_numbers(page, run)
    rng, met = np.random.default_rng(0), set()
    moves = zip(rng.integers(0, run.region.d, 10), rng.random(10), strict=True)
    for trait, value in moves if run.region.d > 1 else []:
        set_weight(page, int(trait), value)
        check_numbers(page, run)
        met.add(page.evaluate(STATE)["served"])
    assert len(met) > 1 or run.region.d == 1
    for name, weights in explorer.presets(run):
        page.get_by_role("button", name=name, exact=True).click()
        np.testing.assert_allclose(weights_of(page, run), weights, atol=1e-12)
        check_numbers(page, run)


@pytest.mark.parametrize("name", ["three", "four"])
def test_every_member_is_heard_by_a_press(name, made, opened):
    page, run = opened(name), made(name).run
    numbers = members.numbers(run)
    for cell in run.losses.cells:
        member = run.planes.names[cell.member]
        said = "Base" if member == "base" else f"Member {numbers[member]}"
        page.get_by_role("button", name=f"{said}: ").click()
        assert ("no adapter" if member == "base" else member) in page.locator(
            "#served"
        ).inner_text()
        check_numbers(page, run)


def test_a_weight_that_moves_leaves_the_others_in_proportion(made, opened):
    page, run = opened("floors"), made("floors").run
    floor = np.array(run.region.floor)
    for trait, value in ((0, 0.4), (1, 0.3), (2, 0.9)):
        before = weights_of(page, run) - floor
        set_weight(page, trait, value)
        after = weights_of(page, run) - floor
        others = np.arange(3) != trait
        np.testing.assert_allclose(
            after[others] * before[others].sum(), before[others] * after[others].sum(), atol=1e-12
        )
    slider = page.locator("#weight-0")
    slider.press("End")  # no step of 0.01 above the floor ends just there
    np.testing.assert_allclose(weights_of(page, run), run.region.vertices()[0], atol=1e-9)
    slider.press("Home")
    assert weights_of(page, run)[0] == 0
    np.testing.assert_allclose((weights_of(page, run) - floor)[1:], (1 - floor.sum()) / 2)


def test_the_keyboard_alone_reaches_and_moves_everything(made, opened):
    page, run = opened(), made("three").run
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    asked = ["weight-0", "weight-1", "weight-2", "All alike", "find", "user", "try", "question"]
    assert [own for own in reached if own in asked] == asked
    page.locator("#weight-1").focus()
    before = weights_of(page, run)[1]
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert weights_of(page, run)[1] == pytest.approx(before + 0.03, abs=0.01)
    assert page.locator("#weight-1").get_attribute("aria-valuetext") == (
        page.locator("#share-1").inner_text()
    )
    check_numbers(page, run)


def on_map(page, shares: np.ndarray) -> dict[str, float]:
    """x and y in the window of shares of the region's corners."""
    x, y = np.array(shares) @ np.array(maps.corners())
    return page.locator("#map-of-members svg").evaluate(
        "(svg, [x, y]) => { const { x: left, y: top } = new DOMPoint(x, y).matrixTransform("
        "svg.getScreenCTM()); return { x: left, y: top }; }",
        [x, y],
    )


@pytest.mark.parametrize("name", ["three", "floors"])
def test_a_click_and_a_drag_on_the_map_choose_the_taste_under_the_pointer(name, made, opened):
    page, run = opened(name), made(name).run
    page.locator("#map-of-members").scroll_into_view_if_needed()
    for shares in ([0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.05, 0.9, 0.05]):
        page.mouse.click(**on_map(page, shares))
        np.testing.assert_allclose(weights_of(page, run), run.region.spread(shares), atol=0.01)
        check_numbers(page, run)
    page.mouse.down()
    page.mouse.move(**on_map(page, [0.4, 0.4, 0.2]), steps=4)
    np.testing.assert_allclose(weights_of(page, run), run.region.spread([0.4, 0.4, 0.2]), atol=0.01)
    page.mouse.move(**on_map(page, [1.3, -0.2, -0.1]))  # far out: the nearest there is
    np.testing.assert_allclose(weights_of(page, run), run.region.vertices()[0], atol=1e-9)
    page.mouse.up()
    page.mouse.move(**on_map(page, [0.1, 0.1, 0.8]))
    np.testing.assert_allclose(weights_of(page, run), run.region.vertices()[0], atol=1e-9)


def test_a_finger_drags_the_handle_and_else_scrolls(made, opened):
    page, run = opened(viewport=PHONE, has_touch=True, is_mobile=True), made("three").run
    page.locator("#map-of-members").scroll_into_view_if_needed()
    page.touchscreen.tap(**on_map(page, [0.2, 0.3, 0.5]))
    np.testing.assert_allclose(weights_of(page, run), [0.2, 0.3, 0.5], atol=0.02)
    assert page.locator(".handle").evaluate("own => getComputedStyle(own).touchAction") == "none"
    assert (
        page.locator("svg.pointed").evaluate("own => getComputedStyle(own).touchAction") == "auto"
    )


def test_what_changes_is_said_to_who_cannot_see_it(opened):
    from playwright.sync_api import expect

    page = opened()
    said = page.get_by_role("status").first
    set_weight(page, 0, 0.9)
    worth, regret = (page.locator(f"#{name}").inner_text() for name in ("worth", "regret"))
    expect(said).to_contain_text(f"serves this taste, worth {worth}, which is {regret}")
    page.locator("#user").press("ArrowDown")
    expect(page.locator("#met")).to_contain_text("is shown, served by")


def test_a_user_is_found_and_shown_with_all_that_is_known(made, opened):
    page, run = opened(), made("three").run
    assert [person["id"] for person in run.people] == sorted(n for n in NAMES if "user" in n)
    assert page.locator("#user option").count() == len(run.people)
    page.locator("#find").fill("USER-10")
    assert page.locator("#found").inner_text() == "1 of 6 users"
    page.locator("#find").press("Enter")
    assert page.locator("#person-name").inner_text() == "user-10"
    person = next(person for person in run.people if person["id"] == "user-10")
    card = page.locator(".person").inner_text()
    for trait, (mean, low, high), judged in zip(
        run.params.trait_names, person["weights"], person["judged"], strict=True
    ):
        told = f"{trait}\n{mean:.0%} ({low:.0%} to {high:.0%}), truly {judged:.0%}"
        assert told in card
    route = person["route"]
    assert route["member"] in card and "strength 0.5, on all layers" in card
    assert (
        f"Loses {route['regret']:.3f}" in card and f"{route['worst_regret']:.3f} at worst" in card
    )
    assert person["insight"] in card and person["history"][0][1] in card and "rated 0.75" in card
    check_answers(page, person, run.answers["prompt_id"].unique(maintain_order=True).to_list())


def check_answers(page, person: dict, prompts: list[str]) -> None:
    """Every method's answer to the question that is chosen."""
    for place, prompt in enumerate(prompts):
        page.locator("#question").select_option(str(place))
        cards = page.locator("#person-answers > li")
        assert cards.count() == len(person["worth"]) == 19
        for card in cards.all():
            title = card.locator("h4").inner_text()
            method = next(own for own, name in charts.METHOD_NAMES.items() if name == title)
            assert f"J {person['worth'][method]:.3f}" in card.inner_text()
            if method != "ideal":
                assert card.locator("blockquote").inner_text() == f"{method} answers {prompt}"


def test_users_are_chosen_by_keyboard_and_tried_above(made, opened):
    page, run = opened(), made("three").run
    page.locator("#user").focus()
    page.keyboard.press("End")
    assert page.locator("#person-name").inner_text() == run.people[-1]["id"]
    page.locator("#try").press("Enter")
    assert page.evaluate("document.activeElement.id") == "explore-title"
    estimate = [mean for mean, _, _ in run.people[-1]["weights"]]
    np.testing.assert_allclose(weights_of(page, run), estimate, atol=1e-5)
    page.locator("#find").fill("nobody is called that")
    assert page.locator("#user option").count() == 0
    page.locator("#find").press("Enter")
    assert page.locator("#person-name").inner_text() == run.people[-1]["id"]


@pytest.mark.parametrize("name", WORLDS)
def test_a_phone_scrolls_up_and_down_alone(name, opened):
    page = opened(name, viewport=PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize(
    "options", [{}, {"viewport": PHONE, "color_scheme": "dark"}], ids=["light", "dark phone"]
)
def test_nothing_stands_in_the_way_of_who_reads_otherwise(options, opened):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(**options)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = Axe().run(
        page, {"exclude": ["svg > *"]}
    )  # thousands of marks; each picture is one image
    assert not found.violations_count, found.generate_report()


def test_dark_still_and_printed_pages_are_as_asked(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened().evaluate(ground), opened(color_scheme="dark").evaluate(ground)
    assert light != dark
    page = opened(reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert (
        page.locator("#reached").evaluate("own => getComputedStyle(own).transitionDuration") == "0s"
    )
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.locator("#samples blockquote").last.is_visible()
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count()


def test_without_scripts_all_that_stands_still_is_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    assert not page.locator("#weight-0").is_visible() and not page.locator("#find").is_visible()
    assert page.locator("#map-of-members svg").is_visible()
    assert page.locator("#samples blockquote").first.is_visible()


def test_no_other_script_runs(made, browser):
    page = browser.new_page()
    page.goto(made("three").file.as_uri())
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
    }""")
    assert page.evaluate("window.ran") is None
    page.close()
