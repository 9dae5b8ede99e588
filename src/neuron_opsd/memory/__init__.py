"""How much memory a run takes at its peak, told before it begins, and the settings that make it fit.

estimate.py      the peak of each stage, from shapes alone
fit.py           the same against what is free, and smaller batches where it is too much
count.py         what a training step or a pass of sampling takes
passes.py        those passes, at their longest
allocations.py   models without contents, and the bytes allocated while one runs
"""
