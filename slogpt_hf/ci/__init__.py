"""The CI at hand: its event, outputs, summary, annotations and masking. Only this room reads it."""
