"""Where the files shipped with the package lie, and where a run's own files go.

In a checkout everything stays inside it. Installed by pip, the shipped files lie in the package, and a run writes below
the folder that it was started in.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent

if (_CHECKOUT / "mask_rcnn_weights" / "SHA256SUMS").is_file():
    ROOT, WEIGHTS_FOLDER, PUBLISHED = _CHECKOUT, _CHECKOUT / "mask_rcnn_weights", _CHECKOUT / "results/published.json"
else:
    ROOT, WEIGHTS_FOLDER, PUBLISHED = Path.cwd(), _PACKAGE / "mask_rcnn_weights", _PACKAGE / "published/published.json"

REFERENCE = PUBLISHED.with_name("reference")
"""Rows of our own runs, a folder a profile; an installation has those of `mini`."""
