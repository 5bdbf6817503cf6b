"""Replacement of files and directories: the old one or the new one, whatever happens."""

import errno
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import run_and_kill

from screc.storage import atomic
from screc.storage.atomic import replace_directory, replace_file

SRC = str(Path(atomic.__file__).parents[2])


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if ".tmp-" in entry.name]


def put(target: Path, text: str, **more) -> None:
    with replace_directory(target, **more) as directory:
        (directory / "sub").mkdir()
        (directory / "a.txt").write_text(text)
        (directory / "sub" / "b.txt").write_text(text)


def test_creates_parents_and_replaces_whole(tmp_path):
    target = tmp_path / "x" / "y" / "target"
    put(target, "one")
    (target / "extra").write_text("only in the old one")
    put(target, "two")
    assert (target / "sub" / "b.txt").read_text() == "two"
    assert not (target / "extra").exists()
    assert leftovers(target.parent) == []


def test_an_error_leaves_everything_as_it_was(tmp_path):
    target = tmp_path / "target"
    put(target, "one")

    def fail(place: Path) -> None:
        with replace_directory(place) as directory:
            (directory / "a.txt").write_text("half")
            raise KeyError("stop")

    for place in (target, tmp_path / "new"):
        with pytest.raises(KeyError):
            fail(place)
    assert (target / "a.txt").read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_only_our_directories_are_replaced(tmp_path):
    target = tmp_path / "home"
    target.mkdir()
    put(target, "empty ones may be", holding="a.txt")
    put(target, "so may ours", holding="a.txt")
    (target / "a.txt").rename(target / "letters.txt")
    with pytest.raises(
        FileExistsError, match=r"home exists and is not ours to replace \(it holds no a.txt\)"
    ):
        put(target, "no", holding="a.txt")
    assert (target / "letters.txt").read_text() == "so may ours"
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        put(tmp_path / "file", "no")
    with pytest.raises(IsADirectoryError, match="home is a directory"), replace_file(target):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="pipe is not a regular file"), replace_file(tmp_path / "pipe"):
        pass
    with pytest.raises(ValueError, match="below the root"):
        put(Path("/"), "no")


def test_symbolic_links_are_followed(tmp_path):
    put(tmp_path / "real", "one")
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "two"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    target = tmp_path / "target"
    for name in (".target.tmp-999999999-0a", ".target.tmp-1-0b", ".target.tmp-5-0c-probe"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / ".target.tmp-7-0d").write_text("a file")
    others = [".target2.tmp-1-0a", ".target.tmp-x", "target.tmp-1-0a"]
    for name in others:
        (tmp_path / name).mkdir()
    with replace_directory(target) as first:
        (first / "a.txt").write_text("first")
        put(target, "second")
        assert (first / "a.txt").exists()
    assert (target / "a.txt").read_text() == "first"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, "target"])


def test_a_locked_temporary_of_another_process_stays(tmp_path):
    code = (
        "import sys, time\nfrom screc.storage.atomic import replace_directory\n"
        "with replace_directory(sys.argv[1]) as d:\n print(d, flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "t")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SRC},
        text=True,
    ) as writer:
        temporary = Path(writer.stdout.readline().strip())
        put(tmp_path / "t", "ours")
        assert temporary.exists()
        writer.kill()
        writer.wait()
    put(tmp_path / "t", "ours")
    assert not temporary.exists()


def test_replace_file(tmp_path):
    target = tmp_path / "deep" / "file.json"
    for text in ("one", "two"):
        with replace_file(target) as temporary:
            assert temporary.parent == target.parent
            temporary.write_text(text)
        assert target.read_text() == text

    def fail():
        with replace_file(target) as temporary:
            temporary.write_text("half")
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    assert target.read_text() == "two"
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("replace", [replace_directory, replace_file])
def test_a_full_disk_says_what_to_do(tmp_path, replace, code):
    target = tmp_path / "target"

    def fill():
        with replace(target):
            raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=r"while writing .*target; free space there or choose another") as info:
        fill()
    assert info.value.errno == code
    with replace(target):
        pass
    with pytest.raises(OSError, match="target; what was there is unchanged; free space"):
        fill()
    assert target.exists()
    assert leftovers(tmp_path) == []


def test_a_file_size_limit_is_a_full_disk(tmp_path):
    put(tmp_path / "target", "old")
    code = (
        "import resource, sys\nfrom screc.storage.atomic import replace_directory\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n with replace_directory(sys.argv[1]) as d:\n  (d / 'a.txt').write_bytes(bytes(10000))\n"
        "except OSError as error:\n print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "target")],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "what was there is unchanged; free space there" in done.stdout
    assert (tmp_path / "target" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_file_system_without_exchange_is_told_before_the_work(tmp_path, monkeypatch):
    put(tmp_path / "target", "old")

    def refuse(first, second):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(atomic, "_exchange", refuse)
    with pytest.raises(
        OSError, match=r"cannot exchange two directories .* remove it first, choose a new path"
    ):
        put(tmp_path / "target", "new")
    put(tmp_path / "other", "a new path needs no exchange")
    assert (tmp_path / "target" / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(atomic, "_sync", lambda path: order.append(path.name))
    place = atomic._put_in_place
    monkeypatch.setattr(atomic, "_put_in_place", lambda a, b: (order.append("rename"), place(a, b)))
    put(tmp_path / "target", "text")
    before = order[: order.index("rename")]
    assert {"a.txt", "b.txt", "sub"} < set(before)
    assert order[-1] == tmp_path.name


def test_killed_at_any_moment(tmp_path):
    """A writer that replaces a directory over and over is killed; what is there is one whole generation."""
    target, rng = tmp_path / "target", random.Random(0)

    def write_generations():
        for generation in itertools.count():
            with replace_directory(target) as directory:
                for i in range(20):
                    (directory / str(i)).write_text(str(generation))

    for _ in range(40):
        run_and_kill(write_generations, after=rng.random() * 0.05)
        if target.exists():
            generations = {(target / str(i)).read_text() for i in range(20)}
            assert len(generations) == 1
            assert len(list(target.iterdir())) == 20
    put(target, "last")
    assert leftovers(tmp_path) == []
