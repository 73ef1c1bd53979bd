"""What a batch job says when it is through: a summary for the terminal, ``report.json`` and ``report.html``.

Rules:
    * The report is made of the commits, so it is of the whole job, also of what earlier runs did of it.
    * It is not the output: nothing in it decides anything, it may differ between two drivers of one job, and a report
      that cannot be made does not fail a job whose rows are all there. What is missing in it is said in it.
    * Bytes that were no usable image are looked at in a process of their own, within limits, and those that killed a
      worker not at all.
"""

from __future__ import annotations

from cluster.report.summary import Summary, Tally

__all__ = ["Summary", "Tally"]
