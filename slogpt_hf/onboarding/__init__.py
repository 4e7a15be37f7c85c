"""Starting to release: what a repository holds, and the files that its CI needs."""
