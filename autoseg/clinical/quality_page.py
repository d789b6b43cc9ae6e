"""The quality page of a prepared dataset: one self-contained HTML file, made of a fragment a case."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from autoseg.clinical.exam_preparation import PreparedExam
from autoseg.clinical.quality_pictures import alignment_png, mask_png
from autoseg.clinical.transforms import PreparedCase
from autoseg.report.page import FOOTER, html_page
from autoseg.utils.files import write_text

#: Files of a dataset: the page, and the fragment of each case in its folder.
PAGE, FRAGMENT = "quality.html", "quality_fragment.html"


def case_fragment(prepared: PreparedExam) -> str:
    """What the page shows of one exam: flags, measures and transforms, pictures, and the log."""
    case = prepared.case
    reference = case.series[case.reference].channel or ""
    parts = [f"<section id='{escape(case.case)}'><h2>{escape(case.case)}</h2>"]
    parts += [f"<p class='note'>{escape(flag)}</p>" for flag in case.flags]
    parts.append(_table(case))
    if prepared.mask is not None:
        parts.append(_figure(mask_png(prepared, reference), f"The brain mask on {reference}."))
    for channel in prepared.originals:
        if channel != reference:
            caption = f"{channel} and {reference}: fields of both in turn; the edges of {channel} on {reference}."
            parts.append(_figure(alignment_png(prepared, channel, reference), caption))
    lines = "".join(f"<li>{escape(line)}</li>" for line in prepared.log)
    parts.append(f"<details><summary>Every step</summary><ul>{lines}</ul></details></section>")
    return "".join(parts)


def write_quality_page(dataset: Path, failed: Mapping[str, str], order: Sequence[str]) -> Path:
    """Write the page of a dataset.

    Args:
        dataset: folder, with a fragment in the folder of each case.
        failed: case → what is wrong with it.
        order: names of the cases.

    Returns:
        The file.
    """
    rows = []
    sections = []
    for case in order:
        file = dataset / case / FRAGMENT
        if case in failed:
            rows.append(f"<tr><td>{escape(case)}</td><td>failed</td><td>{escape(failed[case])}</td></tr>")
        elif file.is_file():
            flags = PreparedCase.read(dataset / case).flags
            state = "to be checked" if flags else "nothing found"
            link = f"<a href='#{escape(case)}'>{escape(case)}</a>"
            rows.append(f"<tr><td>{link}</td><td>{state}</td><td>{escape('; '.join(flags))}</td></tr>")
            sections.append(file.read_text(encoding="utf-8"))
    head = "<tr><th>case</th><th></th><th>what to look at</th></tr>"
    title = "Quality of the preparation"
    lead = f"{len(sections)} exam{'' if len(sections) == 1 else 's'} prepared, {len(failed)} failed."
    body = f"<table>{head}{''.join(rows)}</table>{''.join(sections)}{FOOTER}"
    write_text(dataset / PAGE, html_page(title, title, lead, body))
    return dataset / PAGE


def _table(case: PreparedCase) -> str:
    heads = ("series", "channel", "voxels, mm", "turned by, degrees", "moved by, mm", "NMI before", "NMI after")
    rows = []
    for name, stored in case.series.items():
        turned, _ = _motion(stored.to_output)
        measure = stored.measure
        cells = [
            name + (" (reference)" if name == case.reference else ""),
            stored.channel or "",
            "×".join(f"{mm:.3g}" for mm in stored.grid.spacing),
            f"{turned:.2f}",
            f"{measure['moved']:.2f}" if "moved" in measure else "0",
            *(f"{measure[key]:.4f}" if key in measure else "" for key in ("before", "after")),
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    rows += [
        f"<tr><td>copy of {escape(source)}</td><td>{escape(channel)}</td></tr>"
        for channel, source in case.filled.items()
    ]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _motion(matrix: Sequence[float]) -> tuple[float, np.ndarray]:
    """Angle in degrees and translation of a rigid motion."""
    square = np.asarray(matrix).reshape(4, 4)
    cosine = (np.trace(square[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), square[:3, 3]


def _figure(content: bytes, caption: str) -> str:
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return (
        f"<figure class='wide'><img src='{uri}' alt='{escape(caption)}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
