"""Everything that was ever found by ``python -m tests.fuzz``, and a few new things by chance.

This is fast, and needs nothing; searching is not: see CONTRIBUTING.rst.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as runner
from tests.fuzz import targets as targets_module
from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.watch import nothing_happens

#: So many new inputs does a target get, as a rule.
EXAMPLES = 60


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*") if path.is_file())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_and_the_corpus(name: str) -> None:
    target = TARGETS[name]
    target.run(b"")  # what is imported and remembered once is not what the data takes
    for number, data in enumerate(seeds_of(name)):
        _measure(target, data, f"seed {number}")
    for file in files_of(runner.CORPUS / name):
        _measure(target, file.read_bytes(), str(file))


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, file) for name in TARGETS for file in files_of(runner.REGRESSIONS / name)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_what_was_wrong_once(name: str, file: Path) -> None:
    target = TARGETS[name]
    target.run(b"")
    _measure(target, file.read_bytes(), str(file))


def _measure(target: Target, data: bytes, what: str) -> None:
    try:
        target.measure(data)
    except Exception as exc:
        raise AssertionError(f"{what}: {data!r}") from exc


@pytest.mark.parametrize("name", TARGETS)
def test_new_things(name: str) -> None:
    target = TARGETS[name]
    known = st.sampled_from(seeds_of(name))
    changed = st.builds(
        lambda data, start, size, new: data[:start] + new + data[start + size :],
        known,
        st.integers(0, 64),
        st.integers(0, 8),
        st.binary(max_size=8),
    )

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200) | changed)
    def check(data: bytes) -> None:
        target.run(data)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_small(name: str) -> None:
    files = files_of(runner.CORPUS / name)
    assert len(files) <= runner.MOST_FILES
    assert sum(file.stat().st_size for file in files) <= runner.MOST_BYTES


def test_every_directory_belongs_to_a_target() -> None:
    for directory in (runner.CORPUS, runner.REGRESSIONS):
        found = {path.name for path in directory.glob("*") if path.is_dir()}
        assert found <= set(TARGETS)


# What finds things has to find things.


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(data: bytes) -> None:
        if data:
            bytearray(1 << 20)

    monkeypatch.setitem(targets_module.TARGETS, "frames", Target(grow))


@pytest.mark.usefixtures("broken")
def test_growth_is_found(tmp_path: Path) -> None:
    TARGETS["frames"].run(b"x")
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(AssertionError, match=r"1 bytes take \d{7} bytes of memory"):
        runner.run_files("frames", [file])


def test_what_a_reader_does_is_seen() -> None:
    with pytest.raises(AssertionError, match="open"), nothing_happens():
        Path(__file__).read_bytes()
    with nothing_happens():
        assert sorted([2, 1]) == [1, 2]
    with pytest.raises(AssertionError, match=r"pickle\.find_class"), nothing_happens():
        pickle.loads(b"cbuiltins\nlen\n.")


@pytest.mark.slow
def test_the_command_finds_what_is_wrong(tmp_path: Path) -> None:
    """Where there is no atheris, too; and it says which input it was."""
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys\n"
        "from tests.fuzz import driver, targets\n"
        "def fail(data):\n"
        "    assert b'\\xff' not in data, 'found'\n"
        "targets.TARGETS['frames'] = targets.Target(fail)\n"
        "sys.exit(driver.main(sys.argv[1:]))\n",
        "utf-8",
    )
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    (seeds / "one").write_bytes(b"seed")
    done = subprocess.run(
        [sys.executable, str(script), "chance", "frames", "30", f"{tmp_path}/", str(seeds)],
        cwd=runner.ROOT,
        env={**os.environ, "PYTHONPATH": str(runner.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77, done.stdout + done.stderr
    (crash,) = tmp_path.glob("crash-*")
    assert b"\xff" in crash.read_bytes()
    assert str(crash) in done.stdout
