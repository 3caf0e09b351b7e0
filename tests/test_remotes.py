"""Remotes and the store, in a folder and on S3: a second clone computes nothing that a first one did.

The S3 is moto's server, a program that speaks S3 over HTTP, on this machine's loopback.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tiny_chain import OF_MEMBERS
from tiny_project import Project

from palette import adapters, tables
from palette.errors import PaletteError
from palette.lm import training
from palette.store import Store, key

BUCKET = "team"
NAME = key("anything")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3 server with one bucket, which this process's environment names."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    url = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield url
    server.stop()


def contents(project: Project) -> dict[str, str]:
    """file → hash of everything under data/ and reports/."""
    return {
        str(path.relative_to(project.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("data", "reports")
        for path in (project.root / folder).rglob("*")
        if path.is_file()
    }


def with_remote(project: Project, url: str, **settings: str) -> Project:
    """As `dvc remote add --default team URL` leaves it, committed."""
    lines = [f"{name} = {value}" for name, value in ({"url": url} | settings).items()]
    config = ["[core]", "remote = team", "['remote \"team\"']", *lines]
    (project.root / ".dvc/config").write_text("\n".join(config))
    project.commit("where the data is")
    return project


def expect_same(second: Project, wanted: dict[str, str]) -> None:
    """Everything is there, nothing has run, and git and the gate see no difference."""
    assert second.ran() == []
    assert contents(second) == wanted
    assert second.must("git", "status", "--porcelain") == ""
    assert second.palette("stale").status == 0


def test_a_clone_with_git_and_a_folder_has_the_report_and_runs_nothing(reproduced, tmp_path):
    first = with_remote(reproduced.copy(tmp_path / "first"), str(tmp_path / "remote"))
    first.dvc("push", "--quiet", "--run-cache")
    second = first.clone(tmp_path / "second")
    assert not (second.root / "data").exists()
    second.dvc("repro", "--quiet", "--pull")
    expect_same(second, contents(first))


def test_a_clone_with_git_and_a_bucket_has_every_run_and_runs_nothing(reproduced, s3, tmp_path):
    first = with_remote(reproduced.copy(tmp_path / "first"), f"s3://{BUCKET}/dvc", endpointurl=s3)
    wanted = contents(first)
    first.dvc("push", "--quiet", "--run-cache")
    first.set("portfolio", epsilon=0.3)  # a run that nobody commits
    first.dvc("repro", "--quiet")
    first.dvc("push", "--quiet", "--run-cache")

    second = first.clone(tmp_path / "second")
    second.dvc("pull", "--quiet", "--run-cache")
    second.dvc("repro", "--quiet")
    expect_same(second, wanted)
    second.set("portfolio", epsilon=0.3)
    second.dvc("repro", "--quiet", "--pull")
    # The report is git's, and what no cache has DVC makes anew; all else was run by the first clone.
    assert second.ran() == ["report"]
    assert contents(second) == contents(first)


@pytest.fixture
def bucket(s3, tmp_path) -> str:
    """A store's URL of its own; no listing of an earlier test is remembered."""
    fsspec.filesystem("s3").clear_instance_cache()
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_an_adapter_that_one_clone_stored_another_finds(built, bucket, tmp_path, monkeypatch):
    params = OF_MEMBERS.model_copy(
        update={"runtime": OF_MEMBERS.runtime.model_copy(update={"store": bucket})}
    )
    made = []
    for name in ("first", "second"):
        shutil.copytree(built, tmp_path / name)
        shutil.rmtree(tmp_path / name / "store")
        shutil.rmtree(tmp_path / name / tables.DATA / "adapters")
        monkeypatch.chdir(tmp_path / name)
        adapters.main(params)
        made.append({
            str(path): path.read_bytes()
            for path in sorted((tables.DATA / "adapters").rglob("*")) if path.is_file()
        })  # fmt: skip
        assert not Path("store").exists()
        monkeypatch.setattr(training, "train_members", None)  # whoever trains after this fails
    assert any(path.endswith("adapter_model.safetensors") for path in made[0])
    assert made[0] == made[1]


def test_a_store_on_s3_is_as_one_in_a_folder(bucket):
    files = {"a.bin": b"\x00\xff" * 100_000, "empty": b"", "deep/b.json": b"{}"}
    one = Store(bucket)
    fsspec.filesystem("s3").clear_instance_cache()
    other = Store(bucket)
    assert one.filesystem is not other.filesystem
    assert not other.has(NAME) and other.load(NAME) is None
    one.save(NAME, files)
    assert other.has(NAME) and other.load(NAME) == files
    one.save(NAME, {"a.bin": b"new"})
    assert other.load(NAME) == {"a.bin": b"new"}
    assert [path.rsplit("/", 1)[1] for path in one.filesystem.find(bucket)] == [NAME]
    other.delete(NAME)
    assert one.load(NAME) is None and not other.has(NAME)
    other.delete(NAME)


def test_a_store_that_cannot_be_reached_is_one_sentence(bucket, monkeypatch):
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = Store(bucket)
    for call, done in (
        (lambda: store.has(NAME), "read"), (lambda: store.load(NAME), "read"),
        (lambda: store.save(NAME, {}), "written to"), (lambda: store.delete(NAME), "written to"),
    ):  # fmt: skip
        with pytest.raises(PaletteError) as error:
            call()
        assert str(error.value).startswith(f"runtime.store '{bucket}' cannot be {done}: ")
        assert "\n" not in str(error.value)
