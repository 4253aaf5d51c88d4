"""Every source that takes a lock, through clang's thread-safety analysis: what is guarded is touched under its lock.

    thread_safety_test.py BUILD CLANG        BUILD/compile_commands.json says how each source is compiled
"""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = re.compile(r"ABSL_(PT_)?GUARDED_BY|ABSL_EXCLUSIVE_LOCKS_REQUIRED|MutexLock")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
WITH_VALUE = {"-o", "-MF", "-MT"}  # flags whose next word goes with them
LEFT_OUT = {"-c", "-MD", "-Winvalid-pch", "-fpch-preprocess", "-Wno-maybe-uninitialized", "-Wno-restrict"}  # GCC's


def analysed(command: list[str], source: str, clang: str) -> list[str]:
    """GCC's command line as clang's, without output and without the precompiled header, which is GCC's own."""
    flags, words = [], iter(command[: command.index(source)])
    for word in words:
        if word in WITH_VALUE:
            next(words)
        elif word == "-include":
            if "cmake_pch" not in (header := next(words)):
                flags += [word, header]
        elif word.startswith("-") and word not in LEFT_OUT:
            flags.append(word)
            if word in ("-isystem", "-idirafter"):
                flags.append(next(words))
    return [clang, *flags, "-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Werror=thread-safety", source]


def locks(source: Path) -> bool:
    """A header is analysed with the source of its name, or, where there is none, with those that include it."""
    text = source.read_text()
    headers = [ROOT / name for name in INCLUDE.findall(text)]
    own = [h for h in headers if h.exists() and (h == source.with_suffix(".h") or not h.with_suffix(".cc").exists())]
    return any(LOCKS.search(part) for part in (text, *(header.read_text() for header in own)))


def faults(entry: dict[str, str], clang: str) -> str:
    done = subprocess.run(
        analysed(shlex.split(entry["command"]), entry["file"], clang), cwd=entry["directory"], capture_output=True, text=True
    )
    return done.stderr if done.returncode else ""


def main(build: Path, clang: str) -> int:
    entries = json.loads((build / "compile_commands.json").read_text())
    ours = [e for e in entries if (path := Path(e["file"])).is_relative_to(ROOT) and build not in path.parents]
    chosen = list({e["file"]: e for e in ours if locks(Path(e["file"]))}.values())
    if len(chosen) < 20:
        print(f"only {len(chosen)} sources with locks in {build}/compile_commands.json: that cannot be all")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.cc"
        wrong.write_text(
            '#include "common/mutex.h"\nstruct S { sibyl::Mutex m; int x ABSL_GUARDED_BY(m); int X() { return x; } };\n'
        )
        command = chosen[0]["command"].replace(chosen[0]["file"], str(wrong))
        if "thread-safety" not in faults({**chosen[0], "file": str(wrong), "command": command}, clang):
            print("clang does not report a guarded member that is read without its lock")
            return 1
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [text for text in pool.map(lambda entry: faults(entry, clang), chosen) if text]
    print("\n".join(found) or f"{len(chosen)} sources, nothing wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2]))
