"""Every source that takes a lock, through clang's thread-safety analysis: what is guarded is touched under its lock.

    thread_safety_test.py BUILD CLANG        BUILD/compile_commands.json says how each source is compiled

BUILD/thread_safety keeps what a later run need not do again: the libraries' headers, precompiled, and a stamp for each
source that passed. A stamp names the command and the contents of all files that clang read; as long as they are the
same, the source is not analysed again.
"""
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = re.compile(r"ABSL_(PT_)?GUARDED_BY|ABSL_EXCLUSIVE_LOCKS_REQUIRED|MutexLock")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
LIBRARY_INCLUDE = re.compile(r'^#include (<[^>]+>|"absl/[^"]+")', re.MULTILINE)
WITH_VALUE = ("-isystem", "-idirafter", "-include", "--param", "-o", "-MF", "-MT")  # flags whose next word goes with them
# What of GCC's command clang reads headers by; everything else is about output, warnings and GCC itself.
KEPT = re.compile(r"-(D|I|isystem |idirafter |std=|O|pthread|f(no-)?exceptions)")
ANALYSIS = ["-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Werror=thread-safety"]
# A precompiled header stays valid when its files get new times and keep their contents.
SAME_CONTENT = ["-Xclang", "-fvalidate-ast-input-files-content"]
WRONG = '#include "common/mutex.h"\nstruct S { sibyl::Mutex m; int x ABSL_GUARDED_BY(m); int X() { return x; } };\n'


@cache
def digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def flags_of(entry: dict[str, str]) -> list[str]:
    """The flags that say what a source means; a flag and its value are one item."""
    words = iter(shlex.split(entry["command"])[1:])
    joined = (f"{word} {next(words)}" if word in WITH_VALUE else word for word in words)
    return [flag for flag in joined if KEPT.match(flag)]


def split(flags: list[str]) -> Iterator[str]:
    for flag in flags:
        yield from flag.split(" ", 1) if flag.startswith(WITH_VALUE) else (flag,)


def locks(source: Path) -> bool:
    """A header is analysed with the source of its name, or, where there is none, with those that include it."""
    text = source.read_text()
    headers = [ROOT / name for name in INCLUDE.findall(text)]
    own = [h for h in headers if h.exists() and (h == source.with_suffix(".h") or not h.with_suffix(".cc").exists())]
    return any(LOCKS.search(part) for part in (text, *(header.read_text() for header in own)))


def library_headers(file: Path, seen: set[Path]) -> set[str]:
    """The libraries' headers that a file of the tree includes, through other files of the tree too."""
    seen.add(file)
    text = file.read_text()
    found = set(LIBRARY_INCLUDE.findall(text))
    for header in (ROOT / name for name in INCLUDE.findall(text)):
        if header not in seen and header.exists():
            found |= library_headers(header, seen)
    return found


class Group:
    """Sources that see the same libraries, and those libraries' headers, precompiled."""

    def __init__(self, name: str, entries: list[dict[str, str]], folder: Path, clang: str):
        self.entries, self.clang, self.folder = entries, clang, folder
        self.version = subprocess.run([clang, "--version"], capture_output=True, text=True, check=True).stdout
        self.header, self.precompiled = folder / f"{name}.h", folder / f"{name}.pch"

    def stamp(self, inputs: Path, command: list[str], above: str) -> str:
        files = inputs.read_text().splitlines() if inputs.exists() else []
        if not files or not all(map(os.path.exists, files)):
            return ""
        parts = [self.version, digest(__file__), above, *command, *(f"{digest(file)} {file}" for file in files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def once(self, name: Path, command: list[str], above: str = "") -> str:
        """What clang finds wrong. Clang does not run where the stamp says that it found nothing in the same files."""
        inputs, stamp = name.with_suffix(".inputs"), name.with_suffix(".stamp")
        if stamp.exists() and stamp.read_text() == self.stamp(inputs, command, above):
            return ""
        stamp.unlink(missing_ok=True)
        done = subprocess.run([self.clang, *command, "-MD", "-MF", inputs], capture_output=True, text=True)
        if done.returncode:
            return done.stderr
        inputs.write_text("\n".join(inputs.read_text().replace("\\\n", " ").split(": ", 1)[1].split()))
        stamp.write_text(self.stamp(inputs, command, above))
        return ""

    def prepare(self) -> str:
        """Precompiles the headers that several sources include; then a planted fault must be found."""
        times: Counter[str] = Counter()
        for entry in self.entries:
            times.update(library_headers(Path(entry["file"]), set()))
        self.header.write_text("".join(f"#include {name}\n" for name, count in sorted(times.items()) if count > 2))
        flags = list(dict.fromkeys(f for entry in self.entries for f in flags_of(entry) if not f.startswith("-DSIBYL_")))
        command = [*split(flags), "-w", "-x", "c++-header", "-fpch-instantiate-templates",
                   *SAME_CONTENT, str(self.header), "-o", str(self.precompiled)]
        if wrong := self.once(self.precompiled, command):
            return wrong
        planted = self.folder / "planted_fault.cc"
        planted.write_text(WRONG)
        found = subprocess.run([self.clang, *self.analysis(flags, planted)], capture_output=True, text=True)
        if found.returncode == 0 or "-Wthread-safety" not in found.stderr:
            return "clang does not report a guarded member that is read without its lock\n" + found.stderr
        return ""

    def analysis(self, flags: list[str], source: Path) -> list[str]:
        return [*split(flags), *SAME_CONTENT, "-include-pch", str(self.precompiled), *ANALYSIS, str(source)]

    def faults(self, entry: dict[str, str]) -> str:
        source = Path(entry["file"])
        name = self.folder / str(source.relative_to(ROOT)).replace("/", "_")
        return self.once(name, self.analysis(flags_of(entry), source), self.precompiled.with_suffix(".stamp").read_text())


def main(build: Path, clang: str) -> int:
    entries = json.loads((build / "compile_commands.json").read_text())
    ours = [e for e in entries if (path := Path(e["file"])).is_relative_to(ROOT) and build not in path.parents]
    chosen = list({e["file"]: e for e in ours if locks(Path(e["file"]))}.values())
    if len(chosen) < 20:
        print(f"only {len(chosen)} sources with locks in {build}/compile_commands.json: that cannot be all")
        return 1
    folder = build / "thread_safety"
    folder.mkdir(exist_ok=True)
    torch = [e for e in chosen if "-idirafter" in e["command"]]
    groups = [Group("torch", torch, folder, clang), Group("others", [e for e in chosen if e not in torch], folder, clang)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [text for text in pool.map(Group.prepare, groups) if text]
        if not found:
            work = [(group, entry) for group in groups for entry in group.entries]
            found = [text for text in pool.map(lambda item: item[0].faults(item[1]), work) if text]
    print("\n".join(found) or f"{len(chosen)} sources, nothing wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2]))
