"""Datasets as the Hub has them: parquet files, a card, a record, and the way back.

``spelling.py`` is the text of each id, ``rows.py`` where rows of text begin, ``shards.py`` writes,
``proof.py`` reads what was written, ``back.py`` makes the trainer's files of it again.
"""
