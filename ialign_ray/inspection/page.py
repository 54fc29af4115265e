"""A report as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ialign_ray.inspection import terminal
from ialign_ray.inspection.lengths import LONGEST, Histogram, bar_width
from ialign_ray.inspection.quality import MEASURES
from ialign_ray.inspection.report import Report
from ialign_ray.inspection.rows import visible
from ialign_ray.pages import themed
from ialign_ray.storage import write_text

SHOWN = 3_000
"""Characters of a text that the page shows at most."""


def write_page(report: Report, path: Path) -> Path:
    """Write the page; the file is there whole or not at all."""
    write_text(path, render_page(report))
    return path


def render_page(report: Report) -> str:
    """The page as HTML. Whatever comes from the data is escaped."""
    environment = themed("ialign_ray.inspection")
    environment.filters |= {
        "shown": lambda text: terminal.clipped(text, SHOWN),
        "visible": visible,
    }
    template = environment.get_template("page.html.j2")
    return template.render(
        r=report,
        measures=MEASURES,
        longest=LONGEST,
        cell=terminal.step_cell,
        remarks=terminal.remarks,
        share=terminal.share,
        charts=[charts(list(corpus_report.lengths.texts.values())) for corpus_report in report.corpora],
    )


def charts(histograms: Sequence[Histogram]) -> tuple[int, list[list[tuple[int, float, str]]]]:
    """Return (characters per bar, per histogram its bars: texts, height in per cent, tooltip)."""
    width, count = bar_width(histograms)
    return width, [_bars(h, width, count) for h in histograms]


def _bars(histogram: Histogram, width: int, count: int) -> list[tuple[int, float, str]]:
    bars = histogram.bars(width, count)
    most = max([*bars, 1])
    ends = [f"{k * width:,} to {(k + 1) * width - 1:,}" for k in range(count - 1)] + [
        f"{(count - 1) * width:,} or more"
    ]
    # a bar of one text among ten thousand must still be seen
    return [(n, max(100 * n / most, 2.0) if n else 0.0, f"{end} characters: {n:,}") for n, end in zip(bars, ends)]
