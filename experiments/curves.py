"""Learning curves: reading them from a run's folder, putting seeds together, drawing."""
import base64
import io
import struct
from pathlib import Path
from typing import Any, Iterator

Points = list[tuple[int, float]]  # (environment step, value), steps rising


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message."""
    at = 0

    def varint() -> int:
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
            yield key >> 3, data[at : at + size]
            at += size


def read(run: Path, tag: str) -> Points:
    """One curve of a run's TensorBoard files (RUN/curves). Where a resumed run went over the same steps again, the later
    values hold."""
    points: dict[int, float] = {}
    for path in sorted((run / "curves").glob("*"), key=lambda p: p.stat().st_mtime):
        data = path.read_bytes()
        at = 0
        first = True
        while at + 12 <= len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            if at + 16 + size > len(data):
                break  # being written
            event = dict(fields(data[at + 12 : at + 12 + size]))
            at += 16 + size
            for _, value in fields(event.get(5, b"")):
                entry = dict(fields(value))
                if entry.get(1, b"").decode() != tag:
                    continue
                step = event.get(2, 0)
                if first:
                    points = {s: v for s, v in points.items() if s < step}
                    first = False
                points[step] = struct.unpack("<f", entry.get(2, bytes(4)))[0]
    return sorted(points.items())


def first_reached(points: Points, goal: float) -> int | None:
    """The first step at which the curve is at the goal, and still is at its next point."""
    for (step, value), (_, after) in zip(points, points[1:]):
        if value >= goal and after >= goal:
            return step
    return None


def at(points: Points, step: int) -> float | None:
    """The curve's value at a step, straight between points; None before the first, the last value behind the last."""
    before = None
    for x, y in points:
        if x >= step:
            if x == step:
                return y
            if before is None:
                return None
            share = (step - before[0]) / (x - before[0])
            return before[1] + share * (y - before[1])
        before = (x, y)
    return None if before is None else before[1]


def together(runs: list[Points], grid: list[int]) -> list[tuple[int, float, float, float]]:
    """(step, mean, lowest, highest) over the runs that have begun at each step of the grid."""
    rows = []
    for step in grid:
        values = [v for v in (at(points, step) for points in runs) if v is not None]
        if values:
            rows.append((step, sum(values) / len(values), min(values), max(values)))
    return rows


def draw(plan: Any, results: list[dict[str, Any]], out: Path) -> str:
    """Draws the runs in `results`, whose folders are in `out`, into out/curves.png. The picture's base64."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: dict[str, list[tuple[Any, list[Points]]]] = {}  # by panel
    for curve in plan.curves:
        own = [read(out / f"{curve.name}-{r['seed']}", plan.tag) for r in results if r["curve"] == curve.name]
        own = [points for points in own if points]
        if own:
            drawn.setdefault(curve.panel, []).append((curve, own))
    # Of a curve's label, whatever else is in its panel.
    labels = list(dict.fromkeys(curve.label for curve in plan.curves))
    across = 1 if len(drawn) <= 1 else 2
    down = -(-max(1, len(drawn)) // across)
    figure, grid_axes = pyplot.subplots(down, across, figsize=(9, 4.8 if down == 1 else 2.4 * down), dpi=120, squeeze=False)
    for axes in grid_axes.flat[len(drawn):]:
        if drawn:
            axes.set_axis_off()
    for axes, (panel, lines) in zip(grid_axes.flat, drawn.items()):
        most = max(points[-1][0] for _, own in lines for points in own)
        for curve, own in lines:
            # On to the picture's end, or the curve's own budget, where a run was stopped behind the goal.
            grid = [round(i * min(most, curve.steps) / 400) for i in range(401)]
            rows = together(own, grid)
            steps = [row[0] / 1e6 for row in rows]
            means, lowest, highest = ([row[i] for row in rows] for i in (1, 2, 3))
            ended = max(points[-1][0] for points in own)
            n = sum(row[0] <= ended for row in rows)  # what lies behind is drawn on, not measured
            colour = f"C{labels.index(curve.label)}"
            axes.plot(steps[:n], means[:n], color=colour, label=f"{curve.label} ({len(own)})")
            axes.fill_between(steps[:n], lowest[:n], highest[:n], color=colour, alpha=0.18, linewidth=0)
            axes.plot(steps[max(0, n - 1):], means[max(0, n - 1):], color=colour, linestyle=":", linewidth=1)
        axes.set_title(panel or plan.title)
        axes.legend(loc="best", title=None if panel else "seeds in brackets", fontsize="small" if panel else None)
    for axes in grid_axes.flat:
        if plan.goal is not None:
            axes.axhline(plan.goal, color="#888", linewidth=0.8, linestyle=":")
        if plan.tag == "episode/success_rate":
            axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel({"episode/success_rate": "success", "episode/return": "return"}.get(plan.tag, plan.tag))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
    for axes in grid_axes[-1]:
        axes.set_xlabel("environment steps, millions")
    if list(drawn) != [""]:
        figure.suptitle(f"{plan.title}; seeds in brackets")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    pyplot.close(figure)
    (out / "curves.png").write_bytes(picture.getvalue())
    return base64.b64encode(picture.getvalue()).decode()
