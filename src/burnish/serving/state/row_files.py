"""Files of training rows: a file that cannot contain rows is rejected at its upload."""

import codecs

from burnish.data.readers.encoding import binary_kind
from burnish.serving.errors import invalid

# The only purpose whose files are rows; the others hold whatever they hold.
ROWS = "fine-tune"
# So many first bytes are looked at.
START = 4096


def check_start(purpose: str, start: bytes, param: str) -> None:
    """Reject a file that cannot contain rows; `start` is its first bytes, at most `START`.

    Raises:
        ApiError: 400, it is empty, or no text.
    """
    if purpose != ROWS:
        return
    if len(start) < START and not start.removeprefix(codecs.BOM_UTF8).strip():
        message = "The file is empty. Upload a file with one JSON object on each line."
        raise invalid(message, param, "invalid_file")
    if kind := binary_kind(start):
        message = f"The file is {kind}. Upload JSON Lines, one JSON object on each line, as text."
        raise invalid(message, param, "invalid_file")
