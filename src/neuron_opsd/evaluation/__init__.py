"""Base against trained. The only stage that may read gold answers (`answer_key.py`)."""
