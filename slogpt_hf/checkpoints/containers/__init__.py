"""File layouts: bytes to named values. One module a layout."""
