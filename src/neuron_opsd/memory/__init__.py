"""How much memory a run takes at its peak, told before it begins, and the settings that make it fit.

    estimate.py   the peak of each stage, from shapes alone
    fit.py        the same against what is free, and smaller batches where it is too much

`training/estimate.py` counts a training step.
"""
