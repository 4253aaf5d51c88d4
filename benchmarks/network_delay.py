#!/usr/bin/env python3
"""Central against local inference where actors are far away: steps a second of one learner whose actors reach it
through a relay that holds every byte back for a while, each way. Prints a line of JSON for each delay and transport.

    benchmarks/network_delay.py configs/minigrid_doorkey.textproto --delays 0 1 10

The relay stands in for `tc netem`, which asks for root and a kernel that has it; what it costs itself is on the line.
Captions are not rewarded, so that there is nothing but actors and a learner.
"""
import argparse
import asyncio
import json
import multiprocessing
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

BINARIES = Path(__file__).resolve().parent.parent / "build/release/bin"
ACTORS = {"central": "sibyl-actor", "local": "sibyl-actor-local"}


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Passes bytes on in their order, each `delay` seconds after it came."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    delivery = asyncio.create_task(deliver())
    while data := await reader.read(1 << 16):
        waiting.put_nowait((loop.time() + delay, data))
    waiting.put_nowait((loop.time() + delay, b""))
    await delivery


def relay(target: int, delay: float, port: "multiprocessing.connection.Connection") -> None:
    async def serve() -> None:
        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
            ways = (pump(reader, there_writer, delay), pump(there_reader, writer, delay))
            await asyncio.gather(*ways, return_exceptions=True)

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def start(log: Path, program: str, *flags: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen([BINARIES / program, *flags], stdout=out, stderr=out)


def await_number(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> int:
    for _ in range(600):
        if found := re.search(pattern, log.read_text()):
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"{process.args[0]} did not start; it said:\n{log.read_text()[-2000:]}")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steps(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        found = re.search(r"^sibyl_learner_steps_total (\S+)", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def measure(options: argparse.Namespace, transport: str, delay_ms: float, folder: Path) -> dict[str, object]:
    stops: list[Callable[[], object]] = []
    try:
        log = folder / "learner.log"
        sets = ["reward.intrinsic_coefficient=0", "total_steps=1000000000000", f"actor.processes={options.actors}"]
        flags = [f"--set={override}" for override in (*options.set, *sets)]
        learner = start(log, "sibyl-learner", f"--config={options.config}", f"--run_dir={folder}/run",
                        "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", *flags)
        stops.append(lambda: (learner.send_signal(signal.SIGTERM), learner.wait()))
        metrics = await_number(log, r"metrics on port (\d+)", learner)
        target = await_number(log, r"\(port (\d+)\)", learner)
        here, there = multiprocessing.Pipe()
        between = multiprocessing.Process(target=relay, args=(target, delay_ms / 1000, there))
        between.start()
        stops.append(lambda: (between.kill(), between.join()))
        port = here.recv()
        for i in range(options.actors):
            actor = start(folder / f"actor-{i}.log", ACTORS[transport], f"--learner=127.0.0.1:{port}",
                          "--metrics_listen=127.0.0.1:0")
            stops.append(lambda actor=actor: (actor.send_signal(signal.SIGTERM), actor.wait()))
        begin = time.monotonic()
        while steps(metrics) == 0:
            if time.monotonic() - begin > 60:
                raise SystemExit(f"training did not begin within a minute; logs are in {folder}")
            time.sleep(0.2)
        time.sleep(options.warmup)
        before, cpu, begin = steps(metrics), cpu_seconds(between.pid or 0), time.monotonic()
        time.sleep(options.seconds)
        seconds = time.monotonic() - begin
        return {"bench": "network_delay", "config": options.config, "transport": transport, "delay_ms": delay_ms,
                "actors": options.actors, "steps_per_second": round((steps(metrics) - before) / seconds),
                "relay_core_share": round((cpu_seconds(between.pid or 0) - cpu) / seconds, 3)}
    finally:
        for stop in reversed(stops):
            stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 1, 10], help="milliseconds, each way")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10, help="that are measured")
    parser.add_argument("--warmup", type=float, default=4)
    parser.add_argument("--set", action="append", default=[], help="field=value")
    options = parser.parse_args()
    for delay in options.delays:
        for transport in ACTORS:
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(measure(options, transport, delay, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
