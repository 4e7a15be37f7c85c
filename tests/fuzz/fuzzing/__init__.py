"""Damaged and hostile inputs for every reader, and what must hold for each of them."""
