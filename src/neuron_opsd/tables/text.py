"""The bytes of a file -> its text. UTF-8 is expected. UTF-16 and CP1252, which Excel writes, are read and named."""

import codecs
import gzip
import logging
import re
import zlib
from pathlib import Path

from neuron_opsd.errors import DataError

logger = logging.getLogger(__name__)

_UTF8_PAIR = re.compile(rb"[\xc3-\xf4][\x80-\xbf]")
_HIGH = re.compile(rb"[\x80-\xff]")
_LETTER = re.compile(rb"[A-Za-z\x80-\xff]")
MAX_HIGH_SHARE = 0.25  # of the letters of a text in a Western language, those outside ASCII


def read_text(path: str, file: Path) -> str:
    """The text of a file, decompressed and decoded.

    Raises:
        DataError: it cannot be read, or is in none of the encodings above. Names the line.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix.lower() == ".gz" else file.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path} is not a readable gzip file. Compress it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    return _decode(path, data)


def _decode(path: str, data: bytes) -> str:
    if encoding := _utf_16(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            raise DataError(f"{path} begins as UTF-16 and is not. Save the file as UTF-8.") from None
        logger.info("%s: read as UTF-16", path)
        return text.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if not _may_be_cp1252(data):
            raise DataError(
                f"{path}:{line} is not UTF-8 (byte 0x{data[error.start]:02x}), nor is the file UTF-16 or CP1252. "
                "Save the file as UTF-8."
            ) from None
        logger.warning(
            "%s: read as CP1252, because line %d is not UTF-8. Look at its accents, or save it as UTF-8",
            path,
            line,
        )
        return data.decode("cp1252")


def _utf_16(data: bytes) -> str | None:
    """The encoding, told by its mark, or without one by the zero bytes beside each Latin letter."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = data[:1000]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(sample) < 8 or max(even, odd) < 0.4 * len(sample) / 2 or min(even, odd) > 0:
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _may_be_cp1252(data: bytes) -> bool:
    """Whether its bytes exist there, are few among the letters, and are no UTF-8 that a transfer has damaged."""
    high = len(_HIGH.findall(data))
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    is_damaged_utf8 = 4 * len(_UTF8_PAIR.findall(data)) > high
    return not is_damaged_utf8 and high <= max(MAX_HIGH_SHARE * len(_LETTER.findall(data)), 1)
