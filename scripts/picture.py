"""Make the README's picture: the first screen of a run's report, as a PNG.

    python scripts/picture.py runs/demo docs/pictures/report.png

Needs Chromium or Chrome (Debian: apt install chromium).
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 1060  # CSS pixels: down to the questions whose answer changed


def main() -> None:
    """Take the picture, or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with a report")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    args = parser.parse_args()
    page = args.run / "report.html"
    if not page.is_file():
        sys.exit(f"{page} does not exist. Make it first: neuron-opsd report {args.run}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(
            f"No browser was found. Install one of {', '.join(BROWSERS)} (Debian: apt install chromium)."
        )
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb",
        f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={args.picture.resolve()}", page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not args.picture.is_file():
        sys.exit(f"{browser} made no picture: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    main()
