"""The store: whole bundles or none, by keys that say what made them."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palette.errors import PaletteError
from palette.store import SHARED, Store, folder_of, key, of

FILES = {"a.bin": b"\x00\xff" * 10, "empty": b"", "deep/b.json": b"{}"}
NAME = key("anything")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=["folder", "file://", "memory://"])
def store(request, tmp_path):
    if request.param == "memory://":
        root = f"memory://{tmp_path.name}"
        yield Store(root)
        fsspec.filesystem("memory").rm(root, recursive=True)
    else:
        yield Store(request.param.removeprefix("folder") + str(tmp_path / "store"))


def kept(store: Store) -> list[str]:
    return [path.rsplit("/", 1)[1] for path in store.filesystem.find(store.root)]


def test_what_was_saved_is_loaded(store):
    store.save("aa-another", {})  # so that there is a folder to remove
    assert not store.has(NAME)
    assert store.load(NAME) is None
    store.save(NAME, FILES)
    assert store.has(NAME)
    assert store.load(NAME) == FILES
    assert list(store.load(NAME)) == list(FILES)
    store.save(NAME, {"a.bin": b"new"})
    assert store.load(NAME) == {"a.bin": b"new"}
    assert sorted(kept(store)) == sorted([NAME, "aa-another"])


def test_what_was_deleted_is_gone_and_nothing_else(store):
    store.save("aa-another", {})
    store.save(NAME, FILES)
    store.delete(NAME)
    assert not store.has(NAME)
    assert store.load(NAME) is None
    assert kept(store) == ["aa-another"]
    store.delete(NAME)
    store.save(NAME, FILES)
    assert store.load(NAME) == FILES


def test_what_was_made_of_users_lies_apart(store):
    own, other, both = of(NAME, "ann"), of(NAME, "bob"), of(NAME, "ann", "bob")
    assert of(NAME) == NAME and of(NAME, "ann", "ann") == own
    assert "ann" not in own and own.startswith(f"{folder_of('ann')}/")
    assert both.startswith(f"{SHARED}/")
    for name in (NAME, own, other, both):
        store.save(name, FILES)
        assert store.load(name) == FILES
    assert len(store.listed(folder_of("ann"))) == 1
    store.clear(folder_of("ann"))
    assert [store.has(name) for name in (NAME, own, other, both)] == [True, False, True, True]
    store.clear(folder_of("ann"))
    assert store.listed(folder_of("ann")) == []
    store.clear(SHARED)
    assert [store.has(name) for name in (NAME, own, other, both)] == [True, False, True, False]


def test_a_relative_store_stays_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("store")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    store.save(NAME, FILES)
    assert (tmp_path / "store" / NAME[:2] / NAME).is_file()


def test_a_half_written_bundle_is_never_found(tmp_path, monkeypatch):
    store = Store(str(tmp_path))

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(store.filesystem), "mv", die)
    with pytest.raises(KeyboardInterrupt):
        store.save(NAME, FILES)
    monkeypatch.undo()
    assert [name.endswith(".part") for name in kept(store)] == [True]
    assert not store.has(NAME)
    assert store.load(NAME) is None
    store.save(NAME, FILES)
    assert store.load(NAME) == FILES


def test_a_store_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(PaletteError, match=r"runtime\.store 'nothing://x' cannot be used"):
        Store("nothing://x")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PaletteError, match=r"runtime\.store '.*' cannot be written to"):
        Store(str(tmp_path / "file")).save(NAME, FILES)


def test_many_writers_of_one_bundle_leave_a_whole_one(tmp_path):
    contents = [{"x": bytes([i]) * 200_000} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda files: Store(str(tmp_path)).save(NAME, files), contents * 5))
    assert Store(str(tmp_path)).load(NAME) in contents
    assert kept(Store(str(tmp_path))) == [NAME]


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.randoms())
def test_a_key_does_not_hang_on_the_order_of_a_mapping(parts, random):
    names = list(parts)
    random.shuffle(names)
    assert key("made of", parts) == key("made of", {name: parts[name] for name in names})


@given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=3))
def test_keys_of_different_parts_differ(one, other):
    assert (key(*one) == key(*other)) == (json.dumps(one, sort_keys=True) == json.dumps(
        other, sort_keys=True
    ))  # fmt: skip


def test_a_key_tells_apart_what_looks_alike():
    parts = [(1,), (1.5,), ("1",), ([1],), (None,), (1, 2), ([1, 2],), (True,), ("a", "b"), ("ab",)]
    keys = [key(*made) for made in parts]
    assert all(a != b for (i, a), (j, b) in product(enumerate(keys), repeat=2) if i != j)
    assert all(len(found) == 64 for found in keys)
