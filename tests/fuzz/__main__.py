"""Feeds what reads bytes from others with what they might send, for as long as you like.

::

    python -m tests.fuzz                                all targets, 20 seconds each
    python -m tests.fuzz pickles json --seconds 3600    two of them, for an hour each
    python -m tests.fuzz all --seconds 600 --keep       keep what reaches new code
    python -m tests.fuzz pickles FILE...                run these files through a target
    python -m tests.fuzz --list                         what targets there are

With atheris (the extra "fuzz"; there are wheels for Linux) the search is guided by which
code is reached; without it, what is known is changed by chance, and this says so. It
starts with tests/fuzz/seeds.py, tests/fuzz/corpus and tests/fuzz/regressions, and with
what was found before on this machine, in build/fuzz.

A target fails if it raises, takes longer than 10 seconds or more memory than the size of
the input justifies. Then the input is in build/fuzz, it is said how to run it again, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.seeds import seeds_of
from tests.fuzz.targets import TARGETS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORPUS = HERE / "corpus"
REGRESSIONS = HERE / "regressions"
#: What is found here and not kept.
FOUND = ROOT / "build" / "fuzz"

#: What one target may have in the corpus.
MOST_FILES = 100
MOST_BYTES = 100 * 1024

#: So long may one input take, in seconds, and so much memory the process, in MiB.
TIMEOUT = 10
MEMORY = 1024

#: Beyond the time that is asked for: to start, read the corpus, and end, in seconds.
GRACE = 120


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets", nargs="*", default=["all"], help="names, all, or a name and files to run"
    )
    parser.add_argument(
        "--seconds", type=int, default=20, metavar="N", help="for each target (default: 20)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="targets at a time (default: one for each core)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="search in the same way each time, with atheris (default: 0, in another way)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="put what reaches new code into tests/fuzz/corpus"
    )
    parser.add_argument("--list", action="store_true", help="only say what targets there are")
    options = parser.parse_args(arguments)
    if options.list:
        for name, target in TARGETS.items():
            print(f"{name:14}{(target.run.__doc__ or '').splitlines()[0]}")
        return 0
    files = [Path(word) for word in options.targets if word not in TARGETS and word != "all"]
    names = [word for word in options.targets if word in TARGETS]
    if "all" in options.targets:
        names = list(TARGETS)
    if files:
        missing = [str(file) for file in files if not file.is_file()]
        if len(names) != 1 or missing:
            parser.error(f"neither a target nor a file: {' '.join(missing or map(str, files))}")
        return run_files(names[0], files)
    is_guided = importlib.util.find_spec("atheris") is not None
    if not is_guided:
        print("atheris is not installed: what is known is changed by chance", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(
            pool.map(
                lambda name: fuzz(name, options.seconds, options.seed, is_guided, options.keep),
                names,
            )
        )
    return 1 if failed else 0


def run_files(name: str, files: list[Path]) -> int:
    """Run files through a target; what it raises comes out."""
    for file in files:
        data = file.read_bytes()
        print(f"{file}: {data[:200]!r}", flush=True)
        start = time.perf_counter()
        TARGETS[name].measure(data)
        print(f"    nothing is wrong, after {time.perf_counter() - start:.3f} seconds")
    return 0


def fuzz(name: str, seconds: int, seed: int, is_guided: bool, keep: bool) -> bool:
    """Search for what is wrong with a target; whether something was found."""
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    crashes = f"{FOUND}{os.sep}{name}-"
    with tempfile.TemporaryDirectory() as temporary:
        seeds = _write_seeds(name, Path(temporary))
        known = [path for path in (seeds, CORPUS / name, REGRESSIONS / name) if path.is_dir()]
        if is_guided:
            command = ["atheris", name, *_libfuzzer(name, crashes), "-print_final_stats=1"]
            command += [f"-seed={seed}", f"-max_total_time={seconds}", str(found), *map(str, known)]
        else:
            command = ["chance", name, str(seconds), crashes, *map(str, [*known, found])]
        output, status = _drive(command, seconds + GRACE)
        (FOUND / f"{name}.log").write_text(output, "utf-8")
        print(_summary(name, output), flush=True)
        if status != 0:
            _explain(name, output)
            return True
        if keep and is_guided:
            _keep(name, Path(temporary), known, found)
    return False


def _write_seeds(name: str, directory: Path) -> Path:
    path = directory / "seeds"
    path.mkdir()
    for number, data in enumerate(seeds_of(name)):
        (path / f"seed-{number:03}").write_bytes(data)
    return path


def _libfuzzer(name: str, crashes: str) -> list[str]:
    return [
        f"-max_len={TARGETS[name].max_size}",
        f"-timeout={TIMEOUT}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={crashes}",
    ]


def _drive(arguments: list[str], timeout: float) -> tuple[str, int]:
    """What :mod:`tests.fuzz.driver` printed, and its exit status."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.driver", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        output = exc.stdout or b""
        text = output if isinstance(output, str) else output.decode("utf-8", "replace")
        return f"{text}\nit did not end within {timeout:.0f} seconds", 1
    return done.stdout, done.returncode


def _summary(name: str, output: str) -> str:
    count = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    speed = re.search(r"stat::average_exec_per_sec:\s*(\d+)", output)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", output)
    line = f"{name:14}{count[1] if count else '?':>10} inputs"
    if speed:
        line += f", {speed[1]} a second"
    if covered:
        line += ", {} edges, {} features, {} in the corpus".format(*covered[-1])
    return line


def _explain(name: str, output: str) -> None:
    lines = [line for line in output.splitlines() if not line.startswith("INFO: Instrumenting")]
    print("\n".join(lines[-100:]))
    written = re.findall(r"Test unit written to (\S+)", output)
    print(f"==== {name} failed ====")
    for path in written:
        regression = (REGRESSIONS / name / Path(path).name.removeprefix(f"{name}-")).relative_to(
            ROOT
        )
        print(f"again:      {sys.executable} -m tests.fuzz {name} {path}")
        print(f"for ever:   mkdir -p {regression.parent} && cp {path} {regression}")
    if not written:
        print(f"all that it said is in {FOUND / name}.log")
    print(flush=True)


def _keep(name: str, temporary: Path, known: list[Path], found: Path) -> None:
    """Make the corpus of a target anew: what reaches code that the seeds do not."""
    merged = temporary / "merged"
    shutil.copytree(temporary / "seeds", merged)
    arguments = ["atheris", name, *_libfuzzer(name, str(temporary) + os.sep), "-merge=1"]
    output, status = _drive([*arguments, str(merged), *map(str, known), str(found)], 600)
    if status != 0:
        print(f"{name}: the corpus is as it was, because it can't be merged: {output[-2000:]}")
        return
    new = [file for file in merged.iterdir() if not file.name.startswith("seed-")]
    new.sort(key=lambda file: (file.stat().st_size, file.name))
    corpus = CORPUS / name
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    size = 0
    for count, file in enumerate(new):
        size += file.stat().st_size
        if count == MOST_FILES or size > MOST_BYTES:
            print(f"{name}: {len(new) - count} larger files are left out")
            break
        shutil.copy(file, corpus / file.name)
    print(f"{name}: {len(list(corpus.iterdir()))} files in the corpus", flush=True)


if __name__ == "__main__":
    sys.exit(main())
