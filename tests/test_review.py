"""What changed between two runs, compared and told: pure, from snapshots made here."""

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from palette.review import changes, markdown
from palette.review.cells import CUT, literal
from palette.review.lock import Staleness
from palette.review.snapshot import Snapshot

EVIL = (
    "x</code></td><script>alert(1)</script> | @octocat #1 [a](https://e.org) "
    "![p](https://e.org/p)\n\n# h\n`c`"
)
FITS = Staleness({}, [])
EMPTY = Snapshot({}, [], [], [], {}, {}, {}, {}, None)
METRICS = {
    "certificate.passed": 1, "certificate.epsilon.upper": 0.0455, "certificate.epsilon.point": 0.04,
    "certificate.epsilon.requested": 0.05, "portfolio.size": 2, "users.total": 4,
    "objective.portfolio": 0.65, "objective.portfolio.low": 0.64, "objective.portfolio.high": 0.66,
    "share.portfolio": 0.8, "objective.soup": 0.64, "unseen.objective.portfolio": 0.61,
    "trait.humor.portfolio": 0.5, "trait.humor.portfolio.low": 0.4,
    "trait.humor.portfolio.high": 0.6,
}  # fmt: skip


def member(name: str, brevity: float, value: float = 0.7, users: int = 2) -> dict:
    weights = {"weight_brevity": brevity, "weight_humor": 1 - brevity}
    return {"id": name, **weights, "value_brevity": value, "kl": 1.0, "share": 0.9, "users": users}


BASE = {"id": "base", "weight_brevity": None, "weight_humor": None, "users": 0, "share": 0.0}
OLD = [BASE, member("a", 0.9), member("b", 0.5), member("c", 0.1)]
NEW = [BASE, member("a", 0.9), member("b2", 0.45), member("d", 0.65)]


def said(**answers: str) -> list[dict]:
    told = [{"member": name, "answer": answer} for name, answer in answers.items()]
    return [{"prompt": "How do I mend a pan?", "answers": told}]


def served(*rows: tuple[str, str, int]) -> list[dict]:
    return [dict(zip(("group", "member", "users"), row, strict=True)) for row in rows]


RUN = replace(
    EMPTY, metrics=METRICS, members=OLD, params={"portfolio.epsilon": 0.05},
    served=served(("seen", "a", 3), ("seen", "b", 2), ("seen", "c", 1), ("unseen", "a", 1)),
    samples=said(base="b", a="A", b="B", c="C"), pictures={"reports/simplex.svg": b"1"},
    outputs={"data/plan.json": "1", "data/old": "2"},
    makers={"data/plan.json": "plan", "data/old": "gone"},
)  # fmt: skip


def told(after: Snapshot, before: Snapshot = RUN, standing: Staleness = FITS) -> str:
    return markdown.document("main", before, after, standing, "")


