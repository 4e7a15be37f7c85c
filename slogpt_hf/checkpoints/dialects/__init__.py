"""Trainers: names of tensors to roles. One module a dialect."""
