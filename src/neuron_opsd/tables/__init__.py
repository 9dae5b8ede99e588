"""Tables as people have them: a file or a data set -> rows of named cells. Knows no question and no answer.

`read.py` picks the reader by the file's name, `columns.py` knows the names that columns have, and `choices.py` the
shapes in which choices are written. Questions and evaluation read their files through them, each for itself.
"""