class Page(HTMLParser):
    """The tags of rendered Markdown, and texts outside of code."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.loose = Counter(), [], ""
        self.feed(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == "img" or self.open.pop() == tag

    def handle_data(self, data):
        self.loose += "" if "code" in self.open else data


def test_members_are_added_dropped_moved_with_other_values_or_kept():
    found = changes.members(OLD, [*NEW[:1], member("a", 0.9, value=0.6), *NEW[2:]])
    fates = {(own.before or own.after)["id"]: (own.fate, own.moved) for own in found}
    assert fates == {
        "a": ("other values", 0), "b": ("moved", 0.05), "c": ("dropped", 0), "d": ("added", 0),
    }  # fmt: skip
    assert changes.renamed(found) == {"base": "base", "a": "a", "b": "b2"}
    assert {own.fate for own in changes.members(OLD, list(reversed(OLD)))} == {"kept"}


def test_a_trait_that_came_weighs_nothing_before():
    new = [
        row | {"weight_safety": 0.1, "weight_humor": row["weight_humor"] - 0.1} for row in OLD[1:3]
    ]
    found = changes.members(OLD[1:3], new)
    assert [(own.fate, own.moved) for own in found] == [("moved", 0.1)] * 2


def test_rerouted_users_are_counted_by_group_and_who_follows_a_member_is_not_one():
    before = {"u1": ("seen", "a"), "u2": ("seen", "b"), "u3": ("seen", "c"), "u4": ("unseen", "a")}
    before |= {"u5": ("unseen", "base"), "u6": ("unseen", "a")}
    after = {"u1": ("seen", "d"), "u2": ("seen", "b2"), "u3": ("seen", "a"), "u4": ("unseen", "a")}
    after |= {"u5": ("unseen", "base"), "u7": ("seen", "a")}
    names = {"base": "base", "a": "a", "b": "b2"}
    assert changes.rerouted(before, after, names) == [
        changes.Rerouted("seen", users=3, rerouted=2, new=1, gone=0),
        changes.Rerouted("unseen", users=2, rerouted=0, new=0, gone=1),
    ]


ROUTED = st.dictionaries(
    st.sampled_from([f"u{i}" for i in range(9)]), st.sampled_from("abc"), min_size=1
)


@given(ROUTED, st.data())
def test_counts_alone_never_claim_more_than_is_so(before, data):
    names = {"a": "a", "b": "b2"}
    after = {user: data.draw(st.sampled_from(["a", "b2", "d"])) for user in before}
    groups = {user: "seen" if user < "u5" else "unseen" for user in before}
    exact = changes.rerouted(
        {user: (groups[user], own) for user, own in before.items()},
        {user: (groups[user], own) for user, own in after.items()},
        names,
    )
    counts = [
        served(*((*key, n) for key, n in Counter((groups[u], own[u]) for u in own).items()))
        for own in (before, after)
    ]
    for least, true in zip(changes.least_rerouted(*counts, names), exact, strict=True):
        assert (least.group, least.users, least.new, least.gone) == (true.group, true.users, 0, 0)
        assert 0 <= least.rerouted <= true.rerouted


def test_the_same_run_is_told_as_such():
    text = told(RUN)
    assert text.startswith("<!-- palette diff -->\n## palette: PASS, ε 4.55%, 2 members\n")
    assert "`dvc repro` has nothing to run" in text and "Nobody was seen to be re-routed" in text
    for title in ("Parameters", "Members", "Methods", "Traits", "Pictures", "Artifacts", "Samples"):
        assert f"### {title}" not in text


def test_what_changed_is_told_and_nothing_else():
    worse = METRICS | {
        "certificate.passed": 0, "certificate.epsilon.upper": None, "portfolio.size": 3,
        "objective.portfolio": 0.60, "objective.portfolio.low": 0.59,
        "objective.portfolio.high": 0.61, "trait.humor.portfolio": 0.55,
    }  # fmt: skip
    after = replace(
        RUN, metrics=worse, members=NEW, params={"portfolio.epsilon": 0.06, "plan.lattice": [1]},
        served=served(("seen", "a", 1), ("seen", "b2", 5), ("unseen", "d", 1)),
        samples=said(base="b", a="A", b2="other", d="new"), pictures={"reports/simplex.svg": b"2"},
        outputs={"data/plan.json": "3", "data/new": "4"},
        makers={"data/plan.json": "plan", "data/new": "routes"},
    )  # fmt: skip
    text = told(after, standing=Staleness({"plan": ["src/x.py is modified"]}, ["routes"]))
    for line in (
        "## palette: PASS → FAIL, ε 4.55% → ε none, 2 members → 3 members",
        "| src/x.py is modified | `plan` |", "may run too: `routes`.",
        "| verdict | PASS | **FAIL** |", "| ε certified | 4.55% | **none** |",
        "| ε asked | 5.00% | 5.00% |",
        "| portfolio.epsilon | 0.05 | 0.06 |", r"| plan.lattice | not there | \[1\] |",
        "| member | 1 added, 1 dropped, 1 kept, 1 moved | users | share on certify |",
        "| b → b2 | moved by 5% | 2 | 0.9 |", "| c | dropped | 2 | 0.9 |", "| d | added | 2 | 0.9 |",
        "| seen | 6 | 3 (50%) | 0 | 0 |", "| unseen | 1 | 1 (100%) | 0 | 0 |", "At least so many",
        "| portfolio | 0.650 (0.640 to 0.660) | 0.600 (0.590 to 0.610) | 0.800 | 0.800 | **apart** |",
        "| humor, portfolio | 0.500 (0.400 to 0.600) | 0.550 (0.400 to 0.600) | overlap |",
        "![reports/simplex.svg](reports/simplex.svg)",
        "| `plan` | `data/plan.json` |", "| `gone` | `data/old` (gone) |",
        "| `routes` | `data/new` (new) |",
        "<code>b2</code></td><td><code>B</code></td><td><code>other</code>",
        "<code>c</code></td><td><code>C</code></td><td></td>",
        "<code>d</code></td><td></td><td><code>new</code>",
    ):  # fmt: skip
        assert line in text, line
    assert "soup" not in text and "<code>a</code>" not in text and "<code>base</code>" not in text
    page = Page(text)
    assert page.tags["table"] == 9 and page.tags["img"] == 1 and not page.tags["a"]


def test_exact_counts_are_told_where_both_runs_routes_are_there():
    routes = {"u1": ("seen", "a"), "u2": ("seen", "b")}
    after = replace(RUN, routes={"u1": ("seen", "b"), "u2": ("seen", "b")})
    text = told(after, before=replace(RUN, routes=routes))
    assert "| seen | 2 | 1 (50%) | 0 | 0 |" in text and "Counted user by user" in text
    assert "u1" not in text


def test_what_a_commit_does_not_have_is_said():
    text = told(RUN, before=EMPTY)
    assert "## palette: PASS, ε 4.55%, 2 members" in text
    assert "`main` has no reports/routes.csv" in text
    assert "`main` has no reports/samples.json" in text
    assert "the working tree has no reports/samples.json" in told(EMPTY)
    assert "## palette: no report yet" in told(EMPTY) and told(EMPTY, before=EMPTY)


def test_the_text_of_models_is_inert():
    after = replace(RUN, samples=said(base=EVIL, a=EVIL + "‮\x00", b="B", c="C"))
    after.samples[0]["prompt"] = RUN.samples[0]["prompt"]
    page = Page(told(after))
    assert set(page.tags) <= {
        "h2", "h3", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "strong", "details",
        "summary",
    }  # fmt: skip
    for sign in ("@octocat", "#1", "e.org", "alert"):
        assert sign not in page.loose
    assert literal("a\x00‮\n\n b") == "<code>a b</code>"
    assert len(literal("y" * 9999)) < CUT + 20
    page = Page(told(replace(RUN, params={EVIL: EVIL}), standing=Staleness({"s": [EVIL]}, [])))
    assert not set(page.tags) & {"a", "img", "script"}


@pytest.mark.parametrize("many", [1, 30, 200])
@pytest.mark.parametrize("sign", ["&", "word ", "|"])
def test_it_is_never_longer_than_a_comment_may_be(many, sign):
    names = [f"member-{i}" for i in range(many)]
    rows = [member(name, i / many, users=i) for i, name in enumerate(names)]
    prompts = [
        said(**{name: sign * 999 for name in names})[0] | {"prompt": f"p{i}"} for i in range(9)
    ]
    quiet = [said(**{name: "" for name in names})[0] | {"prompt": f"p{i}"} for i in range(9)]
    before = replace(RUN, samples=quiet, members=rows)
    after = replace(
        RUN, samples=prompts, members=rows, params={f"k{i}": sign * 999 for i in range(many)},
        outputs={f"data/{i}": "x" for i in range(many)},
        makers={f"data/{i}": f"s{i}" for i in range(many)},
    )  # fmt: skip
    standing = Staleness({name: [sign * 300] * 8 for name in names}, names)
    text = told(after, before=before, standing=standing)
    assert len(text) <= markdown.LONGEST < 65_536
    assert ("*No room here for:" in text) == (many > 1)


@pytest.mark.parametrize("old, new, said", [
    ({"a": {"b": 1, "c": []}}, {"a": {"b": 1, "c": []}}, []),
    ({"a": {"b": 1}}, {"a": {"b": 1.5}, "d": {}}, [("a.b", 1, 1.5), ("d", "not there", {})]),
    ({"a": {"b": 1}}, {"a": 2}, [("a.b", 1, "not there"), ("a", "not there", 2)]),
])  # fmt: skip
def test_params_differ_by_dotted_keys(old, new, said):
    assert list(changes.differing(changes.flat(old), changes.flat(new))) == said
