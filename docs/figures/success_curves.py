#!/usr/bin/env python3
"""Draws success against environment steps of several runs into an SVG. Needs nothing but Python.

    docs/figures/success_curves.py OUT.svg 'with the reward=runs/a,runs/b' 'extrinsic only=runs/c,runs/d'
"""
import glob
import struct
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 340, 52, 44, 34, 16
COLOURS = ["#1f5fa8", "#b5422c", "#4b8b3b", "#7a4f9e"]


def fields(data):
    """(number, value) of each field of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            yield key >> 3, data[at:at + size]
            at += size


def curve(run, tag):
    """[(step, value)] of one curve in a run's event files (RUN/curves)."""
    points = []
    for path in sorted(glob.glob(f"{run}/curves/*")):
        data = open(path, "rb").read()
        at = 0
        while at + 12 <= len(data):
            size, = struct.unpack_from("<Q", data, at)
            event = dict(fields(data[at + 12:at + 12 + size]))
            at += 16 + size
            for _, value in fields(event.get(5, b"")):
                entry = dict(fields(value))
                if entry.get(1, b"").decode() == tag:
                    points.append((event.get(2, 0), struct.unpack("<f", entry.get(2, bytes(4)))[0]))
    return points


def main():
    out, groups = sys.argv[1], [argument.split("=", 1) for argument in sys.argv[2:]]
    curves = [(name, [curve(run, "episode/success_rate") for run in runs.split(",")]) for name, runs in groups]
    most = max(step for _, runs in curves for run in runs for step, _ in run)
    x = lambda step: LEFT + step / most * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - TOP)
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
           f'font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for value in (0, 0.25, 0.5, 0.75, 0.9, 1):
        svg.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for i in range(5):
        step = most * i / 4
        svg.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step / 1e6:.1f}M</text>')
    svg.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">environment steps</text>')
    for i, (name, runs) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        svg.append(f'<text x="{LEFT + 4 + i * 330}" y="20" fill="{colour}">{name} ({len(runs)} seeds)</text>')
        for run in runs:
            line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in run)
            svg.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    svg.append("</svg>")
    open(out, "w").write("\n".join(svg) + "\n")


main()
