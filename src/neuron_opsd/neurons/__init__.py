"""Which neurons a model used for its own answer, and whose answers used the same ones."""
