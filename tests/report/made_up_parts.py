"""Parts of a made-up run that are no records: preflight, how training ended, a comparison of methods."""

METHODS = ("base", "neuron_opsd", "lmsi", "ttrl")
DOMAINS = ("physics", "art")


def preflight(mark):
    """`mark` makes a text hostile, or leaves it."""
    return {
        "verdict": mark("unlikely to help"),
        "reasons": [mark("the teacher says what the student says (KL 0.001)")],
        "measures": [
            {
                "name": "entropy_change",
                "label": mark("Entropy change"),
                "value": -0.0102,
                "low": -0.0153,
                "high": -0.0049,
                "note": mark("A good sign below -0.005."),
            },
            {
                "name": "pool_diversity",
                "label": "Pool diversity",
                "value": 0.6512,
                "low": None,
                "high": None,
                "note": "",
            },
        ],
    }


def training_summary(mark):
    return {
        "stopped_because": mark("completion length (tokens): 42 over the first rows, 90 over the last"),
        "stop_step": 20,
        "best_step": 10,
        "limits": {"completion_tokens_mean": [21.0, 84.0], "grad_norm": [None, 10.0]},
    }


def comparison(mark):
    """Four methods, two training domains, two test domains."""
    cells = [
        _cell(method, source, target, 10 * m + 3 * s + t)
        for m, method in enumerate(METHODS)
        for s, source in enumerate(DOMAINS if m else (None,))
        for t, target in enumerate(DOMAINS)
    ]
    return {
        "metrics": [
            {"name": "avg", "label": "Avg@8", "better": "higher"},
            {"name": "ece", "label": "ECE-15", "better": "lower"},
            {"name": "tokens", "label": "Tokens", "better": "neither"},
        ],
        "methods": [{"name": m, "label": mark(m.upper()), "note": mark("a remark")} for m in METHODS],
        "cells": [
            {**c, "source": c["source"] and mark(c["source"]), "target": mark(c["target"])} for c in cells
        ],
        "summary": [
            {"method": method, "place": place, "metrics": _metrics(7 * m + p)}
            for m, method in enumerate(METHODS)
            for p, place in enumerate(("in", "cross"))
            if m or place == "in"
        ],
        "notes": [mark("Two seeds each.")],
    }


def _cell(method, source, target, index):
    bins = [
        {
            "low": low / 2,
            "high": low / 2 + 0.5,
            "count": 10 + index * low,
            "confidence": 0.3 + low / 2,
            "accuracy": 0.35,
        }
        for low in (0, 1)
    ]
    return {
        "method": method,
        "source": source,
        "target": target,
        "num_seeds": 2,
        "metrics": _metrics(index),
        "reliability": {"vote_share": bins, "option_probability": bins[::-1]},
    }


def _metrics(index):
    accuracy, error = 0.4 + 0.011 * index, 0.2 - 0.003 * index
    return {
        "avg": {"value": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05},
        "ece": {"value": error, "low": error - 0.02, "high": error + 0.02},
        "tokens": {"value": 100.0 + index, "low": None, "high": None},
    }
