"""How many test questions a difference needs, and what our sizes can see (docs/results.md).

    python experiments/power.py [--changed .06 .12 .25] [--seeds 1 3]

Both models answer the same questions. A question's correctness goes up with probability u and down with d; the
paired difference u - d has the standard error sqrt((u + d - (u - d)^2) / n). `--changed` is u + d. 80 % power at
5 %, two-sided, needs a standard error of difference / 2.8. Seeds that share test questions average what training and
sampling do to a question, not which questions were drawn: with s seeds the changed share is taken to be
c (rho + (1 - rho) / s), rho = .5 (an assumption).
"""

# ruff: noqa: T201
import argparse
import math

Z = 2.8  # 1.96 + .84
RHO = 0.5


def standard_error(num_questions: int, changed: float, difference: float, seeds: int) -> float:
    """Of the paired difference, in the unit of accuracy."""
    share = changed * (RHO + (1 - RHO) / seeds)
    return math.sqrt(max(share - difference**2, 0.0) / num_questions)


def questions_needed(changed: float, difference: float, seeds: int) -> int:
    """Test questions for 80 % power at 5 %."""
    share = changed * (RHO + (1 - RHO) / seeds)
    return math.ceil((Z / difference) ** 2 * max(share - difference**2, 0.0))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--changed", type=float, nargs="+", default=[0.06, 0.12, 0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3])
    arguments = parser.parse_args()
    print("Test questions needed for 80 % power at 5 %:\n")
    print("| answers that change | seeds | 1 point | 2 points | 3 points | 5 points |")
    print("|---|---|---|---|---|---|")
    for changed in arguments.changed:
        for seeds in arguments.seeds:
            cells = [str(questions_needed(changed, points / 100, seeds)) for points in (1, 2, 3, 5)]
            print(f"| {changed:.0%} | {seeds} | " + " | ".join(cells) + " |")
    print("\nSmallest difference seen with 80 % power, in points:\n")
    sizes = (40, 100, 300, 365, 600, 1200)
    print("| answers that change | seeds | " + " | ".join(f"n = {n}" for n in sizes) + " |")
    print("|---|---|" + "---|" * len(sizes))
    for changed in arguments.changed:
        for seeds in arguments.seeds:
            cells = [f"{100 * Z * standard_error(n, changed, 0.0, seeds):.1f}" for n in sizes]
            print(f"| {changed:.0%} | {seeds} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
